"""torchvision's models, and the ways in which they are run for tracing and for comparing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models, ops
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from benchmarks.checks import values_in
from benchmarks.zoo import Model
from yolo_slim.pruning import BatchNorm, Pass, default_passes

BARE: dict[str, Any] = {"weights": None, "weights_backbone": None}


def evaluate(forward: Callable[[nn.Module], Any]) -> Pass:
    """A pass in eval mode."""
    return lambda model: forward(model.eval())


def train(forward: Callable[[nn.Module], Any]) -> Pass:
    """A pass in train mode, with the layers that draw or remember in eval mode."""
    drawing = (BatchNorm, nn.modules.dropout._DropoutNd, ops.StochasticDepth)

    def run(model: nn.Module) -> Any:
        model.train()
        for module in model.modules():
            if isinstance(module, drawing):
                module.eval()
        return forward(model)

    return run


def classifier_passes(model: nn.Module, size: int, dtype: torch.dtype) -> list[Pass]:
    """The engine's own passes: eval, and train with BatchNorm in eval mode."""
    return default_passes(torch.rand(2, 3, size, size, dtype=dtype))


def raw_passes(
    forward: Callable[[nn.Module, Tensor], Any], model: nn.Module, size: int, dtype: torch.dtype
) -> list[Pass]:
    """Eval and train passes over a detector's raw outputs; what follows (top-k, NMS) jumps when numbers round."""
    images = torch.rand(2, 3, size, size, dtype=dtype)
    return [evaluate(lambda m: forward(m, images)), train(lambda m: forward(m, images))]


def one_stage(model: nn.Module, images: Tensor) -> Any:
    """RetinaNet, FCOS, SSD: the head's outputs on the backbone's feature maps."""
    features = model.backbone(images)  # type: ignore[operator]
    return model.head(list(features.values()))  # type: ignore[operator]


def two_stage(model: nn.Module, images: Tensor) -> Any:
    """Faster, Mask and Keypoint R-CNN: the proposal head's outputs, and the other heads' on fixed boxes."""
    features = model.backbone(images)  # type: ignore[operator]
    outputs = list(model.rpn.head(list(features.values())))  # type: ignore[operator, union-attr]
    size = images.shape[-1]
    box = torch.tensor([[1.0, 2.0, 0.8 * size, 0.9 * size], [4.0, 4.0, 20.0, 24.0]], dtype=images.dtype)
    boxes, shapes = [box] * len(images), [(size, size)] * len(images)
    heads: Any = model.roi_heads
    outputs += heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, shapes)))
    for kind in ("mask", "keypoint"):
        if getattr(heads, f"{kind}_predictor", None) is not None:
            pooled = getattr(heads, f"{kind}_roi_pool")(features, boxes, shapes)
            outputs.append(getattr(heads, f"{kind}_predictor")(getattr(heads, f"{kind}_head")(pooled)))
    return outputs


def size_of_outputs(model: nn.Module, size: int) -> Tensor:
    """A stand-in for a loss that reaches every output."""
    found = values_in(model.train()(torch.rand(4, 3, size, size)))
    return torch.stack([tensor.square().mean() for tensor in found]).sum()


def detector_loss(model: nn.Module, size: int) -> Tensor:
    """The sum of the detector's own losses."""
    images, labels = detector_inputs(size, torch.float32)
    if getattr(getattr(model, "roi_heads", None), "keypoint_predictor", None) is None:
        labels = [{key: value for key, value in label.items() if key != "keypoints"} for label in labels]
    return torch.stack(list(model.train()(images, labels).values())).sum()


def targets(images: int, size: int, dtype: torch.dtype = torch.float64) -> list[dict[str, Tensor]]:
    """Two objects for each image, with masks and keypoints for the detectors that want them."""
    boxes = torch.tensor([[2.0, 3.0, 0.7 * size, 0.8 * size], [5.0, 4.0, 0.4 * size, 0.5 * size]], dtype=dtype)
    keypoints = torch.cat([boxes[:, None, :2].float() + torch.rand(2, 17, 2), torch.ones(2, 17, 1)], 2)
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    masks[:, 5:20, 5:20] = 1
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks, "keypoints": keypoints} for _ in range(images)
    ]


