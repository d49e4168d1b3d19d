"""What a model weighs, and what a pruned one is worth: the figures of the results table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from yolo_slim.detection import load_network
from yolo_slim.pruning import gamma_magnitudes, latencies_ms, profile, small_share


@dataclass(frozen=True)
class Size:
    """Size and sparsity of a network."""

    parameters: int
    """Number of parameters."""
    gflops: float
    """Floating-point operations of one image, in 1e9."""
    small_gammas: float
    """Share of the gammas with an absolute value below 1e-2, in [0, 1]."""


def size_of(net: nn.Module, imgsz: int) -> Size:
    """Measures a network for images of ``imgsz`` pixels."""
    images = torch.zeros(1, 3, imgsz, imgsz, device=next(net.parameters()).device)
    measured = profile(net, images)
    return Size(measured.parameters, measured.gflops, small_share(gamma_magnitudes(net)))


def deployed_latencies(paths: Mapping[str, str | Path], imgsz: int) -> dict[str, float]:
    """The median milliseconds per image of several networks as they are deployed.

    Each is fused (BatchNorm folded into its convolution) as Ultralytics does before that, and run on the device at hand
    with one image per batch, in turn with the others.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.rand(1, 3, imgsz, imgsz, device=device)
    nets = {key: load_network(path).eval().fuse(verbose=False).to(device) for key, path in paths.items()}
    return latencies_ms({key: (net, images) for key, net in nets.items()})
