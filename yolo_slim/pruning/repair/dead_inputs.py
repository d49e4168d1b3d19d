"""Which layers read channels without a gamma, and the constants they read there."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.graph.graph import ChannelGraph, Pass
from yolo_slim.pruning.modules.layers import is_depthwise, tensors_of
from yolo_slim.pruning.modules.torch_private import BatchNorm, DispatchMode, tree_map_only
from yolo_slim.pruning.surgery.silence import silence

NOISY_RUNS = 4  # one would miss a gate that happens to be shut in it

Reasons = dict[str, list[str]]  # of each layer


@dataclass(frozen=True, eq=False)
class DeadInputs:
    """A layer that sums over dropped channels; n is its number of input channels per group of the layer.

    Attributes:
        name: Name of the layer.
        layer: A convolution, transposed convolution or linear layer.
        groups: int64 (n,), the group of coupled channels of each input channel.
        constants: (groups of the layer, n), what a dropped channel passes on; zero where that is no constant, and for
            channels that stay.
        norms: The BatchNorm layers that read the layer's output, where nothing else does and they read nothing else.
    """

    name: str
    layer: Any
    groups: Tensor
    constants: Tensor
    norms: list[Any]


@torch.no_grad()
def leave_constants(model: nn.Module, graph: ChannelGraph, dropped: Tensor) -> None:
    """Sets the gammas, not the betas, of dropped groups to zero, in place; groups not ``graph.gated`` are silenced.

    Args:
        model: The model the graph was traced on, or a copy of it.
        graph: Its channel graph.
        dropped: Bool (num_groups,).
    """
    silence(model, graph, dropped & ~graph.gated)
    for name, groups in graph.gammas.items():
        gamma = model.get_submodule(name).weight
        assert isinstance(gamma, Tensor)
        gamma[dropped[groups].to(gamma.device)] = 0


@torch.no_grad()
def find_dead_inputs(
    model: nn.Module, graph: ChannelGraph, dropped: Tensor, run: Pass
) -> tuple[list[DeadInputs], Reasons]:
    """Finds the layers that read constants from dropped channels whose gammas are zero.

    A constant is what is the same at every position and in every call of the layer, for the inputs of the pass, and for
    random inputs with random gammas in place of those that stay.

    Args:
        model: The model the graph was traced on, or a copy of it; it is left as it is.
        graph: Its channel graph.
        dropped: Bool (num_groups,).
        run: Runs the model in eval mode.

    Returns:
        The layers, and layer -> reasons why (some of) the constants it reads are not known.

    Raises:
        ValueError: If ``run`` does not call the model itself.
    """
    why: Reasons = defaultdict(list)
    readers = _readers(model, graph, dropped, why)
    seen = _observe(model, graph, dropped, list(readers), run)
    dead = []
    for name, groups in readers.items():
        if name not in seen:
            why[name].append("is not run by the pass")
            continue
        layer: Any = model.get_submodule(name)
        extremes = torch.stack(seen[name].extremes).unflatten(1, (getattr(layer, "groups", 1), -1))
        low, high = extremes.amin(0), extremes.amax(0)
        gone = dropped[groups].expand_as(low)
        rounding = 100 * torch.finfo(low.dtype).eps * extremes[:, gone].abs().amax()
        constant = high - low <= rounding
        if not constant[gone].all():
            count = f"{int((gone & ~constant).sum())} of its {int(gone.sum())} dropped input channels"
            why[name].append(f"{count} vary with the position, the input or the call")
        constants = torch.where(gone & constant, (low + high) / 2, 0)
        if constants.any():
            norms = [model.get_submodule(norm) for norm in seen[name].norms]
            dead.append(DeadInputs(name, layer, groups, constants, norms))
    return dead, why


def _readers(model: nn.Module, graph: ChannelGraph, dropped: Tensor, why: Reasons) -> dict[str, Tensor]:
    """Layer that sums over dropped channels -> int64 (n,), the group of each input channel."""
    owners = Counter(id(t) for module in model.modules() for t in tensors_of(module).values())
    readers, seen = {}, set()
    for tensor, axis in sorted(graph.summed):
        name, _, key = tensor.rpartition(".")
        groups, module = graph.axes[tensor][axis], model.get_submodule(name)
        if not dropped[groups].any() or is_depthwise(module) or module in seen:
            continue
        seen.add(module)
        own_classes = [c for c in type(module).__mro__ if not c.__module__.startswith("torch.nn")]
        if graph.sides[tensor][axis] != "in" or any({"forward", "_conv_forward"} & vars(c).keys() for c in own_classes):
            why[name].append(f"{type(module).__name__} uses {key} in a way of its own")
        elif any(owners[id(t)] > 1 for t in tensors_of(module).values()):
            why[name].append("shares its parameters with another layer")
        else:
            readers[name] = groups
    return readers


@dataclass
class _Seen:
    """What a layer was seen to do: extremes (C,) of its input channels, its outputs, the BatchNorm layers behind."""

    extremes: list[Tensor] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)


class _Watch(DispatchMode):
    """Counts how often tensors are read, and what reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[int, Tensor] = {}  # alive, so that no other tensor gets the same id
        self.reads: Counter[int] = Counter()

    def watch(self, tensor: Tensor) -> int:
        self.tensors[id(tensor)] = tensor
        return id(tensor)

    def read(self, values: object) -> None:
        self.reads.update(id(value) for value in leaves(values) if id(value) in self.tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.read((args, kwargs))
        return func(*args, **(kwargs or {}))


def _observe(model: nn.Module, graph: ChannelGraph, dropped: Tensor, names: list[str], run: Pass) -> dict[str, _Seen]:
    """Runs a copy without the dropped gammas, on the inputs of the pass and then on noise; watches the named layers."""
    model = copy.deepcopy(model)
    leave_constants(model, graph, dropped)
    layers = {model.get_submodule(name): name for name in names}
    norms: dict[Any, str] = {m: name for name, m in model.named_modules() if isinstance(m, BatchNorm)}
    gammas = {norm: norm.weight.clone() for norm in norms if norm.weight is not None}
    seen: dict[str, _Seen] = defaultdict(_Seen)
    normalised: dict[str, list[int]] = defaultdict(list)  # BatchNorm layer -> its inputs, 0 if not watched
    results: list[Any] = []
    watch = _Watch()

    def consume(layer: Any, args: tuple, kwargs: dict[str, Any], result: Tensor) -> None:
        x = _input(args, kwargs)
        axis = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.dim()
        channels = x.movedim(axis, 0).flatten(1).cpu()
        seen[layers[layer]].extremes += [channels.amin(1), channels.amax(1)]
        seen[layers[layer]].outputs.append(watch.watch(result))

    def normalise(norm: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        x, by_running_mean = _input(args, kwargs), norm.running_mean is not None and not norm.training
        normalised[norms[norm]].append(id(x) if by_running_mean and id(x) in watch.tensors else 0)

    def leave(module: nn.Module, args: tuple, result: object) -> None:
        watch.read(result)
        results.append(result)

    for layer in layers:
        layer.register_forward_hook(consume, with_kwargs=True)
    for norm in norms:
        norm.register_forward_pre_hook(normalise, with_kwargs=True)
    model.register_forward_hook(leave)
    device = next((p.device.type for p in model.parameters()), "cpu")
    with torch.random.fork_rng(devices=[]), torch.autocast(device, enabled=False), watch:
        torch.manual_seed(0)
        run(model)
        model.register_forward_pre_hook(_make_noise, with_kwargs=True)
        for _ in range(NOISY_RUNS):
            for norm, gamma in gammas.items():
                norm.weight.copy_(gamma * torch.randn(gamma.shape).to(gamma))
            run(model)
    if not results:
        raise ValueError(f"pass {run!r} does not call the model itself; compensation needs one that does: model(...)")
    for one in seen.values():
        behind = [name for name, inputs in normalised.items() if set(inputs) & set(one.outputs)]
        inputs = [key for name in behind for key in normalised[name]]
        if sorted(inputs) == sorted(one.outputs) and all(watch.reads[key] == 1 for key in one.outputs):
            one.norms = behind
    return seen


def _input(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["input"]


def _make_noise(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    def noise(tensor: Tensor) -> Tensor:
        return torch.rand(tensor.shape, dtype=tensor.dtype).to(tensor.device) if tensor.is_floating_point() else tensor

    return tree_map_only(Tensor, noise, (args, kwargs))
