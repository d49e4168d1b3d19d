"""Detection networks: built, and fitted to classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv, Detect
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils.torch_utils import initialize_weights

from yolo_slim.detection.network.classes import match_classes
from yolo_slim.detection.network.description import HEADS, check_description
from yolo_slim.detection.network.shipped import shipped_model
from yolo_slim.documents import read_yaml
from yolo_slim.pruning import apply_structure
from yolo_slim.wording import brief

_WIDEST = 4096  # channels of a branch of a head
#: Activations without settings, which may be put in place of each other.
ACTIVATIONS = {"GELU", "Hardswish", "Identity", "Mish", "ReLU", "ReLU6", "SiLU", "Sigmoid", "Tanh"}


def build_network(
    model: str | Mapping[str, Any],
    nc: int,
    structure: Mapping[str, Any] | None = None,
    variants: Mapping[str, str] | None = None,
    what: str | None = None,
) -> DetectionModel:
    """Builds a network with fresh weights.

    Args:
        model: Name or path of a model YAML (``yolov8n``, ``yolov8n.yaml``), or its content.
        nc: Number of classes, at least 1.
        structure: Channels of every layer, for a network that has been pruned; see
            :func:`yolo_slim.pruning.structure_of`.
        variants: Layers in which it differs from what the YAML gives; see :func:`set_variants`.
        what: What to call it, for messages.

    Raises:
        FileNotFoundError: If there is no such YAML.
        ValueError: If the YAML is not a detection model, or the structure belongs to another one.
    """
    what = what or (f"model {model!r}" if isinstance(model, str) else "the given model description")
    if isinstance(model, str) and Path(_yaml_name(model)).is_file():
        try:
            read_yaml(_yaml_name(model))  # within bounds, before Ultralytics reads it
        except ValueError as error:
            raise ValueError(f"{what} is no model YAML ({error})") from error
    own = shipped_model(_yaml_name(model)) if isinstance(model, str) else None
    try:
        if own is not None:
            config = {**read_yaml(own), "yaml_file": own.name}
        else:
            config = yaml_model_load(_yaml_name(model)) if isinstance(model, str) else copy.deepcopy(dict(model))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{what} not found; expected a YOLOv8 size such as yolov8n.yaml, a model YAML or a .pt file"
        ) from error
    check_description(config, what)
    config["nc"] = nc
    try:
        net = DetectionModel(config, verbose=False)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{what} is not a model YAML of Ultralytics ({error!r:.200})") from error
    set_head_width(net, config.get("head_width"), what)
    set_variants(net, variants or {}, what)
    if structure:
        apply_structure(net, structure)
    return prepare(net)


def set_head_width(net: nn.Module, widths: Any, what: str) -> None:
    """Gives the branches of a head other widths than Ultralytics derives from its first map.

    Args:
        net: The network.
        widths: The ``head_width`` of its description: channels of the layers before the boxes, and before the classes;
            None for Ultralytics' own.
        what: What to call it, for messages.

    Raises:
        ValueError: If they are no two numbers from 1 to 4096, or the head has no such branches.
    """
    if widths is None:
        return
    fine = isinstance(widths, (list, tuple)) and len(widths) == 2
    if not fine or not all(type(width) is int and 1 <= width <= _WIDEST for width in widths):
        raise ValueError(f"{what} has head_width {brief(widths)}; expected channels of both branches, e.g. [64, 80]")
    head = head_of(net)
    plain = type(head) is Detect and all(isinstance(branch[0], Conv) for branch in (*head.cv2, *head.cv3))
    if not plain or is_end_to_end(net):
        raise ValueError(f"{what} has a head_width and a head of another kind than YOLOv8's; leave it out")
    at = f"model.{len(net.model) - 1}"  # type: ignore[arg-type]
    sizes: dict[str, Any] = {}
    for branch, width in zip(("cv2", "cv3"), widths, strict=True):
        for level in range(head.nl):
            for layer, taken in enumerate((None, width, width)):
                name = f"{at}.{branch}.{level}.{layer}"
                ins = {} if taken is None else {"in_channels": taken}
                sizes[name if layer == 2 else f"{name}.conv"] = ins if layer == 2 else {**ins, "out_channels": width}
                if layer < 2:
                    sizes[f"{name}.bn"] = {"num_features": width}
    apply_structure(net, sizes)
    head.bias_init()


def set_variants(net: nn.Module, variants: Mapping[str, str], what: str) -> None:
    """Gives a network other layers than its description gives today: Ultralytics changed some between versions.

    Args:
        net: The network; keeps what is set as its attribute ``variants``.
        variants: By the layer's name in the network, the class of an activation (``{"model.9.cv1.act": "Identity"}``)
            or ``depthwise`` for a head that has depthwise convolutions before the classes (``{"model.22": ...}``).
        what: What to call it, for messages.

    Raises:
        ValueError: If there is no such layer, or it cannot be such a one.
    """
    for name, kind in variants.items():
        parent, _, key = name.rpartition(".")
        try:
            module: Any = net.get_submodule(parent)
            old = getattr(module, key)
        except AttributeError:
            old = None
        if kind == "depthwise" and type(old) is Detect:
            branches: Any = old.cv3
            if isinstance(branches[0][0], Conv):
                old.cv3 = _depthwise_branches(old)
        elif kind in ACTIVATIONS and type(old).__name__ in ACTIVATIONS:
            setattr(module, key, getattr(nn, kind)())
        else:
            raise ValueError(
                f"{what}: {name} cannot be {brief(kind)}; expected one of {sorted(ACTIVATIONS)}, or a head"
            )
    attributes: Any = net
    attributes.variants = dict(variants)


def _depthwise_branches(head: Detect) -> nn.ModuleList:
    class Depthwise(Detect):
        legacy = False

    branches: Any = head.cv3
    widths = [branch[0].conv.in_channels for branch in branches]
    branches = Depthwise(head.nc, head.reg_max, False, widths).cv3
    initialize_weights(branches)
    return branches


def _yaml_name(model: str) -> str:
    return model if model.endswith((".yaml", ".yml")) else f"{model}.yaml"


def expect_detect(net: nn.Module, what: str) -> None:
    """Refuses a network for another task.

    Raises:
        ValueError: If the last layer is no such head; the message begins with ``what``.
    """
    if type(head_of(net)) not in HEADS:
        raise ValueError(
            f"{what} ends in {type(head_of(net)).__name__}; expected a detection model, whose last layer is Detect"
        )


def head_of(net: nn.Module) -> Any:
    """The last layer of a network, its Detect head."""
    layers: Any = net.model
    return layers[-1]


def is_end_to_end(net: nn.Module) -> bool:
    """Whether the head has two pairs of branches: one that learns from many anchors per object and is there for the
    training, and one that learns from one of them and is used without NMS (YOLOv10, YOLO26).
    """  # noqa: D205
    return getattr(head_of(net), "one2one_cv2", None) is not None


def class_branches(net: nn.Module) -> list[Any]:
    """The branches of the head that score the classes, per pair."""
    head = head_of(net)
    return [head.cv3, head.one2one_cv3] if is_end_to_end(net) else [head.cv3]


def parameters_by_pair(net: nn.Module) -> list[list[nn.Parameter]]:
    """All parameters, by the loss that their gradients come from: that of the head, or of each of its two pairs.

    In training the branches of the second pair read detached features, so that theirs are their own alone.
    """
    if not is_end_to_end(net):
        return [list(net.parameters())]
    head = head_of(net)
    second = [*head.one2one_cv2.parameters(), *head.one2one_cv3.parameters()]
    own = {id(p) for p in second}
    return [[p for p in net.parameters() if id(p) not in own], second]


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold infinite values or NaN."""
    return [name for name, values in tensors.items() if not bool(values.isfinite().all())]


