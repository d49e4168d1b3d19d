"""Layers of other pruning tools, said in stock layers.

Those tools split the first convolution of a C2f into two convolutions, or into parts of unequal width, which stock
C2f cannot: it halves. The narrower part gets channels that are zero, which changes nothing that the network computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class ForeignLayer:
    """One layer.

    Attributes:
        kind: Its class, as it is called today and without the module.
        settings: Its plain attributes.
        tensors: Its own parameters and buffers.
    """

    kind: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


#: Layers by their names in the network, such as ``model.0.conv``.
ForeignLayers = dict[str, ForeignLayer]


#: Layers that are stock ones but for their name and their widths.
LAYERS = {
    **{f"{name}Pruned": name for name in ("Bottleneck", "C3", "C3k", "C2PSA", "PSABlock", "SPPF", "Detect")},
    "C2fPruned": "C2f",
    "C3k2Pruned": "C3k2",
    "C2f_v2": "C2f",
    "C3k2_v2": "C3k2",
    "C2f_infer": "C2f",
}
#: Networks that are DetectionModel but for their name.
NETWORKS = {"DetectionModelPruned": "DetectionModel"}


def stock_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """A model YAML's content with the names of stock layers in place of foreign ones."""
    renamed = dict(description)
    for part in ("backbone", "head"):
        rows = renamed.get(part)
        if isinstance(rows, list):
            renamed[part] = [_stock_row(row) for row in rows]
    return renamed


def _stock_row(row: object) -> Any:
    if isinstance(row, list) and len(row) == 4 and isinstance(row[2], str):
        module, _, name = row[2].rpartition(".")
        prefix = "nn." if module == "nn" or module.startswith("torch.nn.") else ""
        return [row[0], row[1], prefix + LAYERS.get(name, name), row[3]]
    return row


def make_stock(layers: ForeignLayers) -> None:
    """Puts stock layers in place of foreign ones, in place.

    Raises:
        ValueError: If the widths of a split cannot be read.
    """
    for path, layer in list(layers.items()):
        kind = layer.kind
        layer.kind = LAYERS.get(kind, kind)
        if layer.kind in ("C2f", "C3k2") and f"{path}.cv0.conv" in layers:
            _even(layers, path, _joined(layers, path))
        elif layer.kind in ("C2f", "C3k2") and kind != layer.kind:
            width = layers[f"{path}.cv1.conv"].tensors["weight"].shape[0]
            parts = layer.settings.get("cv1_split_sections") or [layer.settings.get("c1"), layer.settings.get("c2")]
            if len(parts) != 2 or not all(type(part) is int and part > 0 for part in parts) or sum(parts) != width:
                raise ValueError(f"{path} ({kind}) is split into {parts}, expected two widths that add up to {width}")
            _same_eps(layers, path)
            _even(layers, path, (parts[0], parts[1]))


def _joined(layers: ForeignLayers, path: str) -> tuple[int, int]:
    """Makes one convolution of cv0 and cv1; returns how many channels each had."""
    first, second = layers[f"{path}.cv0.conv"], layers[f"{path}.cv1.conv"]
    widths = first.tensors["weight"].shape[0], second.tensors["weight"].shape[0]
    for part in ("conv", "bn", "act"):
        mine, gone = layers.get(f"{path}.cv1.{part}"), layers.get(f"{path}.cv0.{part}")
        if _likeness(mine) != _likeness(gone):
            raise ValueError(f"{path}.cv0 and {path}.cv1 differ in their {part}, expected two halves of one layer")
        if mine is not None and gone is not None:
            for key, tensor in mine.tensors.items():
                mine.tensors[key] = torch.cat((gone.tensors[key], tensor)) if tensor.dim() else tensor
    for name in [name for name in layers if name == f"{path}.cv0" or name.startswith(f"{path}.cv0.")]:
        del layers[name]
    return widths


def _likeness(layer: ForeignLayer | None) -> Any:
    return layer and (layer.kind, layer.settings, layer.tensors.keys())


def _same_eps(layers: ForeignLayers, path: str) -> None:
    """Gives cv1 the eps of cv2: one tool makes cv1 anew with torch's eps. In eval mode the function stays the same."""
    first, second = layers.get(f"{path}.cv1.bn"), layers.get(f"{path}.cv2.bn")
    if first is not None and second is not None:
        variance, eps = first.tensors["running_var"].float(), second.settings["eps"]
        factor = ((variance + eps) / (variance + first.settings["eps"])).sqrt()
        if first.settings["eps"] != eps:
            first.tensors["weight"], first.settings["eps"] = first.tensors["weight"].float() * factor, eps


def _even(layers: ForeignLayers, path: str, widths: tuple[int, int]) -> None:
    """Makes both halves of a C2f's first convolution as wide as the wider one."""
    left, right = widths
    width = max(left, right)
    _pad_outputs(layers, f"{path}.cv1", left, width - left)
    _pad_inputs(layers, f"{path}.cv2", left, width - left)
    added, position, block = width - right, width + right, 0
    _pad_outputs(layers, f"{path}.cv1", position, added)
    # What is added to the right half goes on to cv2 and to the first block, and through blocks that add their input.
    while added:
        _pad_inputs(layers, f"{path}.cv2", position, added)
        name = f"{path}.m.{block}"
        if name not in layers:
            break
        _pad_inputs(layers, f"{name}.cv1", right, added)
        if f"{name}.cv3.conv" in layers:  # a C3k: its second branch reads the same
            _pad_inputs(layers, f"{name}.cv2", right, added)
        if not layers[name].settings.get("add"):
            break
        _pad_outputs(layers, f"{name}.cv2", right, added)
        position, block = position + width, block + 1


def _pad_outputs(layers: ForeignLayers, path: str, at: int, count: int) -> None:
    """Inserts channels that are zero."""
    convolution, norm = _dense(layers, path), layers.get(f"{path}.bn")
    for key, tensor in convolution.tensors.items():
        convolution.tensors[key] = _with_zeros(tensor, 0, at, count)
    if norm is not None:
        for key, tensor in norm.tensors.items():
            if tensor.dim():
                norm.tensors[key] = _with_zeros(tensor, 0, at, count)
        norm.tensors["running_var"][at : at + count] = 1


def _pad_inputs(layers: ForeignLayers, path: str, at: int, count: int) -> None:
    tensors = _dense(layers, path).tensors
    tensors["weight"] = _with_zeros(tensors["weight"], 1, at, count)


def _dense(layers: ForeignLayers, path: str) -> ForeignLayer:
    layer = layers[f"{path}.conv"]
    if layer.settings.get("groups", 1) != 1:
        raise ValueError(f"{path}.conv has groups, which cannot get channels that are zero")
    return layer


def _with_zeros(tensor: Tensor, dim: int, at: int, count: int) -> Tensor:
    before, after = tensor.split([at, tensor.shape[dim] - at], dim)
    shape = list(tensor.shape)
    shape[dim] = count
    return torch.cat((before, tensor.new_zeros(shape), after), dim)
