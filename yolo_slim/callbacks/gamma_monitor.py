"""What the gammas do during a fit, in numbers and histograms."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from yolo_slim.callbacks.target import find_target
from yolo_slim.pruning.penalty import SMALL_GAMMA, gamma_magnitudes


class GammaMonitor(Callback):
    """Logs the distribution of |gamma| after every epoch: quantiles, the share of small ones, and a histogram.

    Scalars go to every logger as ``gamma/median``, ``gamma/q10`` and ``gamma/small`` (share below 1e-2); the
    histogram goes to loggers whose experiment has ``add_histogram`` (TensorBoard).

    Args:
        target: Path of the submodule that is watched; by default ``pl_module.pruning_target`` or the whole module.
    """

    def __init__(self, target: str | None = None) -> None:
        self.target = target

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the gammas as they are in training."""
        gammas = gamma_magnitudes(find_target(pl_module, self.target))
        if not gammas.numel():
            return
        q10, median = torch.quantile(gammas, gammas.new_tensor([0.1, 0.5])).tolist()
        share = (gammas < SMALL_GAMMA).float().mean().item()
        values = {"gamma/q10": q10, "gamma/median": median, "gamma/small": share}
        pl_module.log_dict(values, sync_dist=True)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                experiment: Any = getattr(logger, "experiment", None)
                if hasattr(experiment, "add_histogram"):
                    experiment.add_histogram("gamma", gammas, trainer.current_epoch)
