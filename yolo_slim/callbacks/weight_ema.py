"""Exponential moving average of the weights, with a ramp."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from yolo_slim.callbacks.framework import (
    Callback,
    LightningModule,
    MisconfigurationException,
    Trainer,
    rank_zero_warn,
)
from yolo_slim.callbacks.taken_steps import TakenSteps


class WeightEMA(Callback):
    """Keeps an exponential moving average of parameters and buffers; validation and checkpoints use the average.

    After ``n`` optimizer steps the average keeps ``decay * (1 - exp(-n / tau))`` of itself, so that early averages
    follow the weights closely. With a ``tau`` that is meant for long fits, that of a short one ends before it has
    averaged over more than a step; ``auto`` knows how long the fit is. Unlike Lightning's ``WeightAveraging``, it makes
    the average when the fit starts, after a checkpoint has been loaded, a pruned structure rebuilt and the ranks made
    equal, and drops it when the fit ends: the callback can be used for several fits, with surgery between them, and a
    later ``validate`` sees the weights that it is given. Checkpoints are laid out as Lightning's: ``state_dict`` is the
    average, ``current_model_state`` the weights in training.

    Statistics of BatchNorm differ between the ranks of a distributed fit; those of rank 0, which writes the
    checkpoints, are everybody's when the average is validated and when it becomes the module's weights.

    Args:
        decay: Share of the average that is kept per step in the long run, in [0, 1).
        tau: Time constant of the ramp in optimizer steps, above 0. ``auto``, the default, has the average reach over
            the last twentieth of the fit at its end, and is at most 2000: in fits of some 14,000 steps and more, and
            in those of unknown length, it is Ultralytics' average.

    Raises:
        MisconfigurationException: If an argument is out of range.
    """

    #: The time constant of fits that are long enough, and the share of a shorter one that its last average is over.
    LONGEST_TAU, LAST_SHARE = 2000.0, 0.05

    def __init__(self, decay: float = 0.9999, tau: float | Literal["auto"] = "auto") -> None:
        if not 0 <= decay < 1:
            raise MisconfigurationException(f"decay={decay} is out of range; expected 0 <= decay < 1")
        if tau != "auto" and (isinstance(tau, str) or not tau > 0):
            raise MisconfigurationException(f"tau={tau} is out of range; expected a number of steps above 0, or auto")
        self.decay = decay
        self.tau = tau
        self._tau = self.LONGEST_TAU if tau == "auto" else tau
        # Called as in Lightning's callback, so that others find the average where they look for that one's.
        self._average_model: AveragedModel | None = None
        self._swapped = False
        self._latest_update_step = 0
        self._kept = 0.0  # share of the average that a step leaves
        self._steps: TakenSteps | None = None

    @property
    def average_model(self) -> torch.nn.Module | None:
        """The averaged copy of the LightningModule; None outside a fit and while the module holds it."""
        return None if self._average_model is None or self._swapped else self._average_model.module

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the average of an earlier fit."""
        self._average_model = None
        self._swapped = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes up the average of a checkpoint when a fit is resumed."""
        if trainer.state.fn != "fit":
            return
        average = self._start(pl_module)
        if {"current_model_state", "averaging_state"} <= checkpoint.keys():
            averaged = {f"module.{name}": value for name, value in checkpoint["state_dict"].items()}
            average.load_state_dict(averaged | checkpoint["averaging_state"])
            pl_module.load_state_dict(checkpoint["current_model_state"])
        else:
            rank_zero_warn("WeightEMA: the checkpoint holds no average; it starts from the weights of the checkpoint.")
            average.module.load_state_dict(checkpoint["state_dict"], strict=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the average from the weights as they are now, equal on all ranks."""
        if self._average_model is None:
            self._start(pl_module)
        else:
            self._average_model.to(pl_module.device)
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()
        self._steps = TakenSteps(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from the steps that a Trainer has taken in earlier fits, and finds out how long this one is."""
        if self.tau == "auto":
            self._tau = ramp_of(float(trainer.estimated_stepping_batches), self.LAST_SHARE, self.LONGEST_TAU)
        self._latest_update_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Averages after an optimizer step, but not after one that a gradient scaler has skipped."""
        if self._average_model is not None and self._steps is not None and self._steps.passed():
            self._kept = self.decay * (1 - math.exp(-int(self._average_model.n_averaged) / self._tau))
            self._average_model.update_parameters(pl_module)
            self._latest_update_step = trainer.global_step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the average in."""
        if self._average_model is not None:
            self._share_buffers(self._average_model)
            self._swap(self._average_model, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the weights in training back in."""
        if self._average_model is not None:
            self._swap(self._average_model, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the module the average; the weights in training are kept for checkpoints that are still to come."""
        if self._average_model is not None:
            self._share_buffers(self._average_model)
            self._swap(self._average_model, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the average into ``state_dict`` and the weights in training beside it."""
        if self._average_model is None:
            return
        kept = self._average_model.state_dict()
        other = {name.removeprefix("module."): v for name, v in kept.items() if name.startswith("module.")}
        average, trained = (checkpoint["state_dict"], other) if self._swapped else (other, checkpoint["state_dict"])
        checkpoint["state_dict"], checkpoint["current_model_state"] = average, trained
        checkpoint["averaging_state"] = {name: v for name, v in kept.items() if not name.startswith("module.")}

    def state_dict(self) -> dict[str, Any]:
        """The last step that was averaged, as Lightning's callback wants it; this one reads the Trainer's count."""
        return {"latest_update_step": self._latest_update_step}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Drops the average."""
        self._average_model = None
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the module its own weights back when a validation is interrupted."""
        if self._swapped and (trainer.validating or trainer.sanity_checking):
            self.on_validation_epoch_end(trainer, pl_module)
        self._stop()

    def _stop(self) -> None:
        if self._steps is not None:
            self._steps.stop()
            self._steps = None

    def _start(self, pl_module: LightningModule) -> AveragedModel:
        # An average of 16 bits would stand still: a step moves it by less than its last digit.
        half = any(p.dtype in (torch.float16, torch.bfloat16) for p in pl_module.parameters())
        how: dict[str, Any] = {"avg_fn": self._average_one} if half else {"multi_avg_fn": self._average_many}
        average = AveragedModel(pl_module, device=pl_module.device, use_buffers=True, **how)
        # At zero the first update would copy the weights instead of averaging them. On the CPU, since each step reads
        # it and would wait for a GPU.
        average.n_averaged = torch.tensor(1)
        if half:
            average.module.float()
        self._average_model = average
        return average

    def _swap(self, average: AveragedModel, pl_module: LightningModule) -> None:
        averaged = chain(average.module.parameters(), average.module.buffers())
        for mine, theirs in zip(averaged, chain(pl_module.parameters(), pl_module.buffers()), strict=True):
            kept = mine.data.clone()
            mine.data.copy_(theirs.data)
            theirs.data.copy_(kept)
        self._swapped = not self._swapped

    @staticmethod
    def _share_buffers(average: AveragedModel) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for buffer in average.module.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _average_many(self, averages: list[Tensor], currents: list[Tensor], updates: Tensor | int) -> None:
        if averages[0].is_floating_point():
            get_ema_multi_avg_fn(self._kept)(averages, currents, updates)
        else:
            for average, current in zip(averages, currents, strict=True):
                average.copy_(current)

    def _average_one(self, average: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        """The same for one tensor whose average has more digits."""
        if not average.is_floating_point():
            return current
        return average.lerp(current.to(average.dtype), 1 - self._kept)


def ramp_of(steps: float, share: float, longest: float) -> float:
    """The time constant with which an average is over the last ``share`` of a fit when it ends.

    After n steps it keeps 1 - exp(-n / tau) of itself, and so reaches over exp(n / tau) steps.

    Args:
        steps: Optimizer steps of the fit; infinite where that is not known.
        share: Of them, in (0, 1).
        longest: The most that it can be, in steps.

    >>> [round(ramp_of(steps, 0.1, 2000.0)) for steps in (300, 3000, 30000)]
    [88, 526, 2000]
    """
    return min(longest, steps / math.log(max(steps * share, math.e))) if 0 < steps < math.inf else longest
