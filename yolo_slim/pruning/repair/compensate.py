"""What channels with a gamma of zero still passed on, given to what stays when they are removed."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.graph.tracing import default_passes
from yolo_slim.pruning.modules.torch_private import TransposedConvolution
from yolo_slim.pruning.repair.dead_inputs import DeadInputs, find_dead_inputs, leave_constants
from yolo_slim.pruning.surgery.plan import make_plan

LARGEST_FACTOR = 10.0  # a kept dead channel that others would be merged into with more than this is no good stand-in


@dataclass(frozen=True)
class Compensated:
    """What :func:`compensate` did.

    Attributes:
        dropped: Bool (num_groups,), the groups that may still be dropped.
        folded: Layers whose constants went into their bias, or the running mean of the BatchNorm layer behind.
        merged: Layers whose constants went into the weights of a dead channel that stays.
        kept_dead: Number of groups that stay for that, with a gamma of zero.
        uncompensated: Layer -> which constants it misses, and why.
    """

    dropped: Tensor
    folded: list[str]
    merged: list[str]
    kept_dead: int
    uncompensated: dict[str, str]


@torch.no_grad()
def compensate(
    model: nn.Module,
    graph: ChannelGraph,
    dropped: Tensor,
    example_inputs: object = None,
    exact: bool = False,
    kept: Tensor | None = None,
) -> Compensated:
    """Gives the layers that stay what the dropped channels pass on when their gammas are zero, in place.

    A channel with a gamma of (nearly) zero still passes the constant act(beta) on. Every layer that reads it takes the
    constant over, so that removing the channels afterwards, ``apply_plan(model, make_plan(graph, found.dropped))``,
    loses only what the gammas let through. Channels that are not ``graph.gated`` pass no constant on.

    The fold adds sum_i c_i sum_k W[o, i, k] to the bias of the layer, or subtracts it from the running mean of the
    BatchNorm layer behind, where nothing else reads the output. It is right wherever the kernel lies inside the image;
    at borders padded with zeros it is not, and for a transposed convolution it is right on average. Training forgets
    the running means, which does no harm: batch statistics take a constant away.

    Args:
        model: The dense model, or a copy, that the graph was traced on. Its outputs mean nothing until the channels
            are removed.
        graph: Its channel graph.
        dropped: Bool (num_groups,), the groups to drop.
        example_inputs: A tensor, a tuple of positional arguments, or a callable that runs the model in eval mode;
            default: the first pass of the graph.
        exact: Also be right at borders and for transposed convolutions: such a layer keeps one dead channel j, and
            W[:, j] += sum_i c_i / c_j W[:, i]. Parts that must keep equal counts each keep as many.
        kept: Bool (num_groups,), dead channels that stay in any case; none by default.

    Returns:
        What was done, and the groups that are left to drop.

    Raises:
        ValueError: If the dropped groups do not fit the graph, or the callable does not call the model itself. The
            model is untouched then.

    Example:
        >>> graph = trace(net, torch.rand(1, 3, 9, 9))
        >>> net[1].bias.data[1] = 0.25  # of the channel whose gamma is zero: it still passes 0.25 on
        >>> dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
        >>> dropped[1] = True
        >>> expected = net.eval()(torch.zeros(1, 3, 9, 9))
        >>> done = compensate(net, graph, dropped)
        >>> apply_plan(net, make_plan(graph, done.dropped))
        >>> done.folded, torch.allclose(net(torch.zeros(1, 3, 9, 9)), expected, atol=1e-6)
        (['3'], True)
    """
    kept = torch.zeros_like(dropped) if kept is None else kept
    make_plan(graph, dropped & ~kept)  # refuses groups that do not fit
    run = graph.passes[0] if example_inputs is None else example_inputs
    run = run if callable(run) else default_passes(run)[0]
    dead = dropped | kept
    entries, why = find_dead_inputs(model, graph, dead, run)
    folded, merged = [], []
    for entry in entries:
        has_place = entry.layer.bias is not None or bool(entry.norms)
        if has_place and not (exact and _sees_position(entry.layer)):
            folded.append(entry)
        elif not exact:
            why[entry.name].append("has no bias, and its output is not read by one BatchNorm layer alone")
        elif _stand_in(entry, dead)[1] == inf:
            why[entry.name].append("has a group without a constant to merge the others into")
        else:
            merged.append(entry)
    left = _with_stand_ins(graph, dead, kept, merged)

    leave_constants(model, graph, dead & ~left)
    for entry in folded:
        _fold(entry, left)
    for entry in merged:
        _merge(entry, left)
    return Compensated(
        dropped=left,
        folded=[entry.name for entry in folded],
        merged=[entry.name for entry in merged],
        kept_dead=int((dead & ~left).sum()),
        uncompensated={name: "; ".join(reasons) for name, reasons in why.items()},
    )


def _sees_position(layer: Any) -> bool:
    """Whether a constant input makes an output that is not constant."""
    if isinstance(layer, nn.Linear):
        return False
    if isinstance(layer, TransposedConvolution) or layer.padding == "same":
        return True
    return layer.padding_mode == "zeros" and layer.padding != "valid" and any(layer.padding)


def _kernel(layer: Any) -> Tensor:
    """The layer's weight as a view (groups, out / groups, in / groups, ...)."""
    weight = layer.weight.detach()
    weight = weight.transpose(0, 1) if isinstance(layer, TransposedConvolution) else weight
    return weight.unflatten(0, (getattr(layer, "groups", 1), -1))


