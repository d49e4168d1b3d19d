"""Files of the original YOLOv5 and YOLOv7 repositories, and of the tool that prunes YOLOv5, said in layers of today.

Their heads work with anchors, and have no counterpart: the body is kept, and the head is a new one that a fit trains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from yolo_slim.detection.files.foreign import ForeignLayer, ForeignLayers
from yolo_slim.detection.files.repconv import PARTS, deployed
from yolo_slim.detection.network.fresh_head import FRESH_HEAD
from yolo_slim.wording import brief

#: The kinds of their networks and of their heads.
NETWORK, _HEAD = "OriginalModel", "AnchorHead"
_COMMON = ("Conv", "C3", "Bottleneck", "Concat", "SPPF", "SPP", "MP", "SP", "RepConv", "SPPCSPC")
#: Full names of what such files consist of -> kind of layer.
NAMES = {
    **{f"models.common.{name}": name for name in (*_COMMON, "ImplicitA", "ImplicitM")},
    **{f"models.pruned_common.{name}Pruned": name for name in ("Bottleneck", "C3", "SPPF")},
    **{f"models.yolo.{name}": NETWORK for name in ("Model", "DetectionModel", "ModelPruned")},
    **{f"models.yolo.{name}": _HEAD for name in ("Detect", "IDetect")},
}
#: Names in descriptions -> kind of layer. The tool that prunes leaves classes there, which have their full names.
_KINDS = {
    **NAMES,
    **{f"{name}Pruned": name for name in ("Bottleneck", "C3", "SPPF")},
    **{"torch.nn.modules.upsampling.Upsample": "nn.Upsample", "Detect": _HEAD, "IDetect": _HEAD},
}
#: Layers that there are today, by their names in descriptions.
_SAME = {"C3", "Concat", "Conv", "SPPF", "SPP", "nn.Upsample", "Bottleneck"}
#: Activations without settings, as a description spells them.
_ACTIVATIONS = ("nn.SiLU()", "nn.ReLU()", "nn.ReLU6()", "nn.Hardswish()")
#: The parts of SPPCSPC -> the row of each among the twelve that it is spelt in; the other two are Concat.
_SPPCSPC = {
    **{".cv1": 0, ".cv3": 1, ".cv4": 2, ".m.0": 3, ".m.1": 4, ".m.2": 5},
    **{".cv5": 7, ".cv6": 8, ".cv2": 9, ".cv7": 11},
}

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
    for index, (source, *_) in enumerate(old_rows):
        read = layers[f"model.{index}"].settings.get("f") if f"model.{index}" in layers else None
        if read != source:
            raise ValueError(f"row {index} reads {brief(source)}, and its layer {brief(read)}")
    for index, (source, repeats, kind, arguments) in enumerate(old_rows[:-1]):
        sources = [_absolute(f, index) for f in (source if isinstance(source, list) else [source])]
        taken = [last_of[f] if f >= 0 else -1 for f in sources]
        first, kind = len(rows), _KINDS.get(str(kind), str(kind))
        rows += _rows(kind, repeats, list(arguments or []), taken, first)
        last_of.append(len(rows) - 1)
        body |= _moved(layers, index, first, kind)
    source, _, kind, _ = old_rows[-1]
    if _KINDS.get(str(kind)) != _HEAD:
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
        _expect_no_more(own, PARTS, f"model.{index} ({kind})")
        return {f"model.{first}{name}": layer for name, layer in deployed(own).items()}
    if kind in ("MP", "SP", "SPPCSPC"):
        rows = _SPPCSPC if kind == "SPPCSPC" else {".m": 0}
        moved: dict[str, str] = {}
        for part, row in rows.items():
            below = [name for name in own if name == part or name.startswith(f"{part}.")]
            moved |= {name: f"model.{first + row}{name.removeprefix(part)}" for name in below}
        _expect_no_more(own, {*moved, ".m"}, f"model.{index} ({kind})")
        found = {f"model.{first + row}": ForeignLayer("Concat", {}, {}) for row in (6, 10) if kind == "SPPCSPC"}
        return found | {here: own[name] for name, here in moved.items()}
    for place in ("f", "i"):  # where its input comes from, which the rows say
        if "" in own:
            own[""].settings.pop(place, None)
    return {f"model.{first}{name}": layer for name, layer in own.items()}


def _expect_no_more(own: ForeignLayers, known: Collection[str], what: str) -> None:
    """Refuses a layer with other parts than those of its kind, which would be left out here."""
    parts = set(own) - set(known) - {""} | {f".{key}" for key in (own[""].tensors if "" in own else ())}
    if parts:
        raise ValueError(f"{what} has {brief(min(parts)[1:])}, which no such layer has")


def _is_below(name: str, index: int) -> bool:
    return name == f"model.{index}" or name.startswith(f"model.{index}.")


def _activation(body: ForeignLayers) -> str:
    """The one activation of the body, as a description spells it."""
    found = set()
    for name, layer in body.items():
        if name.endswith(".act") and layer.kind != "Identity":
            slope = layer.settings.get("negative_slope")
            leaky = layer.kind == "LeakyReLU" and type(slope) is float
            found.add(f"nn.LeakyReLU({slope})" if leaky else f"nn.{layer.kind}()")
    known = [name for name in found if name in _ACTIVATIONS or name.startswith("nn.LeakyReLU(0")]
    if len(found) != 1 or not known:
        names, expected = ", ".join(sorted(found)) or "none", ", ".join((*_ACTIVATIONS, "nn.LeakyReLU(0.1)"))
        raise ValueError(f"its activation is {names:.100}; expected one of {expected}")
    return known[0]
