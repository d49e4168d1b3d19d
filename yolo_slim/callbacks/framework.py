"""The Lightning that is installed: ``lightning``, or ``pytorch_lightning``, which has the same classes once more.

The callbacks take their base class from the one that the program has imported already, else from the one that is
installed, ``lightning`` first. What they are given may come from the other one, so that nothing here and in them asks
for the class of a Trainer or a strategy, only for its name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def find_package() -> str:
    """The package whose classes are used.

    Raises:
        ImportError: If neither is installed.
    """
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            # Where something else is missing, the installation is broken and has to say so itself.
            if error.name not in {"lightning", *PACKAGES}:
                raise
        else:
            return name
    raise ImportError("yolo_slim.callbacks needs Lightning: pip install 'lightning>=2.6'")


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch import __version__ as lightning_version
    from lightning.pytorch.callbacks import WeightAveraging
    from lightning.pytorch.plugins.precision import Precision
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
else:
    _name = find_package()
    _package = import_module(_name)
    Callback, LightningModule, Trainer = _package.Callback, _package.LightningModule, _package.Trainer
    lightning_version = _package.__version__
    WeightAveraging = import_module(f"{_name}.callbacks").WeightAveraging
    Precision = import_module(f"{_name}.plugins.precision").Precision
    MisconfigurationException = import_module(f"{_name}.utilities.exceptions").MisconfigurationException
    _rank_zero = import_module(f"{_name}.utilities.rank_zero")
    rank_zero_info, rank_zero_warn = _rank_zero.rank_zero_info, _rank_zero.rank_zero_warn

__all__ = [
    "Callback",
    "LightningModule",
    "MisconfigurationException",
    "Precision",
    "Trainer",
    "WeightAveraging",
    "check_strategy",
    "lightning_version",
    "overflowed",
    "rank_zero_info",
    "rank_zero_warn",
]


def check_strategy(trainer: Trainer, asker: str, spawned: bool = True) -> None:
    """Refuses a strategy under which a process does not hold the whole model.

    Args:
        trainer: The Trainer of the fit.
        asker: Name of the callback that asks.
        spawned: Whether the fit may run in processes that end with it; what they do to the network's structure never
            reaches the one that started them.

    Raises:
        MisconfigurationException: If the strategy is none of those for one device and DDP, or starts such processes.
    """
    strategy: Any = trainer.strategy
    name = type(strategy).__name__
    if not {"SingleDeviceStrategy", "DDPStrategy"} & {c.__name__ for c in type(strategy).__mro__}:
        raise MisconfigurationException(
            f"{asker} does not work with {name}, which shards or copies parameters its own way; use strategy='auto' "
            "or 'ddp'"
        )
    start = getattr(strategy, "_start_method", "popen")
    if start != "popen" and not spawned:
        raise MisconfigurationException(
            f"{asker} does not work with {name}(start_method={start!r}): the smaller network would stay in the "
            "processes that are started; use strategy='ddp' or devices=1"
        )


def overflowed(trainer: Trainer, optimizer: Optimizer) -> bool:
    """Whether the gradient scaler of mixed precision will skip this step, because a gradient is infinite or NaN.

    For ``on_before_optimizer_step``, when the gradients are unscaled; nothing is computed where there is no scaler.
    """
    if trainer.scaler is None:
        return False
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return bool(gradients) and not bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all())
