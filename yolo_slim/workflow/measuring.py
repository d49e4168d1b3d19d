"""What a model weighs, and what a pruned one is worth: the figures of the results table."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import nn

from yolo_slim.callbacks import Target
from yolo_slim.detection import SCORE_NAMES, YOLODataModule, YOLODetector, as_deployed, load_network
from yolo_slim.pruning import (
    RUNTIMES,
    Latency,
    Selection,
    cost_of,
    expect_runtime,
    forward_in,
    gamma_magnitudes,
    profile,
    small_share,
    times_in_turn,
)
from yolo_slim.reporting import ClassRow
from yolo_slim.wording import say
from yolo_slim.workflow.class_scores import class_rows
from yolo_slim.workflow.fit_parts import as_stopped

Split = Literal["val", "test"]


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


def dense_costs(weights: str | Path, selection: Selection, imgsz: int) -> dict[str, float]:
    """What the network in a file costs as a budget counts it, by the names of the budgets; milliseconds are left out.

    Args:
        weights: Checkpoint or .pt file.
        selection: Has a budget.
        imgsz: Side of the images in pixels.
    """
    target = Target(YOLODetector(weights=str(weights), imgsz=imgsz))
    cost, _ = cost_of(target.model, target.graph, selection.without_times(), target.example)
    assert cost is not None, "a detector has an example"
    return cost.dense()


class Judged(NamedTuple):
    """What a detector finds in images that are labelled."""

    detector: YOLODetector
    scores: dict[str, float]
    classes: list[ClassRow]


def judge(trainer: Trainer, weights: str | Path, data: YOLODataModule, imgsz: int, split: Split = "val") -> Judged:
    """Validates the detector in a file, with the classes of the data; all ranks call it, and get the same.

    Args:
        trainer: A fresh Trainer.
        weights: Checkpoint or ``.pt`` file.
        data: A fresh data module.
        imgsz: Side of the images in pixels.
        split: Which images.

    Returns:
        The detector in single precision, its scores by name, and those of each class of the data.
    """
    detector = YOLODetector(weights=str(weights), names=data.names, imgsz=imgsz)
    evaluate = trainer.validate if split == "val" else trainer.test
    try:
        logged = evaluate(detector, datamodule=data, verbose=False)[0]
    except BaseException as stop:
        raise as_stopped(stop, trainer) from None
    detector.float()
    return Judged(detector, {name: float(logged[f"{split}/{name}"]) for name in SCORE_NAMES}, class_rows(detector))


def deployed_latencies(paths: Mapping[str, str | Path], imgsz: int) -> dict[str, dict[str, float]]:
    """Milliseconds per image of several networks as they are deployed, in every runtime that is installed.

    Each is fused (BatchNorm folded into its convolution) as Ultralytics does before that, and run on the device at hand
    with one image per batch, in turn with the others. A runtime that cannot run one of them is left out, and said.

    Args:
        paths: By any key the file of a network.
        imgsz: Side of the images in pixels.

    Returns:
        Name of the runtime -> key -> milliseconds; "torch" comes first.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.zeros(1, 3, imgsz, imgsz, device=device)
    nets = {key: as_deployed(load_network(path)).to(device) for key, path in paths.items()}
    found: dict[str, dict[str, float]] = {}
    for name in RUNTIMES:
        latency = Latency(name)
        if unavailable(latency, device):
            continue
        try:
            forwards = {key: forward_in(latency, net, images) for key, net in nets.items()}
        except Exception as error:  # runtimes raise what they like, and a run of hours does not end by one
            say(f"not timed in {name}: {next(iter(str(error).splitlines()), type(error).__name__)}")
            continue
        found[name] = times_in_turn(forwards)
    return found


def how_timed() -> str:
    """How :func:`deployed_latencies` has measured, as a sentence."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    threads = torch.get_num_threads()
    return f"Latency: one image per batch on {device}, {threads} thread{'s' * (threads > 1)}, BatchNorm fused."


def unavailable(latency: Latency, device: torch.device) -> bool:
    """Whether a runtime is not installed, or does not run on the device."""
    try:
        expect_runtime(latency)
    except ValueError:
        return True
    return latency.runtime == "openvino" and device.type != "cpu"
