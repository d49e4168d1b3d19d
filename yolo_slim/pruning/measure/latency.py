"""How long a forward takes: in PyTorch, and in ONNX Runtime."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.modules.restored import restored

K = TypeVar("K")

WARM_UP = 3  # forwards that do not count: caches fill, kernels are chosen


@torch.no_grad()
def latency_ms(model: nn.Module, example_inputs: object, repeats: int = 20) -> float:
    """The median time of a forward in eval mode, in milliseconds, after three that do not count.

    Args:
        model: The model; it comes back as it was.
        example_inputs: A tensor, or a tuple of positional arguments, on the model's device.
        repeats: Number of timed forwards, at least 1.

    Raises:
        ValueError: If ``repeats`` is below 1.
    """
    _check_repeats(repeats)
    arguments = positional(example_inputs)
    device = device_of(model, arguments)

    def wait() -> None:
        if device.type != "cpu":  # kernels run on after the call that starts them
            torch.accelerator.synchronize(device)

    with restored(model):
        model.eval()
        return _median_time(lambda: model(*arguments), wait, repeats)


def latencies_ms(models: Mapping[K, tuple[nn.Module, Any]], rounds: int = 5, repeats: int = 10) -> dict[K, float]:
    """The median time of a forward of several models, taken in turn so that a busy machine slows all alike.

    Args:
        models: By any key a model and its inputs, as for :func:`latency_ms`.
        rounds: How often each model gets its turn, at least 1.
        repeats: Timed forwards in a turn, at least 1.

    Returns:
        By the same keys milliseconds: the median over the rounds of the median in each.
    """
    times: dict[K, list[float]] = {key: [] for key in models}
    for _ in range(rounds):
        for key, (model, inputs) in models.items():
            times[key].append(latency_ms(model, inputs, repeats))
    return {key: median(values) for key, values in times.items()}


def onnx_latency_ms(model: nn.Module, example_inputs: object, repeats: int = 20) -> float:
    """The median time of the same forward in ONNX Runtime, in milliseconds, after three that do not count.

    The model is exported as it is in eval mode (BatchNorm is folded into the convolution before it) to a temporary
    file. The session runs where the model lies, CPU or CUDA, on as many threads as PyTorch uses, and its inputs and
    outputs stay on that device: the figure compares with :func:`latency_ms`.

    Args:
        model: The model, in float32 (on CUDA also half precision); it comes back as it was.
        example_inputs: A tensor, or a tuple of positional arguments, on the model's device.
        repeats: Number of timed forwards, at least 1.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
        ValueError: If ``repeats`` is below 1, the model is in float64, or ONNX Runtime does not know its device.
    """
    _check_repeats(repeats)
    session = onnx_session(model, example_inputs)
    device = device_of(model, positional(example_inputs)).type
    return _median_time(bound(session, example_inputs, device), lambda: None, repeats)


def onnx_session(model: nn.Module, example_inputs: object, threads: int | None = None, tensorrt: bool = False) -> Any:
    """The ``onnxruntime.InferenceSession`` that :func:`onnx_latency_ms` times; arguments and errors as there.

    Args:
        model: The model.
        example_inputs: Its inputs.
        threads: Threads on a CPU; by default as many as PyTorch uses.
        tensorrt: Run it by ONNX Runtime's TensorRT provider, in half precision where the GPU has it.
    """
    try:
        import onnx  # noqa: F401  # PyTorch's exporter needs it
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{error}; onnx_latency_ms needs two packages: pip install onnx onnxruntime") from error
    device = device_of(model, positional(example_inputs)).type
    provider: Any = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device, device)
    if tensorrt:
        provider = "TensorrtExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(
            f"the model is on {device}, where the installed ONNX Runtime has no {provider};"
            " install onnxruntime-gpu for CUDA and TensorRT, or move the model and the inputs to the CPU"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    providers = [(provider, {"trt_fp16_enable": True}), "CUDAExecutionProvider"] if tensorrt else [provider]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, example_inputs, path)
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def write_onnx(model: nn.Module, example_inputs: object, path: Path) -> None:
    """Exports the model as it is in eval mode, for inputs of this size alone; it comes back as it was.

    Raises:
        ValueError: If it is in float64.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float64:
            raise ValueError(f"{name} is float64, which ONNX Runtime has no convolutions for; call model.float() first")
    with restored(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sizes become constants is wanted here: one size is timed
        # The exporter that traces: unlike the one on torch.export it needs no further package.
        torch.onnx.export(model.eval(), positional(example_inputs), str(path), dynamo=False)


def positional(example_inputs: object) -> tuple:
    """The positional arguments of a forward: a tuple as it is, anything else as the only one."""
    return example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)


def bound(session: Any, example_inputs: Any, device: str) -> Callable[[], None]:
    """A run of a session whose inputs lie on the device already and whose outputs stay there."""
    import onnxruntime

    tensors = [t for t in leaves(positional(example_inputs)) if isinstance(t, Tensor)]
    binding = session.io_binding()
    for entry, tensor in zip(session.get_inputs(), tensors, strict=True):
        array = tensor.detach().cpu().numpy()
        binding.bind_ortvalue_input(entry.name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for entry in session.get_outputs():
        binding.bind_output(entry.name, device)
    return lambda: session.run_with_iobinding(binding)


def _check_repeats(repeats: int) -> None:
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected at least 1")


def _median_time(run: Callable[[], object], wait: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(WARM_UP + repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return 1000 * median(times[WARM_UP:])


def device_of(model: nn.Module, arguments: tuple) -> torch.device:
    """Where the model lies; for one without parameters, where its inputs do."""
    tensors = [*model.parameters(), *(t for t in leaves(arguments) if isinstance(t, Tensor))]
    return tensors[0].device if tensors else torch.device("cpu")
