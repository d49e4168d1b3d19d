"""Networks with their weights, from any file: Lightning checkpoints of ours, and ``.pt`` files of Ultralytics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from yolo_slim.detection.files.checkpoints import network_weights, read_checkpoint
from yolo_slim.detection.files.opening import open_pt
from yolo_slim.detection.files.rebuild import rebuild
from yolo_slim.detection.network.build import not_finite
from yolo_slim.detection.network.limits import DEFAULT_IMGSZ, expect_imgsz, takes_imgsz
from yolo_slim.wording import printable


def expect_given(**paths: Any) -> None:
    """Refuses empty texts, which would be taken for nothing given at all.

    Args:
        paths: By the name that a user knows each of them by.

    Raises:
        ValueError: If one is a text without a letter.
    """
    for name, path in paths.items():
        if isinstance(path, str) and not path.strip():
            raise ValueError(f"{name} is empty: give a path, or leave it out")


def load_network(path: str | Path) -> DetectionModel:
    """Reads a network with its weights, whatever its structure; see :func:`read_weights`."""
    return read_weights(path)[0]


def read_weights(path: str | Path) -> tuple[DetectionModel, int]:
    """Reads a network with its weights and the image size that it is for; nothing that a file contains is run.

    Args:
        path: A Lightning checkpoint of a detector (the averaged weights where there are some), an Ultralytics ``.pt``
            file, or the name of a published one, which Ultralytics then downloads.

    Returns:
        The network in float32, trainable, on the CPU, and the side of its images in pixels.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is neither of the two, is damaged, or its weights are not finite.
    """
    path = Path(path)
    if path.suffix == ".pt":
        net, imgsz = _read_pt(path)
    else:
        checkpoint, record = read_checkpoint(path)
        net, imgsz = record.build(network_weights(checkpoint), str(path)), record.imgsz
    return _finite(net, path), imgsz if takes_imgsz(imgsz) else DEFAULT_IMGSZ


def choose_imgsz(imgsz: int | None, file: str | Path | None) -> int:
    """The side of the images that a verb works with, in pixels.

    Args:
        imgsz: What the user asks for; None for that of the file.
        file: The checkpoint or ``.pt`` file that a verb works with, if any.

    Returns:
        ``imgsz``, else what the file has been trained with, else 640. Where the first two differ, it is said.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the side is none that a network takes, or the file is no detector.
    """
    if imgsz is not None:
        expect_imgsz(imgsz)
    known = read_weights(file)[1] if file else None
    if imgsz is not None and known is not None and imgsz != known:
        rank_zero_info(
            f"Images of {imgsz} pixels are used, as asked for; {printable(str(file))} is for {known} pixels."
        )
    return imgsz or known or DEFAULT_IMGSZ


def _read_pt(path: Path) -> tuple[DetectionModel, Any]:
    """The network of a ``.pt`` file, and what the file says of the side of its images."""
    remedy = "give a .pt file or the name of a published one such as yolov8n.pt"
    if not path.exists() and str(path) in GITHUB_ASSETS_NAMES:
        path, remedy = Path(attempt_download_asset(path)), "check the connection, or give the path of a .pt file"
    content = open_pt(path, remedy)
    parts = content if isinstance(content, Mapping) else {"model": content}
    net = parts.get("ema")
    net = rebuild(parts.get("model") if net is None else net, str(path))
    arguments = parts.get("train_args")
    return net, arguments.get("imgsz") if isinstance(arguments, Mapping) else None


def _finite(net: DetectionModel, path: Path) -> DetectionModel:
    state = net.state_dict()
    negative = [name for name, values in state.items() if name.endswith("running_var") and values.min() < 0]
    for name in not_finite(state) + negative:
        raise ValueError(
            f"{path}: {name} holds values that are not finite, the training that wrote it has diverged; take an "
            "earlier checkpoint, or train again with a lower rate"
        )
    return net
