"""Mixed precision and gradient clipping, switched off for one fit and given back after it."""

from __future__ import annotations

from typing import Any

import torch

from yolo_slim.callbacks.framework import LightningModule, Precision, Trainer, rank_zero_warn, unclipped_precision


class FullPrecision:
    """What a Trainer was given, while a fit runs without it."""

    def __init__(self) -> None:
        self._given: tuple[Precision, Any, Any] | None = None

    def switch_on(self, trainer: Trainer, pl_module: LightningModule, clipping: bool) -> None:
        """Makes the fit run in 32 bits, and without clipping unless ``clipping``; weights of other types are cast."""
        plugin, clip = trainer.strategy.precision_plugin, trainer.gradient_clip_val
        self._given = (plugin, clip, trainer.gradient_clip_algorithm)
        trainer.strategy.precision_plugin = Precision() if clipping else unclipped_precision()
        if plugin.precision != "32-true":
            rank_zero_warn(f"GammaSparsity: precision {plugin.precision} is 32-true during this fit.")
        if not clipping:
            trainer.gradient_clip_val = None
            trainer.gradient_clip_algorithm = None
            if clip:
                rank_zero_warn(f"GammaSparsity: gradient_clip_val={clip} is off during this fit.")
        other = {torch.float16, torch.bfloat16, *([torch.float64] if plugin.precision == "64-true" else [])}
        if any(p.dtype in other for p in pl_module.parameters()):
            pl_module.float()

    def give_back(self, trainer: Trainer) -> None:
        """Puts the Trainer's own settings in place again; does nothing when there is nothing to give back."""
        if self._given is not None:
            plugin, trainer.gradient_clip_val, trainer.gradient_clip_algorithm = self._given
            trainer.strategy.precision_plugin = plugin
            self._given = None
