"""Networks whose head has not been trained yet, though their body has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

#: In the description of such a network.
FRESH_HEAD = "fresh_head"


def has_fresh_head(net: nn.Module) -> bool:
    """Whether the head still has to be trained."""
    return bool(getattr(net, "yaml", {}).get(FRESH_HEAD))


def expect_trained_head(described: nn.Module | Mapping[str, Any], what: str) -> None:
    """Refuses a network whose answers mean nothing yet.

    Args:
        described: The network, or its description.
        what: What was to be done with it.

    Raises:
        ValueError: If its head is fresh.
    """
    fresh = has_fresh_head(described) if isinstance(described, nn.Module) else described.get(FRESH_HEAD)
    if fresh:
        raise ValueError(
            f"{what}: the network comes from a file of an original repository and its head is new; train it first, "
            "with 'fit' or with the baseline of 'slim' (--baseline.enabled true)"
        )


def head_is_trained(net: nn.Module, hparams: Any) -> None:
    """Notes that the head is being trained, in the network and in what a checkpoint says of it."""
    for description in (getattr(net, "yaml", {}), hparams.get("model", {})):
        description.pop(FRESH_HEAD, None)
