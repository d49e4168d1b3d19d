"""What a model costs: parameters, multiply-accumulates, latency."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from yolo_slim.pruning.restored import restored


@dataclass(frozen=True)
class LayerProfile:
    """One convolution or linear layer: its parameters and multiply-accumulates."""

    module: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Profile:
    """A model's cost for one input.

    Attributes:
        parameters: elements of all parameters.
        macs: multiply-accumulates of the convolutions and linear layers for the whole batch. Normalisation (fused
            away at inference), activations and biases are not counted.
        layers: the layers that were counted, in the order of the model.
    """

    parameters: int
    macs: int
    layers: list[LayerProfile]

    @property
    def gflops(self) -> float:
        """Floating-point operations in 1e9, two per multiply-accumulate."""
        return 2 * self.macs / 1e9


@torch.no_grad()
def profile(model: nn.Module, example_inputs: Any) -> Profile:
    """Counts parameters and multiply-accumulates of a forward in eval mode; the model comes back as it was.

    Args:
        model: the model.
        example_inputs: a tensor, or a tuple of positional arguments, of the size to count for.
    """
    macs: dict[nn.Module, int] = defaultdict(int)

    def count(module: nn.Module, args: tuple[Tensor, ...], result: Tensor) -> None:
        # A transposed convolution multiplies every input element, the others make every output element, by this much.
        weight = module.weight
        assert isinstance(weight, Tensor)
        elements = args[0] if isinstance(module, _ConvTransposeNd) else result
        macs[module] += elements.numel() * (weight.numel() // weight.shape[0])

    names = {module: name for name, module in model.named_modules() if isinstance(module, (_ConvNd, nn.Linear))}
    hooks = [module.register_forward_hook(count) for module in names]
    try:
        with restored(model):
            model.eval()(*_arguments(example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    layers = [LayerProfile(name, _parameters(module), macs[module]) for module, name in names.items() if module in macs]
    return Profile(_parameters(model), sum(macs.values()), layers)


@torch.no_grad()
def latency(model: nn.Module, example_inputs: Any, repeats: int = 20) -> float:
    """Median time of a forward in eval mode, in seconds, after three that do not count.

    Args:
        model: the model; it comes back as it was.
        example_inputs: a tensor, or a tuple of positional arguments, on the model's device.
        repeats: number of timed forwards, at least 1.

    Raises:
        ValueError: if ``repeats`` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected at least 1")
    arguments, times = _arguments(example_inputs), []
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    with restored(model):
        model.eval()
        for _ in range(repeats + 3):
            start = time.perf_counter()
            model(*arguments)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return median(times[3:])


def _arguments(example_inputs: Any) -> tuple:
    return example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