def _stand_in(entry: DeadInputs, allowed: Tensor) -> tuple[int, float]:
    """The channel of an allowed group that others are best merged into, and the largest factor that this takes."""
    size = entry.constants.abs()
    largest = size.amax(1, keepdim=True)
    factor = torch.where(largest > 0, largest / size, 0).amax(0)
    factor[~allowed[entry.groups]] = inf
    return int(factor.argmin()), float(factor.min())


def _with_stand_ins(graph: ChannelGraph, dead: Tensor, kept: Tensor, merged: list[DeadInputs]) -> Tensor:
    """The dead groups that can be dropped when each of these layers keeps a channel to merge the others into."""
    left = dead & ~kept
    for entry in merged:
        if _stand_in(entry, ~left)[1] > LARGEST_FACTOR:
            left[entry.groups[_stand_in(entry, dead)[0]]] = False
            while _keep_more(graph, left):
                pass
    return left


def _keep_more(graph: ChannelGraph, dropped: Tensor) -> bool:
    """Takes groups back, in place, in parts that keep fewer channels than they must; whether there were any."""
    more = False
    for parts in graph.equal_counts:
        gone = [part[dropped[part]] for part in parts]
        fewest = min(len(groups) for groups in gone)
        for groups in gone:
            more |= len(groups) > fewest
            dropped[groups[fewest:]] = False
    return more


def _fold(entry: DeadInputs, dropped: Tensor) -> None:
    kernel = _kernel(entry.layer)
    constants = torch.where(dropped[entry.groups], entry.constants, 0).to(kernel)
    change = torch.einsum("gi,goi->go", constants, kernel.reshape(*kernel.shape[:3], -1).sum(3)).flatten()
    if isinstance(entry.layer, TransposedConvolution):
        change /= prod(entry.layer.stride)  # an output pixel meets one part of the kernel
    if entry.layer.bias is not None:
        entry.layer.bias += change
    else:
        for norm in entry.norms:
            norm.running_mean -= change


def _merge(entry: DeadInputs, dropped: Tensor) -> None:
    kernel = _kernel(entry.layer)
    channel, _ = _stand_in(entry, ~dropped)
    constants = torch.where(dropped[entry.groups], entry.constants, 0)
    factors = torch.where(constants != 0, constants / entry.constants[:, channel, None], 0).to(kernel)
    kernel[:, :, channel] += torch.einsum("gi,goi...->go...", factors, kernel)
