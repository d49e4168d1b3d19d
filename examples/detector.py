"""A torchvision detector as an ordinary LightningModule: what a project has before it knows of yolo_slim."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

Targets = list[dict[str, Tensor]]


class Detector(L.LightningModule):
    """Trains ``self.network``, which a subclass makes, at the rate ``lr`` among its hyper-parameters.

    Args:
        size: Height and width of an image in pixels, for the example input.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.map = MeanAveragePrecision()
        self.example_input_array = torch.rand(1, 3, size, size)

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> dict[str, Tensor] | Targets:
        """Losses in train mode, detections after NMS in eval mode."""
        return self.network(images, targets)

    def training_step(self, batch: tuple[list[Tensor], Targets], batch_idx: int) -> Tensor:
        """The sum of the network's own losses."""
        loss = torch.stack(list(self(*batch).values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[list[Tensor], Targets], batch_idx: int) -> None:
        """Collects detections."""
        images, targets = batch
        self.map.update(self(images), targets)

    def on_validation_epoch_end(self) -> None:
        """Scores them."""
        scores = self.map.compute()
        self.map.reset()
        self.log_dict({"val/mAP50": scores["map_50"], "val/mAP50-95": scores["map"]})

    def configure_optimizers(self) -> dict:
        """AdamW with one cycle per fit."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
