"""Files of the original YOLOv5 and YOLOv7 repositories, and of the tool that prunes YOLOv5, said in layers of today.

Their heads work with anchors, and have no counterpart: the body is kept, and the head is a new one that a fit trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from yolo_slim.detection.files.foreign import ForeignLayer, ForeignLayers
from yolo_slim.detection.network.fresh_head import FRESH_HEAD
from yolo_slim.wording import brief

#: The kind of their networks.
NETWORK = "OriginalModel"
_COMMON = ("Conv", "C3", "Bottleneck", "Concat", "SPPF", "SPP", "MP", "SP", "RepConv", "SPPCSPC")
#: Full names of what such files consist of -> kind of layer.
NAMES = {
    **{f"models.common.{name}": name for name in (*_COMMON, "ImplicitA", "ImplicitM")},
    **{f"models.pruned_common.{name}Pruned": name for name in ("Bottleneck", "C3", "SPPF")},
    **{f"models.yolo.{name}": NETWORK for name in ("Model", "DetectionModel", "ModelPruned")},
    **{f"models.yolo.{name}": "AnchorHead" for name in ("Detect", "IDetect")},
}
#: Layers that there are today, by their names in descriptions.
_SAME = {"C3", "Concat", "Conv", "SPPF", "SPP", "nn.Upsample", "Bottleneck"}
_PRUNED = {"C3Pruned": "C3", "SPPFPruned": "SPPF", "BottleneckPruned": "Bottleneck"}
#: Kinds of activation -> how a description of today spells it.
_ACTIVATIONS = {"SiLU": "nn.SiLU()", "ReLU": "nn.ReLU()", "ReLU6": "nn.ReLU6()", "Hardswish": "nn.Hardswish()"}
#: Of SPPCSPC, which is spelt in twelve rows, its convolutions by the number of their rows.
_SPPCSPC = {0: "cv1", 1: "cv3", 2: "cv4", 7: "cv5", 8: "cv6", 9: "cv2", 11: "cv7"}

Row = list[Any]


def converted(description: Mapping[str, Any], layers: ForeignLayers) -> tuple[dict[str, Any], ForeignLayers]:
    """What a file of an original repository holds, as a description of today and the layers of its body.

    Args:
        description: Content of its model YAML, as plain data.
        layers: Its layers by name.

    Returns:
        The description with a head of today, and the layers of the body by their names there.

    Raises:
        ValueError: If it has a layer that there is none for.
    """
    rows: list[Row] = []
    body: ForeignLayers = {}
    last_of: list[int] = []  # row of the file -> the row here that gives the same
    old_rows = [*description["backbone"], *description["head"]]
    for index, (source, repeats, kind, arguments) in enumerate(old_rows[:-1]):
        sources = [_absolute(f, index) for f in (source if isinstance(source, list) else [source])]
        taken = [last_of[f] if f >= 0 else -1 for f in sources]
        first = len(rows)
        made = _rows(str(kind).removeprefix("models.common."), repeats, list(arguments or []), taken, first)
        rows += made
        last_of.append(len(rows) - 1)
        body |= _moved(layers, index, first, kind)
    source, _, kind, _ = old_rows[-1]
    if kind not in ("Detect", "IDetect"):
        raise ValueError(f"its last layer is {brief(kind)}; expected Detect or IDetect")
    rows.append([[last_of[_absolute(f, len(old_rows) - 1)] for f in source], 1, "Detect", ["nc"]])
    kept = {key: description[key] for key in ("nc", "depth_multiple", "width_multiple") if key in description}
    cut = len(description["backbone"])
    first_of_head = last_of[cut - 1] + 1 if cut else 0
    made_of = {"backbone": rows[:first_of_head], "head": rows[first_of_head:]}
    return {**kept, **made_of, "activation": _activation(body), FRESH_HEAD: True}, body


def _absolute(source: int, index: int) -> int:
    place = source if source >= 0 else index + source
    if not -1 <= place < index:
        raise ValueError(f"row {index} reads row {place}, which does not come before it")
    return place


def _rows(kind: str, repeats: int, arguments: list[Any], taken: list[int], first: int) -> list[Row]:
    """The rows of today for a row of the file; ``first`` is the number of the first of them."""
    source: Any = taken if kind == "Concat" else _near(taken[0], first)
    kind = _PRUNED.get(kind, kind.replace("torch.nn.modules.upsampling.", "nn."))
    if kind in ("Conv", "RepConv"):
        sizes, padding = arguments[:3], [a for a in arguments[3:4] if a not in (None, "None")]
        numbers = all(type(size) is int for size in (*sizes, *padding)) and arguments[4:5] in ([], [1])
        if not numbers or (kind == "RepConv" and sizes[1:] != [3, 1]):
            raise ValueError(f"it has {kind} with {brief(arguments)}, expected channels, kernel, stride and padding")
        return [[source, repeats, "Conv", [*sizes, *padding]]]
    if kind == "MP":
        side = arguments[0] if arguments else 2
        return [[source, repeats, "nn.MaxPool2d", [side, side]]]
    if kind == "SP":
        side = arguments[0] if arguments else 3
        return [[source, repeats, "nn.MaxPool2d", [side, 1, side // 2]]]
    if kind == "SPPCSPC":
        if len(arguments) != 1 or repeats != 1:
            raise ValueError(f"it has {kind} with {brief(arguments)}, expected channels alone")
        c, sides = arguments[0], (5, 9, 13)
        before: list[Row] = [[source, 1, "Conv", [c, 1, 1]], [-1, 1, "Conv", [c, 3, 1]], [-1, 1, "Conv", [c, 1, 1]]]
        pools: list[Row] = [[-1 - i, 1, "nn.MaxPool2d", [k, 1, k // 2]] for i, k in enumerate(sides)]
        after: list[Row] = [[[-4, -3, -2, -1], 1, "Concat", [1]], [-1, 1, "Conv", [c, 1, 1]]]
        after += [[-1, 1, "Conv", [c, 3, 1]], [taken[0], 1, "Conv", [c, 1, 1]], [[-2, -1], 1, "Concat", [1]]]
        return [*before, *pools, *after, [-1, 1, "Conv", [c, 1, 1]]]
    if kind in _SAME:
        return [[source, repeats, kind, arguments]]
    raise ValueError(f"it has the layer {brief(kind)}, for which there is none here")


def _near(source: int, index: int) -> int:
    return -1 if source == index - 1 else source


def _moved(layers: ForeignLayers, index: int, first: int, kind: str) -> ForeignLayers:
    """The layers of a row of the file by their names here."""
    own = {name.removeprefix(f"model.{index}"): layer for name, layer in layers.items() if _is_below(name, index)}
    if kind == "RepConv":
        return {f"model.{first}{name}": layer for name, layer in _deployed(own).items()}
    if kind == "SPPCSPC":
        parts = {f".{part}": f"model.{first + row}" for row, part in _SPPCSPC.items()}
        found = {}
        for name, layer in own.items():
            part = ".".join(name.split(".")[:2])
            if part in parts:
                found[parts[part] + name[len(part) :]] = layer
        return found
    if kind in ("MP", "SP", "Concat"):
        return {}
    for place in ("f", "i"):  # where its input comes from, which the rows say
        if "" in own:
            own[""].settings.pop(place, None)
    return {f"model.{first}{name}": layer for name, layer in own.items()}


def _is_below(name: str, index: int) -> bool:
    return name == f"model.{index}" or name.startswith(f"model.{index}.")


def _deployed(own: ForeignLayers) -> ForeignLayers:
    """A RepConv as the one convolution that its branches add up to (Ding et al., CVPR 2021)."""
    if ".rbr_reparam" in own:
        weight, bias = (own[".rbr_reparam"].tensors[key] for key in ("weight", "bias"))
    else:
        weight, bias = _folded(own, ".rbr_dense.0", ".rbr_dense.1")
        small, shift = _folded(own, ".rbr_1x1.0", ".rbr_1x1.1")
        weight, bias = weight + pad(small, [1, 1, 1, 1]), bias + shift
        if ".rbr_identity" in own:
            scale, shift = _scale(own[".rbr_identity"])
            weight, bias = weight + torch.diag(scale)[:, :, None, None] * _centre(weight), bias + shift
    settings = own.get(".rbr_dense.0", own.get(".rbr_reparam", ForeignLayer("Conv2d", {}, {}))).settings
    convolution = ForeignLayer("Conv2d", settings, {"weight": weight, "bias": bias})
    return {"": ForeignLayer("Conv", {}, {}), ".conv": convolution, ".act": own[".act"]}


def _centre(weight: Tensor) -> Tensor:
    one = torch.zeros_like(weight[:1, :1])
    one[..., 1, 1] = 1
    return one


def _folded(own: ForeignLayers, convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    scale, shift = _scale(own[norm])
    return own[convolution].tensors["weight"].double() * scale[:, None, None, None], shift


def _scale(norm: ForeignLayer) -> tuple[Tensor, Tensor]:
    t = {key: tensor.double() for key, tensor in norm.tensors.items()}
    scale = t["weight"] / (t["running_var"] + norm.settings["eps"]).sqrt()
    return scale, t["bias"] - t["running_mean"] * scale


def _activation(body: ForeignLayers) -> str:
    """The one activation of the body, as a description spells it."""
    found = {
        (layer.kind, layer.settings.get("negative_slope"))
        for name, layer in body.items()
        if name.endswith(".act") and layer.kind != "Identity"
    }
    if len(found) == 1:
        kind, slope = next(iter(found))
        if kind in _ACTIVATIONS:
            return _ACTIVATIONS[kind]
        if kind == "LeakyReLU" and type(slope) is float:
            return f"nn.LeakyReLU({slope})"
    raise ValueError(
        f"its layers have the activations {brief(sorted(map(str, found)))}, expected one of {_ACTIVATIONS}"
    )
