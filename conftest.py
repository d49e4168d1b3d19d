"""What the examples in docstrings can name: torch, the engine, and the network of the example of ``trace``."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def names_in_examples(request: pytest.FixtureRequest) -> None:
    """Puts the names into the namespace of a docstring's examples; ordinary tests are left alone."""
    if not isinstance(request.node, pytest.DoctestItem):
        return
    import torch
    from torch import nn

    import yolo_slim.pruning as engine

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    net[1].weight.data = torch.tensor([0.5, 0.0, 2.0, 0.1])
    names: dict[str, Any] = {name: getattr(engine, name) for name in engine.__all__}
    request.getfixturevalue("doctest_namespace").update(names, torch=torch, nn=nn, net=net)
