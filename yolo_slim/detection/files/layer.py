"""What a file says of a network's layers, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class Layer:
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
Layers = dict[str, Layer]
