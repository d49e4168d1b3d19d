"""Clocks that count: what a model takes follows from its layers, exactly and without a machine."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from yolo_slim.pruning import latency_budget, profile
from yolo_slim.pruning.measure import layer_times as layer_times_module


def stairs_ms(layer: nn.Module, inputs: Tensor) -> float:
    """A tenth of a microsecond and what vectors of 4 channels would take."""
    size = profile(layer, inputs).macs
    ins, outs = layer.weight.shape[1], layer.weight.shape[0]  # type: ignore[union-attr, index]
    filled = math.ceil(ins / 4) * 4 / ins * math.ceil(outs / 4) * 4 / outs
    return 1e-4 + size * filled / 1e7


def model_ms(model: nn.Module, inputs: Tensor) -> float:
    """The sum of a model's layers, and some time that none of them accounts for."""
    total = 0.002

    def note(layer: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal total
        total += 1.1 * 2 * result.numel() * layer.weight[0].numel() / 2e7 + 2e-4

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return total


def count_time(monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> list[float]:
    """Puts these clocks in the place of the runtimes; returns a list that the measured times of models are added to.

    Args:
        monkeypatch: Takes them away again.
        factor: How much slower this machine is.
    """
    seen: list[float] = []

    def forward_in(latency: object, model: nn.Module, inputs: Tensor) -> object:
        return lambda: factor * model_ms(model, inputs)

    def times_in_turn(forwards: dict) -> dict:
        found = {key: forward() for key, forward in forwards.items()}
        seen.extend(found.values())
        return found

    monkeypatch.setattr(latency_budget, "forward_in", forward_in)
    monkeypatch.setattr(latency_budget, "times_in_turn", times_in_turn)
    monkeypatch.setattr(layer_times_module, "forward_in", lambda latency, layer, inputs: (layer, inputs))
    monkeypatch.setattr(layer_times_module, "_quickest", lambda pair: factor * stairs_ms(*pair))
    return seen
