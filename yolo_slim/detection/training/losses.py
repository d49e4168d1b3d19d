"""What a detector is trained by: its own loss, and what callbacks add to it or ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, cat, nn
from ultralytics.models.yolo.detect import DetectionTrainer

from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.data.plain import each_training_batch, to_device
from yolo_slim.detection.network.distilled import distillation_loss
from yolo_slim.detection.network.fresh_head import expect_trained_head
from yolo_slim.detection.network.layout import lay_images_out
from yolo_slim.detection.network.loss import DetectionLoss
from yolo_slim.detection.training.divergence import LossWatch
from yolo_slim.detection.training.hyperparameters import Hyperparameters


class DetectorLosses(LightningModule):
    """The losses of a network, for the steps of a fit and for callbacks.

    Attributes:
        net: The network.
        hyp: Its gains.
        channels_last: Whether the channels of a pixel lie side by side in memory; None for what is faster.
    """

    net: Any
    hyp: Hyperparameters
    channels_last: bool | None
    _loss: DetectionLoss
    _watch: LossWatch

    def outputs(self, images: Tensor) -> Any:
        """What the network gives for images, in the layout that is asked for."""
        return self.net(lay_images_out(images, self.channels_last))

    def step_losses(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """What :class:`DetectionLoss` gives for a batch, with what callbacks add as a further column."""
        loss, items, target_scores = self._loss(self.outputs(batch["img"]), batch)
        if isinstance(extra := self.auxiliary_loss(), Tensor):
            column = (extra * len(batch["img"])).reshape(1, 1).to(loss)
            loss = cat((loss, nn.functional.pad(column, (0, 0, 0, len(loss) - 1))), 1)  # with the first of the losses
        self._watch.see(self.trainer, loss, list(items), batch)
        return loss, items, target_scores

    def weigh_classes(self) -> None:
        """Weighs classes by how rare they are among the training images, where ``hyp.cls_pw`` asks for it.

        Raises:
            MisconfigurationException: If the images are not those of a :class:`YOLODataModule`.
        """
        if not self.hyp.cls_pw:
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, YOLODataModule):
            raise MisconfigurationException(
                "hyp.cls_pw counts the labels of a YOLODataModule; leave it out, or use one"
            )
        labels = np.concatenate([image["cls"].reshape(-1) for image in data.datasets["train"].labels])
        counts = np.bincount(labels.astype(int), minlength=len(data.names or ()))
        if counts.any():
            stub: Any = SimpleNamespace(args=SimpleNamespace(cls_pw=self.hyp.cls_pw))
            weights = DetectionTrainer.compute_class_weights(stub, counts)
            self._loss.weigh_classes(weights / weights.mean())

    def loss(self, batch: dict[str, Any]) -> Tensor:
        """Sum of the losses of a batch's images as Ultralytics normalises it; for gradients outside of a fit."""
        return self.loss_of(self.outputs(batch["img"]), batch)

    def loss_of(self, outputs: Any, batch: dict[str, Any]) -> Tensor:
        """The same of what the network has given for the images."""
        return self._loss(outputs, batch)[0].sum()

    def auxiliary_loss(self) -> Tensor | float:
        """What callbacks add to the loss of a batch, per image as Ultralytics' own parts."""
        return 0.0

    def distillation_loss(self, outputs: Any, taught: Any) -> Tensor:
        """How far the network's outputs are from a teacher's, with the gains of the classes and of the boxes."""
        return distillation_loss(outputs, taught, (self.hyp.cls, self.hyp.dfl))

    def plain_losses(self) -> Iterator[Tensor] | None:
        """Losses of some batches of training images without augmentation; None for other data than ours.

        Raises:
            ValueError: If the head is new.
        """
        expect_trained_head(self.net, "what channels matter is asked of the loss")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, YOLODataModule):
            return None
        kind = next(self.net.parameters()).dtype
        return (self.loss(to_device(batch, self.device, kind)) for batch in each_training_batch(data))