def prepare(net: DetectionModel) -> DetectionModel:
    """Makes a network trainable as Ultralytics' trainer would: float32, all but the DFL weights free.

    An end-to-end head answers without NMS, and its other branches do not count as operations.
    """
    net.float().train()
    if is_end_to_end(net):
        head = head_of(net)
        head.end2end = head.cv2.training_only = head.cv3.training_only = True
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(".dfl" not in name)
    return net


def freeze(net: nn.Module, layers: int | Sequence[int | str] | None) -> list[nn.Module]:
    """Keeps layers as they are in a fit.

    Args:
        net: The network.
        layers: How many of the first ones, or which by their index or their name below ``model``, such as ``22.cv2``.

    Returns:
        Their BatchNorm layers, which have to be in eval mode while the others train.

    Raises:
        ValueError: If there is no such layer, or nothing would be left to train.
    """
    asked = range(layers) if isinstance(layers, int) else layers or []
    norms: list[nn.Module] = []
    for name in map(str, asked):
        try:
            layer = net.get_submodule(f"model.{name}")
        except AttributeError:
            count = len(net.model)  # type: ignore[arg-type]
            raise ValueError(
                f"hyp.freeze={brief(layers)}: the network has no layer {name}; expected a number up to {count}, or "
                f"indices or names of some, such as [0, 1, {count - 1}.cv2]"
            ) from None
        layer.requires_grad_(False)
        norms += [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ValueError(f"hyp.freeze={brief(layers)} leaves nothing to train; freeze fewer layers")
    return norms


def fit_classes(net: DetectionModel, names: Mapping[int, str]) -> None:
    """Gives the head one output per class; rows of classes that it knew by name are kept.

    As many classes of which it knew none take its rows as they are, to begin with.

    Args:
        net: The network; its last class convolutions are replaced where the classes differ.
        names: Class names by index, without gaps.
    """
    attributes: Any = net
    match = match_classes(dict(attributes.names), names) if attributes.names else None
    known: list[int | None] = list(match.rows) if match is not None else [None] * len(names)
    head = head_of(net)
    same = len(names) == head.nc and (known == list(range(head.nc)) or not any(k is not None for k in known))
    if not same:
        for branches in class_branches(net):
            for branch, stride in zip(branches, head.stride, strict=True):
                branch[-1] = _class_convolution(branch[-1], known, float(stride))
        head.nc, head.no = len(names), len(names) + 4 * head.reg_max
        attributes.yaml["nc"] = attributes.nc = len(names)
    attributes.names = dict(names)


def _class_convolution(old: nn.Conv2d, known: list[int | None], stride: float) -> nn.Conv2d:
    new = nn.Conv2d(old.in_channels, len(known), 1).to(old.weight.device, old.weight.dtype)
    assert new.bias is not None
    assert old.bias is not None
    with torch.no_grad():
        # Ultralytics' initial bias: .01 objects per class and image of 640 pixels.
        new.bias.fill_(math.log(5 / len(known) / (640 / stride) ** 2))
        for row, source in enumerate(known):
            if source is not None:
                new.weight[row] = old.weight[source]
                new.bias[row] = old.bias[source]
    return new
