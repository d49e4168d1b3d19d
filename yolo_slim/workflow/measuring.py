"""What a model weighs, and what a pruned one is worth: the figures of the results table."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from yolo_slim.detection import load_network
from yolo_slim.pruning import gamma_magnitudes, latency, profile, small_share


def size_of(net: nn.Module, imgsz: int) -> dict[str, float]:
    """Size and sparsity of a network.

    Returns:
        ``parameters``, ``gflops`` of one image at ``imgsz`` pixels, ``small_gammas`` (share of the gammas whose
        absolute value is below 1e-2).
    """
    images = torch.zeros(1, 3, imgsz, imgsz, device=next(net.parameters()).device)
    found = profile(net, images)
    return {
        "parameters": found.parameters,
        "gflops": 2 * found.macs / 1e9,
        "small_gammas": small_share(gamma_magnitudes(net)),
    }


def latencies(paths: Mapping[str, str | Path], imgsz: int, rounds: int = 5) -> dict[str, float]:
    """Median milliseconds per image of several networks, taken in turn so that a busy machine slows all alike.

    Each is fused (BatchNorm folded into its convolution) as Ultralytics does before it is deployed, and run on the
    device at hand with one image per batch.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.rand(1, 3, imgsz, imgsz, device=device)
    nets = {state: copy.deepcopy(load_network(path)).eval().fuse(verbose=False) for state, path in paths.items()}
    times: dict[str, list[float]] = {state: [] for state in nets}
    for _ in range(rounds):
        for state, net in nets.items():
            times[state].append(latency(net.to(device), images, repeats=10))
    return {state: 1000 * _median(values) for state, values in times.items()}


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
