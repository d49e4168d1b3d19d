"""Every Ultralytics architecture, with random weights, and the ways in which Ultralytics runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks

from yolo_slim.pruning import Pass, train_but_statistics

Passes = Callable[[nn.Module, int, torch.dtype], list[Pass]]


@dataclass(frozen=True)
class Model:
    """An architecture to prune.

    Attributes:
        name: Its name in tables.
        build: Makes it with random weights.
        passes: (model, side of the images in pixels, dtype) -> the ways in which it is run.
        size: Side of the images that it is traced and checked with, in pixels.
        family: Heading of its table.
        loss: (model, side of the images in pixels) -> its own training loss on a made-up batch, in float32; None where
            there is none to be had without data.
    """

    name: str
    build: Callable[[], nn.Module]
    passes: Passes
    size: int
    family: str
    loss: Callable[[nn.Module, int], Tensor] | None = None


def raw(outputs: Any, training: bool) -> Any:
    """What a head computes: neither decoded nor sorted, and without the feature maps that it hands through.

    Args:
        outputs: What an Ultralytics model returns: in eval mode mostly (decoded, raw), in train mode raw alone.
        training: Whether the model is in train mode.
    """
    if not training and isinstance(outputs, tuple):
        outputs = outputs[1]
    if isinstance(outputs, dict):
        return {key: raw(value, True) for key, value in outputs.items() if key != "feats"}
    return outputs


def ultralytics_passes(model: nn.Module, size: int, dtype: torch.dtype) -> list[Pass]:
    """Eval mode, train mode with the BatchNorm layers in eval mode, and the exporter's way: ``forward_split``.

    YOLOE is given text prompts, and in one more way visual ones.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, size, size, generator=generator, dtype=dtype)
    prompted = isinstance(model, tasks.YOLOEModel)
    text = {"tpe": torch.randn(1, 80, 512, generator=generator, dtype=dtype)} if prompted else {}
    visuals = torch.rand(1, 80, size // 8, size // 8, generator=generator, dtype=dtype).round()

    def run(model: Any, **prompts: Tensor) -> Any:
        head = model.model[-1]
        for cache in {"shape", "shapes"} & vars(head).keys():
            delattr(head, cache)  # a size kept from another image would steer the head's control flow
        return raw(model(images, **prompts), model.training)

    def evaluation(model: nn.Module) -> Any:
        return run(model.eval(), **text)

    def training(model: nn.Module) -> Any:
        return run(train_but_statistics(model), **text)

    def export(model: nn.Module) -> Any:
        with _forward_split(model.eval()):
            return run(model, **text)

    def visual_prompts(model: nn.Module) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # the largest float64 is multiplied by a mask, in the default type
        try:
            return run(model.eval(), vpe=visuals)
        finally:
            torch.set_default_dtype(before)

    return [evaluation, training, export, *([visual_prompts] if prompted else [])]


@contextmanager
def _forward_split(model: nn.Module) -> Iterator[None]:
    """Ultralytics' exporter swaps the forward of every block that has a ``forward_split``."""
    blocks: list[Any] = [m for m in model.modules() if hasattr(m, "forward_split")]
    for block in blocks:
        block.forward = block.forward_split
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def ultralytics_loss(model: Any, size: int) -> Tensor:
    """The model's own loss on two noise images with two objects each."""
    generator = torch.Generator().manual_seed(0)
    head, objects = model.model[-1], 4
    model.args, model.nc = get_cfg(), getattr(head, "nc", 0)  # as Ultralytics' trainers set them
    shape = (2, size // 4, size // 4)
    batch: dict[str, Tensor] = {
        "img": torch.rand(2, 3, size, size, generator=generator),
        "batch_idx": torch.tensor([0.0, 0, 1, 1]),
        "cls": torch.tensor([[0.0]] * objects) if model.task != "classify" else torch.tensor([1, 2]),
        "bboxes": torch.tensor(
            [[0.5, 0.5, 0.5, 0.6], [0.3, 0.3, 0.4, 0.4], [0.6, 0.5, 0.6, 0.5], [0.5, 0.6, 0.9, 0.7]]
        ),
        "masks": torch.randint(0, 3, shape, generator=generator),
        "sem_masks": torch.zeros(shape),
        "semantic_mask": torch.randint(0, 10, (2, size, size), generator=generator),
        "depth": torch.rand(2, size, size, generator=generator) + 0.5,
        "txt_feats": torch.randn(2, 80, 512, generator=generator),
    }
    if model.task == "pose":
        batch["keypoints"] = torch.rand(objects, *head.kpt_shape, generator=generator).round(decimals=2) + 0.01
    if model.task == "obb":
        batch["bboxes"] = torch.cat([batch["bboxes"], torch.rand(objects, 1, generator=generator)], 1)
    loss, _ = model.train().loss(batch)
    return loss.sum()


def _model(name: str, task: Callable[..., nn.Module], family: str, size: int = 64) -> Model:
    def build() -> nn.Module:
        torch.manual_seed(0)
        own = OWN / f"{name}.yaml"
        model: Any = task(str(own) if own.is_file() else f"{name}.yaml", verbose=False)
        model.task = TASKS[task]
        return model

    return Model(name, build, ultralytics_passes, size, family, ultralytics_loss)


#: Topologies of this project.
OWN = Path(__file__).parents[1] / "configs" / "models"
TASKS: dict[Callable[..., nn.Module], str] = {
    tasks.DetectionModel: "detect",
    tasks.SegmentationModel: "segment",
    tasks.PoseModel: "pose",
    tasks.OBBModel: "obb",
    tasks.ClassificationModel: "classify",
    tasks.SemanticSegmentationModel: "semantic",
    tasks.DepthModel: "depth",
    tasks.RTDETRDetectionModel: "detect",
    tasks.WorldModel: "detect",
    tasks.YOLOEModel: "detect",
    tasks.YOLOESegModel: "segment",
}

_SUFFIXES: dict[str, Callable[..., nn.Module]] = {
    "seg": tasks.SegmentationModel,
    "pose": tasks.PoseModel,
    "obb": tasks.OBBModel,
    "cls": tasks.ClassificationModel,
    "sem": tasks.SemanticSegmentationModel,
    "depth": tasks.DepthModel,
    "rtdetr": tasks.RTDETRDetectionModel,
    "world": tasks.WorldModel,
    "worldv2": tasks.WorldModel,
}

_FAMILIES = {
    "YOLOv3": "yolov3 yolov3-spp yolov3-tiny",
    "YOLOv5": "yolov5n yolov5s yolov5m yolov5l yolov5x yolov5n-p6",
    "YOLOv6": "yolov6n yolov6s",
    "YOLOv7": "yolov7-tiny yolov7",
    "YOLOv8": """
        yolov8n yolov8s yolov8m yolov8l yolov8x yolov8n-p2 yolov8n-p6 yolov8n-ghost yolov8n-ghost-p2 yolov8n-ghost-p6
        yolov8n-seg yolov8n-seg-p6 yolov8n-pose yolov8n-pose-p6 yolov8n-obb yolov8n-cls yolov8-cls-resnet50
        yolov8n-rtdetr yolov8s-world yolov8s-worldv2
        """,
    "YOLOv9": "yolov9t yolov9s yolov9m yolov9c yolov9e yolov9c-seg",
    "YOLOv10": "yolov10n yolov10s yolov10m yolov10b",
    "YOLO11": "yolo11n yolo11s yolo11m yolo11n-seg yolo11n-pose yolo11n-obb yolo11n-cls",
    "YOLO12": "yolo12n yolo12s yolo12n-seg yolo12n-pose yolo12n-obb yolo12n-cls",
    "YOLO26": """
        yolo26n yolo26s yolo26n-p2 yolo26n-p6 yolo26n-seg yolo26n-pose yolo26n-obb yolo26n-cls yolo26n-sem
        yolo26n-depth
        """,
    "RT-DETR": "rtdetr-l rtdetr-resnet50",
    "YOLOE": "yoloe-v8s yoloe-11s yoloe-26s yoloe-26s-seg",
}


def _task(name: str) -> Callable[..., nn.Module]:
    if name.startswith("yoloe"):
        return tasks.YOLOESegModel if "seg" in name else tasks.YOLOEModel
    if name.startswith("rtdetr"):
        return tasks.RTDETRDetectionModel
    parts = name.split("-")
    return next((task for suffix, task in _SUFFIXES.items() if suffix in parts), tasks.DetectionModel)


ULTRALYTICS = [_model(name, _task(name), family) for family, names in _FAMILIES.items() for name in names.split()]
