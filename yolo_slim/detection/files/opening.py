"""Opening the files of others: what an Ultralytics ``.pt`` may consist of, and reading one without running anything."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn import modules, tasks

from yolo_slim.detection.files import foreign
from yolo_slim.detection.files.archives import ITEM_SIZES, names_wanted, stand_in

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)
_lock = threading.Lock()  # torch keeps one list of what is safe for the whole process

#: Layers of earlier versions, by what they are called today.
RENAMED_LAYERS = {"Silence": "Identity", "YOLOv10DetectionModel": "DetectionModel"}

#: What torch itself puts into files of plain data and tensors.
_TENSORS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.Size",
    "torch.device",
    "builtins.set",
    *(f"torch.{storage}" for storage in ITEM_SIZES),
    *("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.int64", "torch.int32", "torch.uint8"),
}

#: What training leaves beside the network; it is looked at as data and not used.
_LEFT_OVERS = {
    "ultralytics.utils.IterableSimpleNamespace",
    "ultralytics.yolo.utils.IterableSimpleNamespace",
    "types.SimpleNamespace",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "builtins.getattr",  # how a fused layer says which of its methods is its forward
    "typing.Any",
    "collections.defaultdict",
    *(f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "bool", "bytes")),
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
}
#: Losses and what assigns targets, which networks of some versions hold; the module's name differs between versions.
_LEFT_OVER_MODULES = (
    *("ultralytics.utils.loss.", "ultralytics.utils.tal.", "ultralytics.yolo.utils.", "ultralytics.yolo.v8."),
    "omegaconf.",  # settings of the very first versions
)


@contextmanager
def trusted(trust: bool = True) -> Iterator[None]:
    """Opens ``.pt`` files with Python's own unpickler, which runs whatever a file says.

    Args:
        trust: False changes nothing.

    Examples:
        >>> with trusted():
        ...     detector = YOLODetector(weights="from_a_friend.pt")  # doctest: +SKIP
    """
    token = _trusted.set(trust or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted() -> bool:
    """Whether this is inside of :func:`trusted`."""
    return _trusted.get()


def read_plain(path: Path) -> Any:
    """Reads a file of tensors and plain data.

    Raises:
        pickle.UnpicklingError: If it is malformed or asks for anything else.
    """
    wanted = _scanned(path)
    for name in sorted(wanted - _TENSORS):
        raise UnknownName(name)
    return _read(path, [])


def read_inert(path: Path) -> Any:
    """Reads an Ultralytics file as data: tensors as they are, every other object as a stand-in.

    Raises:
        UnknownName: If it asks for anything that detectors do not consist of.
        pickle.UnpicklingError: If it is malformed.
    """
    wanted = _scanned(path) - _TENSORS
    for name in sorted(wanted):
        if not (_is_left_over(name) or layer_class(name) is not None):
            raise UnknownName(name)
    return _read(path, [(stand_in(name), name) for name in wanted])


class UnknownName(Exception):
    """A file asks for a class or function that no detector consists of; its name is the argument."""


def layer_class(wanted: str) -> str | None:
    """The class of today that a name in a file stands for, without its module; None if it is no layer or network.

    Args:
        wanted: Full name as the file has it, such as ``ultralytics.nn.modules.conv.Conv``.
    """
    module, _, name = wanted.rpartition(".")
    if name in foreign.NETWORKS:
        return foreign.NETWORKS[name]
    if name in foreign.LAYERS:  # their tools define them wherever they like
        return name
    name = RENAMED_LAYERS.get(name, name)
    if module.startswith("torch.nn.modules."):
        places: list[Any] = [nn, sys.modules.get(module)]
    elif module.startswith(("ultralytics.nn.modules", "ultralytics.nn.tasks")):
        places = [modules, modules.block, modules.conv, modules.head, modules.transformer, tasks, nn]
    else:
        return None
    for place in filter(None, places):
        found = vars(place).get(name)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return name
    return None


def _is_left_over(name: str) -> bool:
    return name in _LEFT_OVERS or name.startswith(_LEFT_OVER_MODULES)


def _read(path: Path, allowed: list[Any]) -> Any:
    """Reads with torch's restricted unpickler, to which nothing is known but ``allowed``, whatever others told it."""
    with _lock:
        others = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals(allowed)
            # Mapped, since torch checks the bounds of what it maps and not of what it reads.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # A damaged pickle can make the unpickler fail in any way.
        except Exception as error:
            raise pickle.UnpicklingError(str(error)) from error
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _scanned(path: Path) -> set[str]:
    try:
        return names_wanted(path)
    except Exception as error:  # as above
        raise pickle.UnpicklingError(str(error)) from error
