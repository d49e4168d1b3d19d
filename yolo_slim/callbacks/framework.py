"""The Lightning that is installed: ``lightning``, or ``pytorch_lightning``, which has the same classes once more.

Every name of Lightning's and of torch's optimizers that the callbacks use and that is not promised to stay is here;
``tests/callbacks/test_framework.py`` says what breaks when one of them changes.

The callbacks take their base class from the one that the program has imported already, else from the one that is
installed, ``lightning`` first. What they are given may come from the other one, so that nothing here and in them asks
for the class of a Trainer or a strategy, only for its name.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import nn
from torch.nn.utils import get_total_norm
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
    from lightning.pytorch.plugins.precision import Precision
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
else:
    _name = find_package()
    _package = import_module(_name)
    Callback, LightningModule, Trainer = _package.Callback, _package.LightningModule, _package.Trainer
    lightning_version = _package.__version__
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
    "apply_to_collection",
    "averaged_modules",
    "callbacks_of",
    "check_strategy",
    "hparams_name",
    "lightning_version",
    "overflowed",
    "rank_zero_info",
    "rank_zero_warn",
    "rehearsed",
    "unclipped_precision",
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
    return bool(gradients) and not bool(get_total_norm(gradients).isfinite())


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a Trainer, in their order."""
    return trainer.callbacks  # type: ignore[attr-defined, no-any-return]


def averaged_modules(trainer: Trainer) -> Iterator[nn.Module]:
    """The averaged copies of the module that callbacks keep: ours, and those of Lightning's ``WeightAveraging``."""
    for callback in callbacks_of(trainer):
        average = getattr(callback, "average_model", None)
        if average is None:
            average = getattr(getattr(callback, "_average_model", None), "module", None)
        if average is not None:
            yield average


def hparams_name(pl_module: LightningModule) -> str | None:
    """Name of the argument by which a module takes its hyper-parameters as a whole, where it does."""
    return getattr(pl_module, "_hparams_name", None)


def loads_as_it_is(pl_module: LightningModule) -> bool:
    """Whether a module leaves checkpoints alone: ``on_load_checkpoint`` is Lightning's own, which does nothing."""
    return type(pl_module).on_load_checkpoint.__qualname__ == "CheckpointHooks.on_load_checkpoint"


def unclipped_precision() -> Precision:
    """Full precision that also makes clipping in a module's own ``configure_gradient_clipping`` a no-op."""
    return _Unclipped()


class _Unclipped(Precision):
    def _clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        pass


def rehearsed(trainer: Trainer, optimizer: Optimizer, groups: list[dict[str, Any]]) -> list[tuple[Any, str, int]]:
    """Copies of a Trainer's learning-rate schedulers that act on other parameter groups than the optimizer's own.

    Those that wait for a metric are left out: their rates count as constant.

    Args:
        trainer: A Trainer whose fit is about to take its first step.
        optimizer: Its optimizer.
        groups: What takes the place of its parameter groups.

    Returns:
        For each its scheduler, ``epoch`` or ``step``, and its frequency.
    """

    def step() -> None:
        pass

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    actor = SimpleNamespace(param_groups=groups, defaults=optimizer.defaults, step=step, _opt_called=True)
    copies = []
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            continue
        # A schedule may be a method of the module: neither it nor the Trainer is to be copied.
        shared = {id(optimizer): actor, id(trainer): trainer, id(trainer.lightning_module): trainer.lightning_module}
        copies.append((copy.deepcopy(config.scheduler, shared), config.interval, config.frequency))
    return copies
