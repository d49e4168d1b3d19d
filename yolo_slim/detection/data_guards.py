"""Ultralytics' data sets without what they run or fetch by themselves."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ultralytics
from ultralytics.data import dataset, utils

from yolo_slim.detection.opening import is_trusted

_CACHE_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"{core}.multiarray", name) for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in ("numpy.core", "numpy._core")),
}


def refuse_script(file: Path, info: Mapping[str, Any]) -> None:
    """Refuses a data YAML whose ``download`` is a program instead of an address: Ultralytics would run it.

    Args:
        file: The data YAML.
        info: Its content.

    Raises:
        ValueError: If it is one, comes from elsewhere than the installed Ultralytics, and is not trusted.
    """
    download = str(info.get("download") or "").strip()
    shipped = Path(ultralytics.__file__).parent in file.resolve().parents
    if download and not download.lower().startswith(("http://", "https://")) and not shipped and not is_trusted():
        raise ValueError(
            f"{file}: its images are not there, and its download is a program ({download.split()[0][:40]} ...), which "
            "is not run; fetch them by hand, or run it with --trust"
        )


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, caches of labels are read as data, since they are pickles, and no font is fetched for class names."""
    before = dataset.load_dataset_cache_file, utils.check_font
    dataset.load_dataset_cache_file, utils.check_font = read_label_cache, lambda font: None
    try:
        yield
    finally:
        dataset.load_dataset_cache_file, utils.check_font = before


def read_label_cache(path: Path) -> dict[str, Any]:
    """Reads a cache of labels that Ultralytics wrote.

    Args:
        path: A ``.cache`` file, of NumPy's format.

    Raises:
        pickle.UnpicklingError: If it holds anything but NumPy arrays and plain data. Ultralytics takes any error for
            a stale cache and reads the labels anew.
    """
    with Path(path).open("rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header(file)
        found: Any = _CacheUnpickler(file).load()
        return found.item()


class _CacheUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CACHE_NAMES:
            raise pickle.UnpicklingError(f"a cache of labels wants {module}.{name}")
        return super().find_class(module, name)
