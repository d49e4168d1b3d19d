"""Record on CPUs with ``sync_batchnorm``: the layers and DDP want a GPU, so each process normalises by itself."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.helpers.ddp.record import Record

nn.SyncBatchNorm.forward = _BatchNorm.forward  # type: ignore[method-assign]
nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = lambda *given: None  # type: ignore[method-assign]


class SyncedRecord(Record):
    """Fails unless the layers have been converted."""

    def on_train_start(self, trainer, pl_module) -> None:
        assert any(isinstance(module, nn.SyncBatchNorm) for module in pl_module.modules())
