"""What the gammas do during a fit, in numbers and histograms."""

from __future__ import annotations

from typing import Any

import torch

from yolo_slim.callbacks.framework import Callback, LightningModule, Trainer, rank_zero_warn
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import SMALL_GAMMA, gamma_magnitudes, small_share

QUANTILES = {"q10": 0.1, "q25": 0.25, "median": 0.5, "q75": 0.75, "q90": 0.9}
CUT_OFFS = {"small": SMALL_GAMMA, "tiny": 1e-4}


class GammaMonitor(Callback):
    """Logs the distribution of |gamma| after every epoch: quantiles, the share of small ones, and a histogram.

    Scalars go to every logger: ``gamma/q10``, ``q25``, ``median``, ``q75``, ``q90``, and the shares below 1e-2 and
    1e-4, ``gamma/small`` and ``gamma/tiny``. The histogram goes to loggers whose experiment has ``add_histogram``
    (TensorBoard).

    Args:
        target: Path of the submodule that is watched; by default ``pl_module.pruning_target`` or the whole module.
    """

    def __init__(self, target: str | None = None) -> None:
        self.target = target

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the gammas as they are in training."""
        gammas = gamma_magnitudes(Target(pl_module, self.target).model)
        if not gammas.numel():
            return
        levels = torch.quantile(gammas, gammas.new_tensor(list(QUANTILES.values()))).tolist()
        values = dict(zip(QUANTILES, levels, strict=True))
        values |= {name: small_share(gammas, limit) for name, limit in CUT_OFFS.items()}
        values = {f"gamma/{name}": value for name, value in values.items()}
        pl_module.log_dict(values, sync_dist=True)
        finite = gammas[gammas.isfinite()]
        if finite.numel() < gammas.numel():
            rank_zero_warn("GammaMonitor: some gammas are not finite: the training has diverged.")
        if trainer.is_global_zero and finite.numel():
            for logger in trainer.loggers:
                experiment: Any = getattr(logger, "experiment", None)
                if hasattr(experiment, "add_histogram"):
                    experiment.add_histogram("gamma", finite, trainer.current_epoch)
