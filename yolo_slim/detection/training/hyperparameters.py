"""How a detector is trained: Ultralytics' hyper-parameters under Ultralytics' names."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Names that Ultralytics knows, in any case.
OPTIMIZERS = ("SGD", "MuSGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "auto")


@dataclass
class Hyperparameters:
    """Optimizer, schedule and loss of a fit.

    Raises:
        ValueError: If a value is out of range.
    """

    optimizer: str = "auto"
    """SGD, MuSGD, Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, or auto: chosen by the number of steps and classes."""
    lr0: float = 0.01
    """Rate after the warm-up (SGD 1e-2, AdamW 1e-3). ``optimizer: auto`` sets its own."""
    lrf: float = 0.01
    """Rate at the end of the fit as a share of lr0, in (0, 1]."""
    momentum: float = 0.937
    """SGD's momentum or Adam's first beta, in [0, 1)."""
    weight_decay: float = 0.0005
    """L2 penalty of the convolution weights for one nominal batch, at least 0."""
    warmup_epochs: float = 3.0
    """Epochs over which rate, momentum and accumulation ramp up; fractions are allowed."""
    warmup_momentum: float = 0.8
    """Momentum at the first step, in [0, 1)."""
    warmup_bias_lr: float = 0.1
    """Rate of the biases at the first step; falls to lr0 during the warm-up."""
    cos_lr: bool = False
    """Rates fall along a cosine instead of a line."""
    nbs: int = 64
    """Nominal batch size in images: smaller batches are accumulated up to it. Equal to the batch: a step per batch."""
    box: float = 7.5
    """Gain of the box loss."""
    cls: float = 0.5
    """Gain of the classification loss."""
    dfl: float = 1.5
    """Gain of the distribution focal loss."""
    cls_pw: float = 0.0
    """Weight of rare classes, in [0, 1]: their inverse frequency to this power; 0 weighs all alike."""
    freeze: int | list[int | str] | None = None
    """Layers that stay as they are: the first N, or a list of indices or names such as ``22.cv2``."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.optimizer.lower() not in [name.lower() for name in OPTIMIZERS]:
            raise ValueError(f"hyp.optimizer={self.optimizer!r} is unknown; expected one of {', '.join(OPTIMIZERS)}")
        if not 0 <= self.cls_pw <= 1:
            raise ValueError(f"hyp.cls_pw={self.cls_pw} is out of range; expected a power from 0 to 1")
        for name in ("lr0", "nbs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"hyp.{name}={getattr(self, name)} is out of range; expected a number above 0")
        if not 0 < self.lrf <= 1:
            raise ValueError(f"hyp.lrf={self.lrf} is out of range; expected 0 < lrf <= 1, a share of lr0")
        for name in ("momentum", "warmup_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"hyp.{name}={getattr(self, name)} is out of range; expected 0 <= {name} < 1")
        for name in ("weight_decay", "warmup_epochs", "warmup_bias_lr", "box", "cls", "dfl"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"hyp.{name}={getattr(self, name)} is out of range; expected a number of 0 or more")

    def rate_factor(self, epoch: int, epochs: int) -> float:
        """Share of lr0 that an epoch is trained with, from 1 in the first one towards ``lrf``."""
        if self.cos_lr:
            return (1 + math.cos(math.pi * epoch / epochs)) / 2 * (1 - self.lrf) + self.lrf
        return max(1 - epoch / epochs, 0) * (1 - self.lrf) + self.lrf

    def warm_up(self, batches: int, epochs: int, accumulate: int, bias_rate: float) -> WarmUp:
        """The ramp of a fit.

        Args:
            batches: Batches of an epoch.
            epochs: Epochs of the fit.
            accumulate: Batches per optimizer step after the ramp.
            bias_rate: Rate of the biases at the first batch.
        """
        momentum = (self.warmup_momentum, self.momentum)
        return WarmUp(self.warmup_batches(batches, epochs), accumulate, momentum, bias_rate)

    def warmup_batches(self, batches: int, epochs: int) -> int:
        """Number of batches of the warm-up; at least the last epoch is left to regular training."""
        return round(min(self.warmup_epochs, max(epochs - 1, 0)) * batches)


@dataclass(frozen=True)
class WarmUp:
    """The ramp of rates, momentum and accumulation over the first batches, as Ultralytics' trainer does it.

    Args:
        batches: Length of the ramp in batches; 0 for none.
        accumulate: Batches per optimizer step after the ramp.
        momentum: Momentum at the first batch and after the ramp.
        bias_rate: Rate of the biases at the first batch.
    """

    batches: int
    accumulate: int
    momentum: tuple[float, float]
    bias_rate: float

    def apply(self, groups: list[dict[str, Any]], batch: int, rate_factor: float) -> int:
        """Sets the parameter groups of an optimizer for one batch.

        Args:
            groups: They carry ``initial_lr`` and Ultralytics' ``param_group``.
            batch: Index of the batch, counted over the whole fit.
            rate_factor: Share of the initial rate that holds in this epoch.

        Returns:
            The number of batches per optimizer step from here on.
        """
        if not self.batches or batch > self.batches:
            return self.accumulate
        span = [0, self.batches]
        for group in groups:
            start = self.bias_rate if group.get("param_group") == "bias" else 0.0
            group["lr"] = float(np.interp(batch, span, [start, group["initial_lr"] * rate_factor]))
            if "momentum" in group:
                group["momentum"] = float(np.interp(batch, span, self.momentum))
        return max(1, round(float(np.interp(batch, span, [1, self.accumulate]))))

    def planned_steps(
        self, groups: list[dict[str, Any]], rate_factors: list[float], batches: int, start: int
    ) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The optimizer steps to come, as epoch and parameter groups.

        Args:
            groups: Parameter groups of the optimizer; they are left as they are.
            rate_factors: Share of the initial rate in every epoch of the fit.
            batches: Batches per epoch.
            start: Epoch to begin with.
        """
        planned = [{k: v for k, v in group.items() if k != "params"} for group in groups]
        for epoch in range(start, len(rate_factors)):
            for group in planned:
                group["lr"] = group["initial_lr"] * rate_factors[epoch]
            accumulate, pending = 1, False
            for batch in range(batches):
                now = self.apply(planned, batches * epoch + batch, rate_factors[epoch])
                # A group of batches that has begun is finished as it began.
                accumulate = accumulate if pending else now
                pending = batch + 1 != batches and (batch + 1) % accumulate != 0
                if not pending:
                    yield epoch, planned
