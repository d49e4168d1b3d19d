"""A line per epoch: what it was worth, how long it took, and when all will be done."""

from __future__ import annotations

import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

_SHOWN = (
    "train/box_loss",
    "train/cls_loss",
    "train/dfl_loss",
    "val/precision",
    "val/recall",
    "val/map50",
    "val/map",
    "gamma/small",
    "sparsity/slim_gflops",
)


class EpochLines(Callback):
    """One line per epoch, for output that is not a terminal and cannot show a progress bar.

    Args:
        later: Epochs of the fits that follow.
    """

    def __init__(self, later: int = 0) -> None:
        self._later = later
        self._best = float("-inf")
        self._times: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._times = [time.monotonic()]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints losses and scores of the epoch, with a star at a new best, and the time."""
        self._times.append(time.monotonic())
        if not trainer.is_global_zero:
            return
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        score = values.get("val/map", float("nan"))
        best, self._best = score > self._best, max(score, self._best) if score == score else self._best
        shown = [f"{k} {values[k]:.4g}{'*' if best and k == 'val/map' else ''}" for k in _SHOWN if k in values]
        line = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  " + "  ".join(shown)
        print(f"{line}  {self._seconds():.0f} s{self._to_go(trainer)}", flush=True)

    def _seconds(self) -> float:
        return self._times[-1] - self._times[-2] if len(self._times) > 1 else 0.0

    def _to_go(self, trainer: Trainer) -> str:
        """By the mean of the last epochs; those of smaller networks, which follow, take less."""
        recent = self._times[-6:]
        left = (trainer.max_epochs or 0) - trainer.current_epoch - 1 + self._later
        if len(recent) < 2 or left <= 0:
            return ""
        seconds = left * (recent[-1] - recent[0]) / (len(recent) - 1)
        return f", {in_words(seconds)} to go"


def in_words(seconds: float) -> str:
    """A time for people.

    Example:
        >>> in_words(42), in_words(250), in_words(9000)
        ('42 s', '4 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
