"""The channel graph of a network, in all the ways in which Ultralytics runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import C2PSA, PSA, Attention, CBLinear
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.network.build import head_of
from yolo_slim.pruning import ChannelGraph, trace, train_but_statistics

#: Side of the images that the channels are traced with, in pixels; any multiple of the largest stride gives the same.
TRACE_SIZE = 64
#: Channels of a query or key, and of a value, in each head of an attention.
HEAD_SIZES = ("key_dim", "head_dim")


def size_attributes(net: nn.Module) -> list[str]:
    """Integer attributes of Ultralytics' blocks that follow a channel count.

    The halves of C2f and its kin, what an attention has in each of its heads, and the parts that a CBLinear cuts.
    """
    parts = [f"{name}:c2s" for name, m in net.named_modules() if isinstance(m, CBLinear)]
    halves = [f"{name}:c" for name, m in net.named_modules() if is_halved(m)]
    heads = [f"{name}:{key}" for name, m in net.named_modules() if isinstance(m, Attention) for key in HEAD_SIZES]
    return parts + halves + heads


def is_halved(module: Any) -> bool:
    """Whether a block cuts what its first layer makes into halves of ``c`` channels: C2f, PSA and their kin."""
    return (hasattr(module, "forward_split") or isinstance(module, (PSA, C2PSA))) and isinstance(module.c, int)


def head_sizes(made: int, taken: int, heads: int) -> dict[str, int]:
    """The sizes of :data:`HEAD_SIZES` by the channels that an attention's first layer makes and its last one takes."""
    return {"key_dim": (made - taken) // (2 * heads), "head_dim": taken // heads}


def raw_outputs(net: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Box distributions (B, 4 * reg_max, anchors) and class logits (B, nc, anchors) of the network's present mode.

    Those of both pairs of branches where the head is an end-to-end one.
    """
    head_of(net).shape = None  # a cached size would steer the head's control flow
    outputs = net(images)
    raw = outputs[1] if isinstance(outputs, tuple) else outputs
    pairs = [raw["one2many"], raw["one2one"]] if "one2one" in raw else [raw]
    return tuple(pair[part] for pair in pairs for part in ("boxes", "scores"))


def trace_network(net: DetectionModel) -> ChannelGraph:
    """The channel graph of a network in all the ways in which Ultralytics runs it: eval, training and export."""
    images = torch.rand(1, 3, TRACE_SIZE, TRACE_SIZE, generator=torch.Generator().manual_seed(0))
    images = images.to(next(net.parameters()))  # its device and type

    def evaluation(net: nn.Module) -> Any:
        return raw_outputs(net.eval(), images)

    def training(net: nn.Module) -> Any:
        return raw_outputs(train_but_statistics(net), images)

    def export(net: nn.Module) -> Any:
        # Ultralytics' exporter swaps every forward for forward_split, which splits by C2f.c instead of halving.
        blocks: list[Any] = [m for m in net.eval().modules() if hasattr(m, "forward_split")]
        for block in blocks:
            block.forward = block.forward_split
        try:
            return raw_outputs(net, images)
        finally:
            for block in blocks:
                del block.__dict__["forward"]

    passes: list[Callable[[nn.Module], Any]] = [evaluation, training, export]
    return trace(net, passes=passes)