def detector_inputs(size: int, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """What a user's loop hands to a torchvision detector."""
    return [torch.rand(3, size, size, dtype=dtype) for _ in range(2)], targets(2, size, dtype)


def _classifier(name: str, size: int = 64, **options: Any) -> Model:
    build = partial(models.get_model, name, weights=None, num_classes=10, **options)
    return Model(name, build, classifier_passes, size, "torchvision classifiers", size_of_outputs)


def _narrow(name: str, inputs: int) -> Model:
    """Its classifier's 100 million parameters are cut to what a test can hold."""

    def build() -> nn.Module:
        model = models.get_model(name, weights=None)
        layers = [nn.Linear(inputs, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 32), nn.ReLU(True)]
        model.classifier = nn.Sequential(*layers, nn.Linear(32, 10))
        return model

    return Model(name, build, classifier_passes, 64, "torchvision classifiers", size_of_outputs)


def _transformer(name: str, build: Callable[[], nn.Module], size: int) -> Model:
    return Model(name, build, classifier_passes, size, "torchvision transformers", size_of_outputs)


def _detector(name: str, build: Callable[..., nn.Module], forward: Any, size: int = 64, **options: Any) -> Model:
    options = {**BARE, "num_classes": 5, "min_size": size, "max_size": size} | options
    options = {key: value for key, value in options.items() if value != ""}
    return Model(
        name, partial(build, **options), partial(raw_passes, forward), size, "torchvision detectors", detector_loss
    )


def _segmenter(name: str, size: int = 64) -> Model:
    build = partial(segmentation.__dict__[name], num_classes=4, **BARE)
    if "lraspp" not in name:
        build = partial(build, aux_loss=True)
    return Model(name, build, classifier_passes, size, "torchvision segmentation", size_of_outputs)


def _frozen_retinanet(size: int = 64) -> nn.Module:
    """Its backbone's normalisation cannot learn, as in the detectors that come with trained weights."""
    extra = ops.feature_pyramid_network.LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=3, returned_layers=[2, 3, 4], extra_blocks=extra
    )
    return detection.RetinaNet(backbone, 5, min_size=size, max_size=size)


def _frozen_faster_rcnn(size: int = 64) -> nn.Module:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
    head = detection.faster_rcnn.TwoMLPHead(256 * 7 * 7, 64)
    return detection.FasterRCNN(
        backbone,
        min_size=size,
        max_size=size,
        box_head=head,
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(64, 5),
    )


CLASSIFIERS: Sequence[Model] = [
    *map(_classifier, ("resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d")),
    *map(_classifier, ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5")),
    *map(_classifier, ("efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf", "regnet_y_400mf")),
    *map(_classifier, ("densenet121", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "convnext_tiny")),
    _classifier("squeezenet1_1"),
    _narrow("alexnet", 256 * 6 * 6),
    *(_narrow(name, 512 * 7 * 7) for name in ("vgg11", "vgg11_bn")),
    _classifier("googlenet", init_weights=False),
    _classifier("inception_v3", 299, init_weights=False),
]
TRANSFORMERS: Sequence[Model] = [
    _transformer("vision_transformer", lambda: models.VisionTransformer(320, 80, 2, 4, 32, 64, num_classes=10), 320),
    _transformer("swin", lambda: models.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=10), 32),
    _transformer(
        "swin_v2",
        lambda: models.SwinTransformer(
            [4, 4],
            32,
            [2, 2],
            [2, 4],
            [4, 4],
            num_classes=10,
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
        32,
    ),
    _transformer("maxvit", lambda: models.MaxVit((320, 320), 16, 5, [16, 32], [2, 1], 8, 0.0, num_classes=10), 320),
]
DETECTORS: Sequence[Model] = [
    _detector(
        "ssdlite320_mobilenet_v3_large", detection.ssdlite320_mobilenet_v3_large, one_stage, min_size="", max_size=""
    ),
    _detector("ssd300_vgg16", detection.ssd300_vgg16, one_stage, 300, min_size="", max_size=""),
    _detector("retinanet_resnet50_fpn", detection.retinanet_resnet50_fpn, one_stage),
    _detector("retinanet_resnet50_fpn_v2", detection.retinanet_resnet50_fpn_v2, one_stage),
    _detector("fcos_resnet50_fpn", detection.fcos_resnet50_fpn, one_stage),
    _detector("fasterrcnn_resnet50_fpn_v2", detection.fasterrcnn_resnet50_fpn_v2, two_stage),
    _detector("fasterrcnn_mobilenet_v3_large_fpn", detection.fasterrcnn_mobilenet_v3_large_fpn, two_stage),
    _detector("maskrcnn_resnet50_fpn", detection.maskrcnn_resnet50_fpn, two_stage),
    _detector("keypointrcnn_resnet50_fpn", detection.keypointrcnn_resnet50_fpn, two_stage, num_classes=2),
    _detector("retinanet_frozen", lambda **_: _frozen_retinanet(), one_stage),
    _detector("fasterrcnn_frozen", lambda **_: _frozen_faster_rcnn(), two_stage),
]
SEGMENTERS: Sequence[Model] = list(
    map(_segmenter, ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"))
)
MODELS: dict[str, Model] = {m.name: m for m in (*CLASSIFIERS, *TRANSFORMERS, *DETECTORS, *SEGMENTERS)}
