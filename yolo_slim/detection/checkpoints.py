"""Reading and writing detectors: Lightning checkpoints of ours and ``.pt`` files of Ultralytics."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import DetectionModel, torch_safe_load
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from yolo_slim.detection.network import build_network, prepare

#: Name of the network inside a detector, and so the prefix of its entries in a state dict.
NETWORK_PREFIX = "net."


def load_network(path: str | Path) -> DetectionModel:
    """Reads a network with its weights, whatever its structure.

    Args:
        path: A Lightning checkpoint of a detector (the averaged weights where there are some), an Ultralytics ``.pt``
            file, or the name of a published one, which Ultralytics then downloads.

    Returns:
        The network in float32, trainable, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is neither of the two.
    """
    path = Path(path)
    if path.suffix == ".pt":
        return _load_ultralytics(path)
    return _load_lightning(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a Lightning checkpoint of a detector without running anything that it contains.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, or not a checkpoint of a detector.
    """
    path = Path(path)
    _expect_file(path, "train one with 'train.py fit' or give an Ultralytics .pt file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({_first_line(error)}); expected a .ckpt that yolo_slim wrote or "
            "an Ultralytics .pt file"
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict and hyper_parameters")
    if not isinstance(checkpoint["hyper_parameters"].get("model"), Mapping):
        raise ValueError(f"{path} is a Lightning checkpoint of another project: it names no detection model")
    return checkpoint


def network_from_hparams(hparams: Mapping[str, Any]) -> DetectionModel:
    """Builds the network that a checkpoint's ``hyper_parameters`` describe, with fresh weights."""
    net = build_network(hparams["model"], len(hparams["names"]), hparams.get("structure"))
    net.names = dict(hparams["names"])
    return net


def save_ultralytics(net: DetectionModel, path: str | Path, imgsz: int) -> None:
    """Writes a network as an Ultralytics ``.pt`` file of stock classes: ``yolo val|predict|export model=...`` opens it.

    Args:
        net: The network; stays as it is.
        path: The file; appears whole or not at all.
        imgsz: Image size that it was trained with, in pixels.
    """
    path = Path(path)
    copied: Any = copy.deepcopy(net).cpu().eval()
    copied.criterion = None
    copied.args = {"task": "detect", "imgsz": imgsz, **(vars(net.args) if hasattr(net, "args") else {})}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({"model": copied.half(), "ema": None, "train_args": copied.args}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _load_lightning(path: Path) -> DetectionModel:
    checkpoint = read_checkpoint(path)
    net = network_from_hparams(checkpoint["hyper_parameters"])
    state = checkpoint["state_dict"]
    weights = {k.removeprefix(NETWORK_PREFIX): v for k, v in state.items() if k.startswith(NETWORK_PREFIX)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit the structure it describes ({_first_line(error)})") from error
    return net


def _load_ultralytics(path: Path) -> DetectionModel:
    if not path.is_file() and str(path) not in GITHUB_ASSETS_NAMES:
        _expect_file(path, "give a .pt file or the name of a published one such as yolov8n.pt")
    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
    except (TypeError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as an Ultralytics model ({_first_line(error)}); expected a .pt file of stock "
            "Ultralytics classes"
        ) from error
    net = checkpoint.get("ema") or checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(net, DetectionModel):
        raise ValueError(f"{path} holds {type(net).__name__}; expected a detection model of Ultralytics")
    return prepare(net)


def _expect_file(path: Path, remedy: str) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"weights file {path} {what}; {remedy}")
    if path.stat().st_size == 0:
        raise ValueError(f"weights file {path} is empty; {remedy}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
