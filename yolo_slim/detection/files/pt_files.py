"""Reading Ultralytics ``.pt`` files."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import DetectionModel, torch_safe_load
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from yolo_slim.detection.files.archives import expect_archive
from yolo_slim.detection.files.opening import UnknownName, is_trusted, read_inert
from yolo_slim.detection.files.rebuild import rebuild


def read_pt(path: Path) -> tuple[DetectionModel, Any]:
    """Reads the network of a ``.pt`` file, or of a published one that Ultralytics then downloads.

    Returns:
        The network, and what the file says of the side of its images.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds no detector, or wants what no detector consists of.
    """
    if path.exists() or str(path) not in GITHUB_ASSETS_NAMES:
        expect_archive(path, "give a .pt file or the name of a published one such as yolov8n.pt")
    else:
        path = Path(attempt_download_asset(path))
        expect_archive(path, "check the connection, or give the path of a .pt file")
    content = _open_ultralytics(path)
    parts = content if isinstance(content, Mapping) else {"model": content}
    net = parts.get("ema")
    net = rebuild(parts.get("model") if net is None else net, str(path))
    arguments = parts.get("train_args")
    return net, arguments.get("imgsz") if isinstance(arguments, Mapping) else None


#: What to do about files that want names of these modules.
_REMEDIES = {
    "models.": "it is a file of the original YOLOv5 repository; take the model of that name with a u from Ultralytics",
    "torch.nn.utils.prune.": "call torch.nn.utils.prune.remove on its layers and save it again",
}


def _open_ultralytics(path: Path) -> Any:
    try:
        return read_inert(path)
    except UnknownName as error:
        if is_trusted():
            return _run(path)
        trust = "it could run code; if you trust whoever made the file, open it with --trust"
        remedy = next((text for module, text in _REMEDIES.items() if str(error).startswith(module)), trust)
        raise ValueError(f"{path} wants {error}, which no Ultralytics detector consists of; {remedy}") from error
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
