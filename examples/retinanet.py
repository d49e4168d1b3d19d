"""torchvision's RetinaNet with a small ResNet-18 pyramid: trained, made sparse, pruned, finetuned."""

from __future__ import annotations

import lightning as L
import torch
from boxes import Boxes, collate
from parts import Table, arguments, check_equal, loaders, new_folder, trainer
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.pruning import restore_structure

Targets = list[dict[str, Tensor]]


def build(classes: int, size: int, weights: str | None, width: int = 64) -> RetinaNet:
    """RetinaNet with BatchNorm everywhere; torchvision's own builders freeze it or leave the head without.

    Args:
        classes: Number of classes without the background.
        size: Longer side in pixels that images are resized to.
        weights: Of the backbone.
        width: Channels of the pyramid and of the head.
    """
    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    extra = LastLevelP6P7(width, width)
    backbone = BackboneWithFPN(resnet18(weights=weights), layers, [128, 256, 512], width, extra, nn.BatchNorm2d)
    sizes = tuple((s, round(s * 2 ** (1 / 3)), round(s * 2 ** (2 / 3))) for s in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    head = RetinaNetHead(width, anchors.num_anchors_per_location()[0], classes + 1, nn.BatchNorm2d)
    return RetinaNet(backbone, classes + 1, min_size=size, max_size=size, anchor_generator=anchors, head=head)


class Retina(L.LightningModule):
    """What a project has before it knows of yolo_slim.

    Args:
        classes: Number of classes without the background.
        size: Longer side in pixels that the network resizes its images to.
        weights: Of the backbone, as torchvision names them; None for random ones.
        lr: Peak of the learning rate.
    """

    def __init__(self, classes: int, size: int = 256, weights: str | None = None, lr: float = 5e-4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = build(classes, size, weights)
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


class SlimRetina(Retina):
    """The same for yolo_slim: how to run the network without labels and NMS, and how to load smaller ones."""

    def pruning_forward(self, images: Tensor) -> dict[str, Tensor]:
        """The raw outputs of the head."""
        return self.network.head(list(self.network.backbone(images).values()))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """A slim checkpoint rebuilds its network before its weights arrive."""
        restore_structure(self, checkpoint)


def main() -> None:
    """Dense, sparse, slim, finetuned."""
    given = arguments(__doc__, epochs=(60, 60, 30), size=256)
    L.seed_everything(0, workers=True)
    data, folder = loaders(Boxes, given, collate), new_folder("retinanet")
    image, _ = data[1].dataset[0]
    table = Table(([image],), score="val/mAP50-95")

    detector = SlimRetina(len(data[0].dataset.names), given.size, given.weights)
    dense = trainer(folder, given.epochs[0], [WeightEMA()])
    dense.fit(detector, *data)
    table.add("baseline", detector, dense)

    sparsity = GammaSparsity(penalty="growing", ratio=given.ratio)
    pruning = ChannelPruning(ratio=given.ratio, dirpath=str(folder))
    sparse = trainer(folder, given.epochs[1], [WeightEMA(), sparsity, pruning])
    sparse.fit(detector, *data)
    table.add("sparse", None, sparse)

    slim = SlimRetina.load_from_checkpoint(folder / "slim.ckpt", weights=None)
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
