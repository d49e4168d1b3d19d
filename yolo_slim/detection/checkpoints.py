"""Reading and writing detectors: Lightning checkpoints of ours and ``.pt`` files of Ultralytics."""

from __future__ import annotations

import copy
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.tasks import DetectionModel, torch_safe_load
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from yolo_slim.detection.network import build_network, expect_detect, prepare

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
        ValueError: If the file is neither of the two, is damaged, or its weights are not finite.
    """
    path = Path(path)
    if path.suffix == ".pt":
        return _finite(_load_ultralytics(path), path)
    return _load_lightning(read_checkpoint(path), path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a Lightning checkpoint of a detector without running anything that it contains.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, or not a checkpoint of a detector.
    """
    path = Path(path)
    _expect_archive(path, "train one with 'train.py fit' or give an Ultralytics .pt file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint; expected a .ckpt that yolo_slim wrote, of tensors and plain data "
            "because anything else could run code, or an Ultralytics model with the ending .pt"
        ) from error
    check_checkpoint(checkpoint, path)
    return checkpoint


def check_checkpoint(checkpoint: Any, name: object) -> None:
    """Refuses what is not a checkpoint of a detector.

    Args:
        checkpoint: What the file holds.
        name: What to call it.

    Raises:
        ValueError: If it lacks the weights, or the description of the network that they belong to.
    """
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    hparams = parts.get("hyper_parameters")
    if not isinstance(hparams, Mapping) or not isinstance(parts.get("state_dict"), Mapping):
        raise ValueError(
            f"{name} is not a Lightning checkpoint with state_dict and hyper_parameters; expected one that yolo_slim "
            "wrote, or an Ultralytics .pt file"
        )
    model, names, structure = (hparams.get(key) for key in ("model", "names", "structure"))
    described = model and names and all(isinstance(part, Mapping) for part in (model, names, structure or {}))
    if not described:
        raise ValueError(
            f"{name} is a Lightning checkpoint of another project, it describes no detection model; expected one that "
            "yolo_slim wrote, or an Ultralytics .pt file"
        )


def check_resumable(path: str | Path) -> int:
    """Refuses a checkpoint that a fit cannot go on from.

    Returns:
        The number of epochs that it has been trained for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no sound checkpoint of a detector, or holds weights alone.
    """
    checkpoint = read_checkpoint(path)
    if not {"optimizer_states", "lr_schedulers", "loops", "callbacks"} <= checkpoint.keys():
        raise ValueError(
            f"{path} holds weights but no state of a training to go on with; start a new training from it with "
            "--model.weights"
        )
    _load_lightning(checkpoint, Path(path))
    return int(checkpoint["epoch"]) + 1


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


def _load_lightning(checkpoint: dict[str, Any], path: Path) -> DetectionModel:
    try:
        net = network_from_hparams(checkpoint["hyper_parameters"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    state = checkpoint["state_dict"]
    weights = {k.removeprefix(NETWORK_PREFIX): v for k, v in state.items() if k.startswith(NETWORK_PREFIX)}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        first = "".join(str(error).splitlines()[1:2]).strip()
        raise ValueError(
            f"{path}: its weights do not fit the network it describes ({first}); take another checkpoint"
        ) from error
    return _finite(net, path)


def _load_ultralytics(path: Path) -> DetectionModel:
    if path.exists() or str(path) not in GITHUB_ASSETS_NAMES:
        _expect_archive(path, "give a .pt file or the name of a published one such as yolov8n.pt")
    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
    # An AttributeError is how Ultralytics takes a file that holds no dictionary.
    except (TypeError, AttributeError, pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read as an Ultralytics model; expected a .pt file of stock Ultralytics classes, because "
            "anything else could run code"
        ) from error
    net = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(net, DetectionModel):
        what = "no model" if net is None else f"a model of the class {type(net).__name__}"
        raise ValueError(f"{path} holds {what}; expected a detection model of Ultralytics")
    expect_detect(net, str(path))
    return prepare(net)


def _finite(net: DetectionModel, path: Path) -> DetectionModel:
    for name, parameter in net.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"{path}: {name} holds values that are not finite, the training that wrote it has diverged; take an "
                "earlier checkpoint, or train again with a lower rate"
            )
    return net


def _expect_archive(path: Path, remedy: str) -> None:
    """Refuses what torch did not write, and what has changed since: torch itself does not look at the checksums."""
    _expect_file(path, remedy)
    try:
        with zipfile.ZipFile(path) as archive:
            sound = archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"weights file {path} is damaged, cut off or no checkpoint at all; {remedy}")


def _expect_file(path: Path, remedy: str) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"weights file {path} {what}; {remedy}")
    if path.stat().st_size == 0:
        raise ValueError(f"weights file {path} is empty; {remedy}")
