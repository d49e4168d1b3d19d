"""Files of other Ultralytics versions and pruning tools, put together from their pickles and from numbers.

``tests/fixtures/ultralytics`` has the pickle of each file, which says all but the numbers: these are drawn here.
"""

from __future__ import annotations

import gzip
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.helpers.places import FIXTURES

FOLDER = FIXTURES / "ultralytics"
_DTYPES = {"FloatStorage": np.float32, "HalfStorage": np.float16, "LongStorage": np.int64}


def names() -> list[str]:
    """All files that there are pickles of."""
    return sorted(file.name.removesuffix(".pkl.gz") for file in FOLDER.glob("*.pkl.gz"))


def write_old_file(name: str, folder: Path, content: bytes | None = None) -> Path:
    """Writes a file as torch writes it.

    Args:
        name: One of :func:`names`.
        folder: Where to.
        content: The file's pickle; by default the one of that name.
    """
    content = content or pickle_of(name)
    reader = _Reader(io.BytesIO(content), encoding="utf-8")
    reader.load()
    path = folder / f"{name}.pt"
    file = torch._C.PyTorchFileWriter(str(path))
    file.write_record("data.pkl", content, len(content))
    file.write_record("byteorder", b"little", 6)
    for key, (dtype, count) in reader.storages.items():
        role, shape = reader.tensors.get(key, ("", (count,)))
        raw = _numbers(role, shape, count, int(key)).astype(dtype).tobytes()
        file.write_record(f"data/{key}", raw, len(raw))
    file.write_end_of_file()
    return path


def pickle_of(name: str) -> bytes:
    """The pickle of a file: an object of torch for every layer, and the sizes of its tensors."""
    return gzip.decompress((FOLDER / f"{name}.pkl.gz").read_bytes())


def example() -> torch.Tensor:
    """An image (1, 3, 64, 32) in [0, 1]: not of a shape that a file may remember, with anchors of its own."""
    return torch.from_numpy(np.random.default_rng(0).random((1, 3, 64, 32), dtype=np.float32))


def _numbers(role: str, shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """Numbers with which a network is far from degenerate: about as large at its end as at its beginning."""
    even = np.random.default_rng(seed).random(count, dtype=np.float32) * 2 - 1
    if role == "num_batches_tracked":
        return np.zeros(count)
    if role == "stride":
        return 8.0 * 2 ** np.arange(count)
    if shape == (1, 16, 1, 1):  # what makes distances of a distribution
        return np.arange(count)
    if len(shape) > 1:
        return even * 1.25 * (3 / np.prod(shape[1:])) ** 0.5
    return 1 + even / 2 if role in ("weight", "running_var") else even / 2


class _Tensor:
    def __init__(self, key: str, _: int, shape: tuple[int, ...], *rest: Any) -> None:
        self.key, self.shape = key, shape


class _Anything:
    """What every other object is taken for."""

    def __new__(cls, *arguments: Any) -> _Anything:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


class _Reader(pickle.Unpickler):
    """Finds out what the numbers in a file are for, without anything of torch or Ultralytics.

    Attributes:
        storages: Type and count of the numbers by their key.
        tensors: What a layer calls the tensor that it has there, and its shape.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.storages: dict[str, tuple[type, int]] = {}
        self.tensors: dict[str, tuple[str, tuple[int, ...]]] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "_rebuild_tensor_v2": _Tensor,
            "_rebuild_parameter": lambda tensor, *_: tensor,
            "OrderedDict": OrderedDict,
            "set": set,
            **_DTYPES,
        }
        return known.get(name) or type(name, (_Anything,), {"__setstate__": lambda _, state: self.note(state)})

    def persistent_load(self, pid: Any) -> str:
        _, dtype, key, _, count = pid
        self.storages[key] = dtype, count
        return str(key)

    def note(self, state: Any) -> None:
        """Takes down the names of a layer's tensors."""
        for part in (state, *(state.get(key) for key in ("_parameters", "_buffers"))) if type(state) is dict else ():
            for name, value in part.items() if isinstance(part, Mapping) else ():
                if isinstance(value, _Tensor):
                    self.tensors[value.key] = name, tuple(value.shape)
