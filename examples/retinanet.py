"""torchvision's RetinaNet with a small ResNet-18 pyramid: trained, made sparse, pruned, finetuned."""

from __future__ import annotations

import lightning as L
from boxes import Boxes, collate
from detector import Detector
from parts import Table, arguments, loaders, new_folder
from phases import four_phases
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from yolo_slim.pruning import restore_structure


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


class Retina(Detector):
    """RetinaNet, with the two methods that yolo_slim needs.

    Args:
        classes: Number of classes without the background.
        size: Longer side in pixels that the network resizes its images to.
        weights: Of the backbone, as torchvision names them; None for random ones.
        lr: Peak of the learning rate.
    """

    def __init__(self, classes: int, size: int = 256, weights: str | None = None, lr: float = 5e-4) -> None:
        super().__init__(size)
        self.save_hyperparameters()
        self.network = build(classes, size, weights)

    def pruning_forward(self, images: Tensor) -> dict[str, Tensor]:
        """Runs the network without labels and NMS: the raw outputs of the head."""
        return self.network.head(list(self.network.backbone(images).values()))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Rebuilds the network of a slim checkpoint before its weights arrive."""
        restore_structure(self, checkpoint)


def main() -> None:
    """Dense, sparse, slim, finetuned."""
    options = arguments(__doc__, epochs=(60, 60, 30), size=256)
    L.seed_everything(0, workers=True)
    data, folder = loaders(Boxes, options, collate), new_folder("retinanet")
    image, _ = data[1].dataset[0]
    detector = Retina(len(data[0].dataset.names), options.size, options.weights)
    four_phases(detector, options, data, folder, Table(([image],), score="val/mAP50-95"))


if __name__ == "__main__":
    main()
