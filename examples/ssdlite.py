"""torchvision's SSDlite (MobileNetV3) as an ordinary LightningModule: trained, made sparse, pruned, finetuned."""

from __future__ import annotations

import lightning as L
import torch
from boxes import Boxes, collate
from parts import Table, arguments, check_equal, loaders, new_folder, trainer
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.pruning import restore_structure

Targets = list[dict[str, Tensor]]


class SSDLite(L.LightningModule):
    """What a project has before it knows of yolo_slim.

    Args:
        classes: Number of classes without the background.
        size: Height and width in pixels that the network resizes its images to.
        weights: Of the backbone, as torchvision names them; None for random ones.
        lr: Peak of the learning rate.
    """

    def __init__(self, classes: int, size: int = 320, weights: str | None = None, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = ssdlite320_mobilenet_v3_large(weights_backbone=weights, num_classes=classes + 1)
        self.network.transform.fixed_size = (size, size)
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
        found = self.map.compute()
        self.map.reset()
        self.log_dict({"val/mAP50": found["map_50"], "val/mAP50-95": found["map"]})

    def configure_optimizers(self) -> dict:
        """AdamW with one cycle per fit."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"], weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams["lr"], total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SlimSSDLite(SSDLite):
    """The same for yolo_slim: how to run the network without labels and NMS, and how to load smaller ones."""

    def pruning_forward(self, images: Tensor) -> dict[str, Tensor]:
        """The raw outputs of the head."""
        return self.network.head(list(self.network.backbone(images).values()))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """A slim checkpoint rebuilds its network before its weights arrive."""
        restore_structure(self, checkpoint)


def main() -> None:
    """Dense, sparse, slim, finetuned."""
    given = arguments(__doc__, epochs=(60, 60, 30), size=320)
    L.seed_everything(0, workers=True)
    data, folder = loaders(Boxes, given, collate), new_folder("ssdlite")
    image, _ = data[1].dataset[0]
    table = Table(([image],), score="val/mAP50-95")

    detector = SlimSSDLite(len(data[0].dataset.names), given.size, given.weights)
    dense = trainer(folder, given.epochs[0], [WeightEMA()])
    dense.fit(detector, *data)
    table.add("baseline", detector, dense)

    sparsity = GammaSparsity(penalty="growing", ratio=given.ratio)
    pruning = ChannelPruning(ratio=given.ratio, dirpath=str(folder))
    sparse = trainer(folder, given.epochs[1], [WeightEMA(), sparsity, pruning])
    sparse.fit(detector, *data)
    table.add("sparse", None, sparse)

    slim = SlimSSDLite.load_from_checkpoint(folder / "slim.ckpt", weights=None)
    check_equal(slim, detector, ([image],))
    check = trainer(folder)
    check.validate(slim, data[1])
    table.add("slim", slim, check)

    finetune = trainer(folder, given.epochs[2], [WeightEMA()])
    finetune.fit(slim, *data)
    table.add("finetuned", slim, finetune)
    results = table.markdown()
    (folder / "results.md").write_text(results)
    print(f"\n{results}\nsaved in {folder}")


if __name__ == "__main__":
    main()
