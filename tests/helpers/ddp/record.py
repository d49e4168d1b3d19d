"""A callback for the command line: every rank notes what it holds after a fit."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Record(Callback):
    """Saves the parameters of each rank in ``folder/rank<N>.pt``, next to those of other fits."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        held = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        torch.save(held, self.folder / f"rank{trainer.global_rank}.pt")
