"""Sizes that a file claims, compared with the data that it has before memory is taken for them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.detection.network.description import Allowance
from yolo_slim.pruning import apply_structure

#: Side of the image that a network is tried with, in pixels.
_TRIAL_SIZE = 64


def expect_tensors(tensors: Mapping[str, Any]) -> None:
    """Refuses tensors that stand for more numbers than a file holds, and what is no ordinary tensor.

    Args:
        tensors: By name, as read from a file.

    Raises:
        ValueError: If one of them is no tensor of floating point numbers (or a single number of any kind), or if they
            look at the same data so often that they stand for more than twice as much as there is.
    """
    claimed, storages = 0, {}
    for name, tensor in tensors.items():
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"{name!r:.80} is no tensor")
        if tensor.is_complex() or (tensor.dim() > 0 and not tensor.is_floating_point()):
            raise ValueError(f"{name!r:.80} holds {tensor.dtype}, expected floating point numbers")
        size, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        if not 0 < size <= storage.nbytes():
            raise ValueError(f"{name!r:.80} has the shape {tuple(tensor.shape)}, which is not that of its data")
        claimed += size
        storages[storage.data_ptr()] = storage.nbytes()
    if claimed > 2 * sum(storages.values()):
        raise ValueError("the tensors share their data in a way that no detector does")


def apply_sizes(net: Any, structure: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Gives a network the sizes of a file's layers, once it is known that its weights have them.

    Args:
        net: The network, changed in place.
        structure: Of the file; see :func:`yolo_slim.pruning.structure_of`.
        weights: Of the file, sound by :func:`expect_tensors`.

    Raises:
        ValueError: If the structure fits neither the network nor the weights.
    """
    shadow = _shadow(net, structure)
    for name, tensor in shadow.state_dict().items():
        if name not in weights:
            raise ValueError(f"Missing key {name}")
        if weights[name].shape != tensor.shape:
            raise ValueError(f"{name} has {tuple(weights[name].shape)}, described is {tuple(tensor.shape)}")
    _try(shadow.eval())
    apply_structure(net, structure)


def head_reading(net: Any, structure: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of a head that reads the maps which a body of a file's sizes gives.

    Args:
        net: The network; stays as it is.
        structure: Of the file's body.
        weights: Of the file's body.

    Raises:
        ValueError: If the structure fits neither the network nor the weights.
    """
    shadow = _shadow(net, structure)
    head = shadow.model[-1]
    place = f"model.{len(shadow.model) - 1}"
    for name, tensor in shadow.state_dict().items():
        if not name.startswith(f"{place}.") and (name not in weights or weights[name].shape != tensor.shape):
            found = "missing" if name not in weights else str(tuple(weights[name].shape))
            raise ValueError(f"{name} is {found}, described is {tuple(tensor.shape)}")
    widths: list[int] = []

    class Reader(nn.Module):
        f, i = head.f, head.i

        def forward(self, maps: list[Tensor]) -> list[Tensor]:
            widths.extend(feature.shape[1] for feature in maps)
            return maps

    shadow.model[-1] = Reader()
    _try(shadow.eval())
    branches = [(branch, level, width) for branch in ("cv2", "cv3") for level, width in enumerate(widths)]
    return {f"{place}.{branch}.{level}.0.conv": {"in_channels": width} for branch, level, width in branches}


def _shadow(net: Any, structure: Mapping[str, Any]) -> Any:
    """The network with other sizes and without memory."""
    shadow: Any = copy.deepcopy(net).to("meta")
    shadow.model[-1].stride = net.model[-1].stride  # the head reads these numbers
    try:
        apply_structure(shadow, structure)
    # What a file gives as a structure can be anything.
    except Exception as error:
        raise ValueError(str(error) if isinstance(error, ValueError) else f"no structure: {error!r:.200}") from error
    return shadow


def _try(shadow: nn.Module) -> None:
    try:
        with Allowance(), torch.no_grad():
            shadow(torch.zeros(1, 3, _TRIAL_SIZE, _TRIAL_SIZE, device="meta"))
    except Exception as error:  # any layer can fail in any way where sizes do not fit
        raise ValueError(f"the sizes of its layers do not fit each other: {error!r:.200}") from error
