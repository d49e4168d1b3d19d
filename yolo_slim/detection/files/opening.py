"""The one door for files from outside: looked at, scanned, and read without running anything that they say."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import torch_safe_load

from yolo_slim.detection.files.allowed import TENSORS, is_left_over, layer_class
from yolo_slim.detection.files.archives import expect_archive
from yolo_slim.detection.files.scan import names_wanted
from yolo_slim.detection.plain import inert_class
from yolo_slim.detection.trust import is_trusted

_lock = threading.Lock()  # torch keeps one list of what is safe for the whole process

#: What to do about files that want names of these modules.
_REMEDIES = {
    "models.": "it is a file of an original YOLO repository with layers that are not known here: start from a model "
    "YAML, such as yolov5s.yaml or yolov7.yaml",
    "torch.nn.utils.prune.": "call torch.nn.utils.prune.remove on its layers and save it again",
}


class UnknownName(Exception):  # noqa: N818 - what a file says, not what went wrong here
    """A file asks for a class or function that it may not consist of; its name is the argument."""


def open_checkpoint(path: Path) -> Any:
    """Reads a Lightning checkpoint: tensors and plain data.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or asks for anything else.
    """
    expect_archive(path, "train one, or give an Ultralytics .pt file")
    try:
        for name in sorted(_scanned(path) - TENSORS):
            raise UnknownName(name)
        return _read(path, [])
    except UnknownName as error:
        raise ValueError(
            f"{path} wants {error}; expected a .ckpt that yolo_slim wrote, of tensors and plain data because anything "
            "else could run code, or an Ultralytics model with the ending .pt"
        ) from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint; expected a .ckpt that yolo_slim wrote, or an Ultralytics model "
            "with the ending .pt"
        ) from error


def open_pt(path: Path, remedy: str) -> Any:
    """Reads an Ultralytics file: tensors and plain data as they are, every other object as an inert one.

    Inside of :func:`yolo_slim.detection.trusted`, a file that asks for more is opened as stock Ultralytics does it,
    which runs what the file says; its objects are real ones then.

    Args:
        path: The file.
        remedy: What to do if there is none, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or asks for anything that detectors do not consist of.
    """
    expect_archive(path, remedy)
    try:
        wanted = _scanned(path) - TENSORS
        for name in sorted(wanted):
            if not (is_left_over(name) or layer_class(name) is not None):
                raise UnknownName(name)
        return _read(path, [(inert_class(name), name) for name in wanted])
    except UnknownName as error:
        if is_trusted():
            return _run(path)
        trust = "it could run code; if you trust whoever made the file, open it with --trust"
        advice = next((text for module, text in _REMEDIES.items() if str(error).startswith(module)), trust)
        raise ValueError(f"{path} wants {error}, which no Ultralytics detector consists of; {advice}") from error
    except pickle.UnpicklingError as error:
        if is_trusted():
            return _run(path)
        raise ValueError(f"{path} cannot be read as an Ultralytics model; expected a .pt file of a detector") from error


def _run(path: Path) -> Any:
    """Opens a file as stock Ultralytics does, which runs what it says."""
    try:
        return torch_safe_load(str(path))[0]
    # It can say anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be opened, even with --trust ({error!r:.300})") from error


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
