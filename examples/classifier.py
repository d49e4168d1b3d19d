"""A torchvision classifier of what is inside the boxes: trained, made sparse, pruned, finetuned."""

from __future__ import annotations

import lightning as L
import torch
from boxes import Crops
from parts import Table, arguments, loaders, new_folder
from phases import four_phases
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from torchvision.models import resnet18

from yolo_slim.pruning import restore_structure


class Classifier(L.LightningModule):
    """ResNet-18, with the one method that yolo_slim needs.

    Args:
        classes: Number of classes.
        size: Height and width of the images in pixels.
        weights: As torchvision names them; None for random ones.
        lr: Peak of the learning rate.
    """

    def __init__(self, classes: int, size: int = 48, weights: str | None = None, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = resnet18(weights=weights)
        self.network.fc = nn.Linear(self.network.fc.in_features, classes)
        self.accuracy = MulticlassAccuracy(classes, average="macro")  # every class counts the same, however rare
        self.example_input_array = torch.rand(1, 3, size, size)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, H, W)."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Mean accuracy of the classes."""
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("val/accuracy", self.accuracy)

    def configure_optimizers(self) -> dict:
        """SGD with one cycle per fit."""
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9, weight_decay=5e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Rebuilds the network of a slim checkpoint before its weights arrive: all that yolo_slim needs."""
        restore_structure(self, checkpoint)


def main() -> None:
    """Dense, sparse, slim, finetuned."""
    options = arguments(__doc__, epochs=(10, 20, 5), size=48, batch=32)
    L.seed_everything(0, workers=True)
    data, folder = loaders(Crops, options), new_folder("classifier")
    classifier = Classifier(len(data[0].dataset.names), options.size, options.weights)
    four_phases(classifier, options, data, folder, Table((data[1].dataset[0][0][None],), score="val/accuracy"))


if __name__ == "__main__":
    main()
