"""A forward in the runtime that a model is deployed in, and several of them timed in turn."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from yolo_slim.pruning.measure.latency import bound, device_of, onnx_session, positional, write_onnx
from yolo_slim.pruning.measure.own_thread import on_own_thread

K = TypeVar("K")
Runtime = Literal["torch", "onnxruntime", "openvino", "tensorrt"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
#: What each of them needs beside PyTorch, whose exporter needs onnx.
_PACKAGES: dict[str, tuple[str, ...]] = {
    "torch": (),
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "tensorrt": ("onnx", "onnxruntime", "tensorrt"),
}


@dataclass
class Latency:
    """Where and how the latency of a model is measured."""

    runtime: Runtime = "torch"
    """"torch", "onnxruntime", "openvino" or "tensorrt" (by ONNX Runtime's provider): where the model will be run."""
    threads: int | None = None
    """Threads on a CPU; by default as many as PyTorch uses."""
    batch: int | None = None
    """Images of a forward; by default those of the example input, 1 for a detector."""
    imgsz: int | None = None
    """Side of the images in pixels; by default that of the example input."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime={self.runtime!r}: expected one of {', '.join(RUNTIMES)}")
        for name in ("threads", "batch", "imgsz"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")

    def inputs(self, example_inputs: object) -> object:
        """Inputs of the batch and side that are asked for: the first axis, and the third and fourth of images.

        Args:
            example_inputs: A tensor, or a tuple of positional arguments.
        """
        if self.batch is None and self.imgsz is None:
            return example_inputs

        def sized(tensor: object) -> object:
            if not isinstance(tensor, Tensor):
                return tensor
            shape = [self.batch or tensor.shape[0], *tensor.shape[1:]] if tensor.dim() else []
            if self.imgsz is not None and tensor.dim() == 4:
                shape[2:] = [self.imgsz, self.imgsz]
            return (
                tensor if shape == list(tensor.shape) else torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
            )

        return tuple(map(sized, example_inputs)) if isinstance(example_inputs, tuple) else sized(example_inputs)


def expect_runtime(latency: Latency) -> None:
    """Finds out whether a model can be run in the runtime here.

    Raises:
        ValueError: If a package that it needs is not installed, or there is no GPU for TensorRT.
    """
    missing = [name for name in _PACKAGES[latency.runtime] if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"latency.runtime={latency.runtime} needs {' and '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}"
        )
    if latency.runtime == "tensorrt" and not torch.cuda.is_available():
        raise ValueError("latency.runtime=tensorrt: TensorRT runs on NVIDIA GPUs, and PyTorch sees none here")


def forward_in(latency: Latency, model: nn.Module, example_inputs: object) -> Callable[[], object]:
    """A forward of a model as it is now in eval mode, ready to be called again and again.

    Args:
        latency: The runtime, and how many threads it has. Batch and side are those of ``example_inputs``.
        model: The model, in float32.
        example_inputs: A tensor, or a tuple of positional arguments, on the model's device.

    Raises:
        ValueError: If the runtime is not installed, or does not run on the model's device.
    """
    expect_runtime(latency)
    device = device_of(model, positional(example_inputs)).type
    if latency.runtime == "torch":
        return _in_torch(model, example_inputs, latency.threads)
    if latency.runtime == "openvino":
        return _in_openvino(model, example_inputs, latency.threads)
    if latency.runtime == "tensorrt" and device != "cuda":
        raise ValueError(f"latency.runtime=tensorrt: the model is on {device}, and TensorRT runs on NVIDIA GPUs alone")
    session = onnx_session(model, example_inputs, latency.threads, tensorrt=latency.runtime == "tensorrt")
    return bound(session, example_inputs, device)


def times_in_turn(forwards: Mapping[K, Callable[[], object]], rounds: int = 8, repeats: int = 8) -> dict[K, float]:
    """Milliseconds of several forwards, taken in turn so that a busy machine slows all alike.

    Of all times the one that a fifth of them is below: what disturbs a forward only makes it longer.

    Args:
        forwards: By any key a forward.
        rounds: How often each gets its turn, at least 1.
        repeats: Timed calls in a turn, at least 1.
    """
    times: dict[K, list[float]] = {key: [] for key in forwards}
    for _ in range(rounds):
        for key, forward in forwards.items():
            forward()  # caches fill with what this one needs
            for _ in range(repeats):
                start = time.perf_counter()
                forward()
                times[key].append(1000 * (time.perf_counter() - start))
    return {key: float(np.quantile(values, 0.2)) for key, values in times.items()}


def _in_torch(model: nn.Module, example_inputs: object, threads: int | None) -> Callable[[], object]:
    arguments = positional(example_inputs)
    device = device_of(model, arguments)
    model = copy.deepcopy(model).eval()

    @torch.no_grad()
    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            model(*arguments)
            if device.type != "cpu":  # kernels run on after the call that starts them
                torch.accelerator.synchronize(device)
        finally:
            torch.set_num_threads(before)

    return run


def _in_openvino(model: nn.Module, example_inputs: object, threads: int | None) -> Callable[[], object]:
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, example_inputs, path)
        compiled = on_own_thread(lambda: openvino.Core().compile_model(str(path), "CPU", options))
    request = compiled.create_infer_request()
    for i, tensor in enumerate(t for t in positional(example_inputs) if isinstance(t, Tensor)):
        request.set_input_tensor(i, openvino.Tensor(tensor.detach().cpu().numpy()))
    return request.infer
