"""What a model costs: parameters, multiply-accumulates, memory of its activations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.measure.latency import positional
from yolo_slim.pruning.modules.restored import restored
from yolo_slim.pruning.modules.torch_private import Convolution, DispatchMode, StorageWeakRef, TransposedConvolution


@dataclass(frozen=True)
class LayerProfile:
    """One convolution or linear layer.

    Attributes:
        module: Name of the layer.
        parameters: Elements of its parameters.
        macs: Its multiply-accumulates for the whole batch.
        activation_bytes: Size of its outputs for the whole batch.
    """

    module: str
    parameters: int
    macs: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiply-accumulate."""
        return 2 * self.macs


@dataclass(frozen=True)
class Profile:
    """A model's cost for one input.

    Attributes:
        parameters: Elements of all parameters.
        macs: Multiply-accumulates of the convolutions and linear layers for the whole batch. Normalisation (fused
            away at inference), activations and biases are not counted, nor are products of two activations.
        activation_bytes: Outputs of the convolutions and linear layers for the whole batch, all together: what they
            write to memory.
        peak_bytes: The most that tensors made by the forward hold at one time: storages that are alive after any of
            its operations, each counted once however many views it has, when PyTorch runs the model as it is without
            gradients. Parameters, buffers, the inputs and what a kernel needs while it runs are not counted.
        layers: The layers that were counted, in the order of the model.
    """

    parameters: int
    macs: int
    activation_bytes: int
    peak_bytes: int
    layers: list[LayerProfile]

    @property
    def flops(self) -> int:
        """Floating-point operations, two per multiply-accumulate."""
        return 2 * self.macs

    @property
    def gflops(self) -> float:
        """The same in 1e9."""
        return self.flops / 1e9

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the sums by name, and ``layers``, a list with one row by name for each layer."""
        return asdict(self)


@torch.no_grad()
def profile(model: nn.Module, example_inputs: object) -> Profile:
    """Counts what a forward in eval mode costs; the model comes back as it was.

    Convolutions and linear layers are counted where they are called as modules, each time they run. What is in a module
    with an attribute ``training_only = True`` is not: a second head, say, that runs in eval mode for the sake of the
    loss and falls away where the model is used. Its parameters count while they are there.

    Args:
        model: The model.
        example_inputs: A tensor, or a tuple of positional arguments, of the size to count for.

    Example:
        >>> cost = profile(net, torch.rand(1, 3, 9, 9))
        >>> cost.parameters, cost.macs, cost.flops, cost.layers[0].module
        (194, 7092, 14184, '0')
    """
    macs: dict[nn.Module, int] = defaultdict(int)
    outputs: dict[nn.Module, int] = defaultdict(int)

    def count(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        # A transposed convolution multiplies every input element, the others make every output element, by this much.
        weight = module.weight
        assert isinstance(weight, Tensor)
        elements = args[0] if isinstance(module, TransposedConvolution) else result
        macs[module] += elements.numel() * (weight.numel() // weight.shape[0])
        outputs[module] += result.nbytes

    names = counted_layers(model)
    hooks = [module.register_forward_hook(count) for module in names]
    arguments = positional(example_inputs)
    present = (*model.parameters(), *model.buffers(), *arguments)
    try:
        with restored(model), _LiveStorages(present) as live:
            model.eval()(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    layers = [LayerProfile(name, _parameters(m), macs[m], outputs[m]) for m, name in names.items() if m in macs]
    return Profile(_parameters(model), sum(macs.values()), sum(outputs.values()), live.peak, layers)


def counted_layers(model: nn.Module) -> dict[nn.Module, str]:
    """The convolutions and linear layers that run where a model is used, and their names."""
    unused = {
        inner for module in model.modules() if getattr(module, "training_only", False) for inner in module.modules()
    }
    counted = [(name, module) for name, module in model.named_modules() if module not in unused]
    return {module: name for name, module in counted if isinstance(module, (Convolution, nn.Linear))}


class _LiveStorages(DispatchMode):
    """Watches the memory that tensors hold while operations run, except the tensors that are there already."""

    def __init__(self, present: tuple) -> None:
        super().__init__()
        self.peak = 0
        self._present = {StorageWeakRef(storage) for storage in _storages(present)}
        self._live: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._live = {reference: size for reference, size in self._live.items() if not reference.expired()}
        for storage in _storages(result):
            reference = StorageWeakRef(storage)
            if reference not in self._present:
                self._live[reference] = storage.nbytes()
        self.peak = max(self.peak, sum(self._live.values()))
        return result


def _storages(values: object) -> Iterator[torch.UntypedStorage]:
    """The memory behind every dense tensor in a nest of values."""
    for value in leaves(values):
        if isinstance(value, Tensor) and value.layout == torch.strided:
            yield value.untyped_storage()


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
