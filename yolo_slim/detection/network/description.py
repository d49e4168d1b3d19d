"""Descriptions of networks (model YAMLs, and what checkpoints carry of them), looked at before a network is built."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv, Detect, v10Detect

from yolo_slim.detection.plain import plain
from yolo_slim.detection.private import TorchDispatchMode, flop_registry, overload_packet
from yolo_slim.wording import brief

#: Heads of detectors; either may be an end-to-end one, with a second pair of branches that needs no NMS.
HEADS = (Detect, v10Detect)
#: Layers with side effects: this one fetches weights from the internet.
_REFUSED_LAYERS = {"TorchVision"}
_MAX_REPEATS = 1000
_MAX_NUMBER = 65_536
_MAX_DEPTH = 10
#: Of an activation, in characters.
_LONGEST = 200
#: Side of the image with which Ultralytics measures the strides of a network that it builds, in pixels.
_STRIDE_SIZE = 256
#: Numbers and operations that building a network and measuring its strides may take. A network of 150 million
#: parameters, more than the largest published ones, takes a quarter of the numbers and a tenth of the operations.
_MAX_NUMBERS = 2_000_000_000
_MAX_OPERATIONS = 1_000_000_000_000
_MAX_CALLS = 20_000
#: Descriptions that have been tried and are sound.
_sound: set[str] = set()


def check_description(description: Mapping[str, Any], what: str) -> None:
    """Refuses a description that names anything but layers, since Ultralytics evaluates parts of it as Python.

    Args:
        description: Content of a model YAML.
        what: What to call it, for the message.

    Raises:
        ValueError: If it is malformed, names something that is no layer, has an ``activation`` that is more than a
            layer with literal arguments, or describes a network far larger than any detector.
    """
    try:
        description = plain(dict(description))
        layers = [*description["backbone"], *description["head"]]
        rows = [(int(repeats), layer) for _, repeats, layer, _ in layers]
        scales = description.get("scales") or {}
        depths = [float(number) for number in (description.get("depth_multiple", 1), *(s[0] for s in scales.values()))]
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what} is not a model YAML of Ultralytics; expected backbone and head with rows of [from, repeats, "
            f"layer, arguments] ({error!r:.200})"
        ) from error
    for _, layer in rows:
        if not isinstance(layer, str) or not _is_layer(layer):
            raise ValueError(f"{what} names {brief(layer)}, which is no layer of Ultralytics, torch.nn or torchvision")
    activation = description.get("activation")
    if activation and not _is_activation(activation):
        raise ValueError(
            f"{what} has the activation {brief(activation)}; expected a layer with literal arguments such as "
            "'nn.SiLU()', because Ultralytics runs it as Python"
        )
    small = (
        sum(repeats for repeats, _ in rows) <= _MAX_REPEATS
        and all(repeats >= 0 for repeats, _ in rows)
        and max(depths) <= _MAX_DEPTH
        and all(abs(number) <= _MAX_NUMBER for number in _numbers(layers))
    )
    if not small:
        raise ValueError(f"{what} describes a network far larger than any detector")
    _try(description, what)


def _is_layer(name: str) -> bool:
    """Whether a name stands for a layer; a whole network is none, since it would read a description of its own."""
    if name.startswith("nn."):
        value, home = getattr(nn, name[3:], None), "torch.nn.modules."
    elif name.startswith("torchvision.ops."):
        value, home = getattr(torchvision.ops, name[16:], None), "torchvision.ops."
    else:
        value, home = vars(tasks).get(name), "ultralytics.nn.modules."
    return (
        isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__.startswith(home)
        and name not in _REFUSED_LAYERS
    )


def _is_activation(text: object) -> bool:
    if not isinstance(text, str) or len(text) > _LONGEST:
        return False
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            return False
        for value in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(value)
        prefix, _, name = ast.unparse(call.func).rpartition(".")
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    return prefix in ("nn", "torch.nn") and _is_layer(f"nn.{name}")


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def _try(description: Mapping[str, Any], what: str) -> None:
    """Builds and runs the network without any memory for its numbers, to see what it would take."""
    key = repr(description)
    if key in _sound:
        return
    try:
        with _same_activation(), torch.device("meta"), Allowance(), torch.no_grad():
            net: Any = tasks.DetectionModel.__new__(tasks.DetectionModel)
            nn.Module.__init__(net)
            net.model, net.save = tasks.parse_model(description, ch=3, verbose=False)
            head = net.model[-1]
            if type(head) in HEADS:
                net.eval()
                head.training = True  # as Ultralytics does it
                net(torch.zeros(1, 3, _STRIDE_SIZE, _STRIDE_SIZE))
    except _TooLargeError as error:
        raise ValueError(f"{what} describes a network far larger than any detector") from error
    # A malformed row can make any layer's constructor fail in any way.
    except Exception as error:
        raise ValueError(f"{what} is not a model YAML of Ultralytics ({error!r:.200})") from error
    if type(head) not in HEADS:
        raise ValueError(
            f"{what} ends in {type(head).__name__}; expected a detection model, whose last layer is Detect"
        )
    _sound.add(key)


@contextmanager
def _same_activation() -> Iterator[None]:
    """Ultralytics keeps a description's activation for the whole process where a row of it fails."""
    before = Conv.default_act
    try:
        yield
    finally:
        Conv.default_act = before


class _TooLargeError(Exception):
    """More numbers or operations than any detector takes."""


class Allowance(TorchDispatchMode):
    """Stops with an error what takes more numbers or operations than to build any detector and measure its strides."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.numbers = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        for tensor in result if isinstance(result, (list, tuple)) else (result,):
            self.numbers += tensor.numel() if isinstance(tensor, Tensor) else 0
        if overload_packet(func) in flop_registry:
            self.operations += flop_registry[overload_packet(func)](*args, **(kwargs or {}), out_val=result)
        if self.calls > _MAX_CALLS or self.numbers > _MAX_NUMBERS or self.operations > _MAX_OPERATIONS:
            raise _TooLargeError
        return result
