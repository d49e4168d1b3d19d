"""How long each layer takes at each width: measured once, kept by machine and runtime."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.pruning.measure.latency import positional
from yolo_slim.pruning.measure.profile import counted_layers
from yolo_slim.pruning.measure.runtimes import Latency, forward_in
from yolo_slim.pruning.measure.times_cache import TimesCache
from yolo_slim.pruning.modules.restored import restored
from yolo_slim.pruning.modules.torch_private import TransposedConvolution

#: Parts of a width at which a layer is timed; these are multiples of 8 where it has some.
PARTS, STEP = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1), 8
REPEATS = 12

#: Times a layer with the inputs that it is called with, in milliseconds.
Clock = Callable[[nn.Module, Tensor], float]


@dataclass(frozen=True)
class WidthTimes:
    """Milliseconds of a layer over its widths; between those that were timed it is linear.

    Attributes:
        ins: float64 (n,), ascending: channels of the input; (1,) where they do not count on their own.
        outs: float64 (m,), ascending: channels of the output.
        ms: float64 (n, m).
    """

    ins: np.ndarray
    outs: np.ndarray
    ms: np.ndarray

    def at(self, ins: float, outs: float) -> float:
        """Milliseconds at a width."""
        return float(np.interp(outs, self.outs, [np.interp(ins, self.ins, column) for column in self.ms.T]))

    def slopes(self) -> tuple[float, float]:
        """What one channel of the input, and one of the output, saves of the whole layer; at least 0."""
        by_in = _slope(self.ins, self.ms[:, -1])
        return by_in, _slope(self.outs, self.ms[-1])


def _slope(widths: np.ndarray, ms: np.ndarray) -> float:
    """Of the line through the upper half of the widths: a single step is no more than noise."""
    upper = widths >= widths[-1] / 2
    return max(0.0, float(np.polyfit(widths[upper], ms[upper], 1)[0])) if upper.sum() > 1 else 0.0


def layer_times(
    model: nn.Module,
    example_inputs: object,
    latency: Latency,
    clock: Clock | None = None,
    cache: TimesCache | None = None,
) -> dict[str, WidthTimes]:
    """Times every convolution and linear layer that a forward calls, alone and at several widths.

    A convolution in groups is timed over its channels if it has one group for each, else at the width that it has.

    Args:
        model: The model; it comes back as it was.
        example_inputs: A tensor, or a tuple of positional arguments.
        latency: The runtime.
        clock: What times a layer; by default the runtime.
        cache: What is known of this machine already; by default that of the user.

    Returns:
        Name of the layer -> its times.
    """
    clock = clock or (lambda layer, inputs: _quickest(forward_in(latency, layer, inputs)))
    cache = TimesCache.of_machine(latency) if cache is None else cache
    found: dict[str, WidthTimes] = {}
    for name, (layer, shapes) in _calls(model, example_inputs).items():
        ins, outs = _widths(layer)
        ms = np.zeros((len(ins), len(outs)))
        for shape, times in shapes.items():
            for (i, narrow), (j, tall) in product(enumerate(ins), enumerate(outs)):
                key = f"{_key(layer)} {'x'.join(map(str, shape))}: {narrow} -> {tall}"
                if key not in cache:
                    cache[key] = _time(clock, layer, shape, narrow, tall)
                ms[i, j] += times * cache[key]
        cache.save()
        found[name] = WidthTimes(np.array(ins, float), np.array(outs, float), ms)
    return found


def _calls(model: nn.Module, example_inputs: object) -> dict[str, tuple[Any, Counter[tuple[int, ...]]]]:
    """Each layer, and the shapes of its inputs with the number of calls."""
    calls: dict[str, tuple[Any, Counter[tuple[int, ...]]]] = {}
    names = counted_layers(model)

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls.setdefault(names[module], (module, Counter()))[1][tuple(inputs[0].shape)] += 1

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with restored(model), torch.no_grad():
            model.eval()(*positional(example_inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _widths(layer: Any) -> tuple[list[int], list[int]]:
    if isinstance(layer, nn.Linear):
        return _points(layer.in_features), _points(layer.out_features)
    if layer.groups == 1:
        return _points(layer.in_channels), _points(layer.out_channels)
    if _is_depthwise(layer):
        return [layer.in_channels], _points(layer.out_channels)
    return [layer.in_channels], [layer.out_channels]


def _is_depthwise(layer: Any) -> bool:
    return layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def _points(channels: int) -> list[int]:
    step = STEP if channels >= 2 * STEP else 1
    rounded = {max(step, round(channels * part / step) * step) for part in PARTS}
    return sorted({width for width in rounded if width < channels} | {channels})


def _time(clock: Clock, layer: Any, shape: tuple[int, ...], ins: int, outs: int) -> float:
    """Milliseconds of a layer like this one with other widths."""
    weight = layer.weight
    with torch.random.fork_rng(devices=[]):  # a measurement changes no random number of a training
        twin = _twin(layer, ins, outs).to(weight.device, weight.dtype)
        ins = twin.in_features if isinstance(layer, nn.Linear) else twin.in_channels
        axis = -1 if isinstance(layer, nn.Linear) else -1 - len(layer.kernel_size)
        shape = tuple(ins if i == len(shape) + axis else size for i, size in enumerate(shape))
        return clock(twin, torch.rand(shape, device=weight.device, dtype=weight.dtype))


def _twin(layer: Any, ins: int, outs: int) -> Any:
    bias = True  # BatchNorm is folded into one
    if isinstance(layer, nn.Linear):
        return nn.Linear(ins, outs, bias)
    transposed = isinstance(layer, TransposedConvolution)
    groups = layer.groups
    if _is_depthwise(layer):
        ins = groups = outs
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{len(layer.kernel_size)}d")
    more = {"output_padding": layer.output_padding} if transposed else {}
    keys = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return kind(ins, outs, groups=groups, bias=bias, **{key: getattr(layer, key) for key in keys}, **more)


def _key(layer: Any) -> str:
    """What the time of a layer depends on beside its widths and input."""
    if isinstance(layer, nn.Linear):
        return "linear"
    kind = "transposed" if isinstance(layer, TransposedConvolution) else "convolution"
    groups = "each" if _is_depthwise(layer) else layer.groups
    return f"{kind} {layer.kernel_size} {layer.stride} {layer.padding} {layer.dilation} {groups} {layer.weight.dtype}"


def _quickest(forward: Callable[[], object]) -> float:
    """The shortest of several times: what disturbs a forward this short only makes it longer."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        forward()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)
