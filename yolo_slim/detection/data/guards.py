"""Ultralytics' data sets without what they run, fetch or believe by themselves."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import ultralytics
from ultralytics.data import base, dataset, utils

from yolo_slim.detection.trust import is_trusted
from yolo_slim.wording import printable

#: What the labels of this process were when it looked through them, by the place where Ultralytics would keep that.
_seen: dict[str, dict[str, Any]] = {}
#: Endings of images whose header or checksums tell whether they are whole; others are decoded once to find out.
_TELLING = (".jpg", ".jpeg", ".png")
#: No label file is larger, in bytes.
_LARGEST_LABELS = 64_000_000


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
            f"{file}: its images are not there, and its download is a program ({printable(download.split()[0][:40])} "
            "...), which is not run; fetch them by hand, or run it with --trust"
        )


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, Ultralytics looks through images and labels itself, once in a process.

    Its caches of labels are pickles beside the labels, which whoever made the data may have made too: they are neither
    read nor written. Every image and label is looked at by :func:`verify`, and no font is fetched for class names.
    """
    replaced: list[tuple[Any, str, Any]] = [
        (dataset, "load_dataset_cache_file", _recall),
        (dataset, "save_dataset_cache_file", _remember),
        (dataset, "verify_image_label", verify),
        (base, "check_file_speeds", lambda *arguments, **keywords: None),
        (utils, "check_font", lambda font: None),
    ]
    before = [getattr(module, name) for module, name, _ in replaced]
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name, _), function in zip(replaced, before, strict=True):
            setattr(module, name, function)


def verify(arguments: tuple[Any, ...]) -> Any:
    """What Ultralytics finds out about an image and its labels, and what it does not look at.

    Args:
        arguments: Those of ``ultralytics.data.utils.verify_image_label``, image and label file first.

    Returns:
        What that returns; for what cannot be used, five times None, four counts, and a message.
    """
    image, label, prefix = arguments[:3]
    trouble = _trouble(image, label)
    if trouble:
        return [None, None, None, None, None, 0, 0, 0, 1, f"{prefix}{image}: ignoring corrupt image/label: {trouble}"]
    return utils.verify_image_label(arguments)


def _trouble(image: str, label: str) -> str:
    if not os.path.isfile(image):
        return "the image is no ordinary file" if os.path.lexists(image) else "the image does not exist"
    if os.path.lexists(label) and not os.path.isfile(label):
        return f"its label file {label} is no ordinary file"
    if os.path.isfile(label) and os.path.getsize(label) > _LARGEST_LABELS:
        return f"its label file has {os.path.getsize(label) / 1e6:.0f} MB"
    if not image.lower().endswith(_TELLING) and decoded(image) is None:
        return "the image cannot be decoded"
    return ""


def decoded(path: str | Path) -> np.ndarray | None:
    """An image as (height, width, 3) in BGR, as training reads it; None where that fails."""
    # Not cv2.imread, which fails on paths outside ASCII on some systems.
    try:
        content = np.fromfile(path, np.uint8)
        return cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    except cv2.error:
        return None


def known_messages(data: Any) -> list[str]:
    """What was said of the images of a data set when this process looked through them."""
    place = os.path.realpath(Path(data.label_files[0]).parent.with_suffix(".cache"))
    return list(_seen.get(place, {}).get("msgs", []))


def _remember(prefix: str, path: Path, content: dict[str, Any], version: str) -> None:
    content["version"] = version  # as Ultralytics' own does, which goes on with it
    _seen[os.path.realpath(path)] = copy.deepcopy(content)


def _recall(path: Path) -> dict[str, Any]:
    known = _seen.get(os.path.realpath(path))
    if known is None:
        raise FileNotFoundError(path)  # Ultralytics then reads the labels
    return copy.deepcopy(known)
