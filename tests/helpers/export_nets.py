"""YOLOv8n, dense and pruned, with outputs that differ from image to image, and real images for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from yolo_slim.callbacks.slim_checkpoint import prune_module
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.data.shapes import CLASSES
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import Importance, Selection, on_own_thread

NAMES = dict(enumerate(CLASSES))


def shapes_data(folder: Path, imgsz: int = 64) -> YOLODataModule:
    """The built-in images in a folder."""
    return YOLODataModule(str(folder / "data.yaml"), imgsz=imgsz, batch=3, workers=0)


def shapes_images(folder: Path, imgsz: int = 64) -> Tensor:
    """The validation images, (6, 3, imgsz, imgsz) in [0, 1]."""
    data = shapes_data(folder, imgsz)
    data.setup("validate")
    return torch.cat([data.on_after_batch_transfer(batch, 0)["img"] for batch in data.val_dataloader()])


def lively(images: Tensor, ratio: float = 0.0) -> YOLODetector:
    """A detector whose statistics are those of the images and whose scores lie all over (0, 1); pruned by ``ratio``."""
    torch.manual_seed(0)
    detector = YOLODetector(names=NAMES, imgsz=images.shape[-1])
    if ratio:
        prune_module(detector, Selection(ratio=ratio, round_to=1), importance=Importance("l1"))
    norms = [module for module in detector.net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # running statistics are those of all that passes
        nn.init.uniform_(norm.weight, 0.8, 1.2)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    for module in detector.net.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    head = detector.net.model[-1]
    for boxes, classes in zip(head.cv2, head.cv3, strict=True):
        nn.init.normal_(classes[-1].weight, std=0.8)
        nn.init.zeros_(classes[-1].bias)
        boxes[-1].bias.data = -1.0 * torch.arange(16).repeat(4)  # small boxes
    with torch.no_grad():
        detector.net.train()(images)
    for norm in norms:
        norm.running_var.clamp_(min=0.3)  # small variances would blow rounding errors up, which training does not
    detector.net.eval()
    return detector


def in_single_precision(file: Path) -> Callable[[Tensor], Tensor]:
    """An OpenVINO model as it stands in the file; by default its runtime takes bfloat16 where the CPU has it."""
    import openvino

    model, options = next(file.glob("*.xml")), {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = on_own_thread(lambda: openvino.Core().compile_model(model, "CPU", options))
    return lambda images: torch.cat([torch.from_numpy(compiled(image[None].numpy())[0].copy()) for image in images])
