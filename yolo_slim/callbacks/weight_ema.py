"""Exponential moving average of the weights, with a ramp."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim.swa_utils import AveragedModel


class WeightEMA(WeightAveraging):
    """Keeps an exponential moving average of parameters and buffers; validation and checkpoints use the average.

    After ``n`` optimizer steps the average keeps ``decay * (1 - exp(-n / tau))`` of itself, so that early averages
    follow the weights closely. Unlike its base class, the average is made when the fit starts, after a checkpoint has
    been loaded and a pruned structure rebuilt, and it is dropped when the fit ends: the callback can be used for
    several fits, with surgery between them, and a later ``validate`` sees the weights that it is given.

    Args:
        decay: Share of the average that is kept per step in the long run, in [0, 1).
        tau: Time constant of the ramp in optimizer steps, above 0.

    Raises:
        MisconfigurationException: If an argument is out of range.
    """

    def __init__(self, decay: float = 0.9999, tau: float = 2000.0) -> None:
        if not 0 <= decay < 1:
            raise MisconfigurationException(f"decay={decay} is out of range; expected 0 <= decay < 1")
        if not tau > 0:
            raise MisconfigurationException(f"tau={tau} is out of range; expected a number of steps above 0")
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay = decay
        self.tau = tau
        self._swapped = False

    @property
    def average_model(self) -> torch.nn.Module | None:
        """The averaged copy of the LightningModule during a fit, else None."""
        return None if self._average_model is None else self._average_model.module

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the average of an earlier fit."""
        self._average_model = None
        if stage == "fit":
            self._latest_update_step = 0
            self._latest_update_epoch = -1

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes up the average of a checkpoint when a fit is resumed."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._start(pl_module)
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the average from the weights as they are now, equal on all ranks."""
        if self._average_model is None:
            self._start(pl_module)
        else:
            self._average_model.to(pl_module.device)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the average into ``state_dict`` and the weights in training beside it."""
        if self._average_model is not None:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drops the average."""
        self._average_model = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the average in."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the weights in training back in."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the module its own weights back when a validation is interrupted."""
        if self._swapped:
            self.on_validation_epoch_end(trainer, pl_module)

    def _start(self, pl_module: LightningModule) -> None:
        self._average_model = AveragedModel(
            pl_module, device=pl_module.device, use_buffers=self._use_buffers, **self._kwargs
        )
        # At zero the first update would copy the weights instead of averaging them.
        self._average_model.n_averaged.fill_(1)

    def _average(self, averages: list[Tensor], currents: list[Tensor], updates: Tensor | int) -> None:
        decay = self.decay * (1 - math.exp(-float(updates) / self.tau))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, currents, 1 - decay)
        else:
            torch._foreach_copy_(averages, currents)
