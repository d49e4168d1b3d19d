"""Layers of other pruning tools, said in stock layers."""

from __future__ import annotations

from typing import Any


FOREIGN_LAYERS: dict[str, Any] = {}
FOREIGN_NETWORKS: set[str] = set()


def made_stock(layers: dict[str, Any]) -> None:
    """Puts stock layers in place of foreign ones."""
