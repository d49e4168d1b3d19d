"""torchvision's SSDlite (MobileNetV3) as an ordinary LightningModule: trained, made sparse, pruned, finetuned."""

from __future__ import annotations

import lightning as L
from boxes import Boxes, collate
from detector import Detector
from parts import Table, arguments, loaders, new_folder
from phases import four_phases
from torch import Tensor
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from yolo_slim.pruning import restore_structure


class SSDLite(Detector):
    """SSDlite, with the two methods that yolo_slim needs.

    Args:
        classes: Number of classes without the background.
        size: Height and width in pixels that the network resizes its images to.
        weights: Of the backbone, as torchvision names them; None for random ones.
        lr: Peak of the learning rate.
    """

    def __init__(self, classes: int, size: int = 320, weights: str | None = None, lr: float = 1e-3) -> None:
        super().__init__(size)
        self.save_hyperparameters()
        self.network = ssdlite320_mobilenet_v3_large(weights_backbone=weights, num_classes=classes + 1)
        self.network.transform.fixed_size = (size, size)

    def pruning_forward(self, images: Tensor) -> dict[str, Tensor]:
        """Runs the network without labels and NMS: the raw outputs of the head."""
        return self.network.head(list(self.network.backbone(images).values()))

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Rebuilds the network of a slim checkpoint before its weights arrive."""
        restore_structure(self, checkpoint)


def main() -> None:
    """Dense, sparse, slim, finetuned."""
    options = arguments(__doc__, epochs=(60, 60, 30), size=320)
    L.seed_everything(0, workers=True)
    data, folder = loaders(Boxes, options, collate), new_folder("ssdlite")
    image, _ = data[1].dataset[0]
    detector = SSDLite(len(data[0].dataset.names), options.size, options.weights)
    four_phases(detector, options, data, folder, Table(([image],), score="val/mAP50-95"))


if __name__ == "__main__":
    main()
