"""Lets Ultralytics' own launcher start two training processes on CPUs, which it does for accelerators only.

Importing this changes four things and nothing else: a trainer counts two processes, they talk through gloo instead of
NCCL, DDP is not told the indices of GPUs, and the last validation takes the CPU instead of the current GPU. The
launched processes import it when they read their callbacks, of which :func:`record` is one.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed
from torch import nn
from ultralytics.engine import validator
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import LOCAL_RANK, RANK
from ultralytics.utils.torch_utils import unwrap_model

#: Names the folder that :func:`record` writes to.
RECORDS = "STOCK_RECORDS"
_initialise, _parallel = BaseTrainer.__init__, nn.parallel.DistributedDataParallel


def _count_two(self: Any, *args: Any, **kwargs: Any) -> None:
    _initialise(self, *args, **kwargs)
    self.world_size, self.ddp = 2, LOCAL_RANK == -1


def _set_up_gloo(self: Any) -> None:
    torch.distributed.init_process_group("gloo", rank=RANK, world_size=self.world_size)


class _ParallelOnCPU(_parallel):
    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)


def _on_cpu(**kwargs: Any) -> AutoBackend:
    return AutoBackend(**{**kwargs, "device": torch.device("cpu")})


BaseTrainer.__init__ = _count_two
BaseTrainer._setup_ddp = _set_up_gloo
nn.parallel.DistributedDataParallel = _ParallelOnCPU
validator.AutoBackend = _on_cpu
validator.get_torch_device_backend = lambda kind: SimpleNamespace(current_device=lambda: 0)


def record(trainer: Any) -> None:
    """Callback: what this process trains, and how."""
    assert isinstance(trainer.model, _parallel)
    torch.save(
        {
            "trainer": f"{type(trainer).__module__}.{type(trainer).__name__}",
            "world_size": torch.distributed.get_world_size(),
            "images": len(trainer.train_loader.sampler),
            "weights": unwrap_model(trainer.model).state_dict(),
        },
        Path(os.environ[RECORDS]) / f"epoch{trainer.epoch}_rank{RANK}.pt",
    )
