"""Reading and writing detectors: Lightning checkpoints of ours and ``.pt`` files of Ultralytics."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import __version__ as lightning_version
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel

from yolo_slim import __version__
from yolo_slim.detection.files.archives import expect_archive, plain
from yolo_slim.detection.files.opening import UnknownName, read_plain
from yolo_slim.detection.files.pt_files import read_pt
from yolo_slim.detection.files.rebuild import class_names, first_reason
from yolo_slim.detection.files.sizes import apply_sizes, expect_tensors
from yolo_slim.detection.files.training_state import PARTS, check_training_state
from yolo_slim.detection.network.build import (
    LARGEST_IMGSZ,
    STRIDE,
    build_network,
    fit_classes,
    size_attributes,
    takes_imgsz,
)
from yolo_slim.detection.network.classes import match_classes
from yolo_slim.files import write_whole
from yolo_slim.pruning import structure_of
from yolo_slim.wording import brief

#: Name of the network inside a detector, and so the prefix of its entries in a state dict.
NETWORK_PREFIX = "net."
#: Version of the checkpoints that are written. It rises when older code could not read them.
FORMAT = 1
#: Image size of files that do not say any, in pixels: Ultralytics' default.
DEFAULT_IMGSZ = 640


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
        net, imgsz = read_pt(path)
    else:
        checkpoint = read_checkpoint(path)
        net, imgsz = _load_lightning(checkpoint, path), checkpoint["hyper_parameters"].get("imgsz")
    return _finite(net, path), imgsz if takes_imgsz(imgsz) else DEFAULT_IMGSZ


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a Lightning checkpoint of a detector without running anything that it contains.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, or not a checkpoint of a detector.
    """
    path = Path(path)
    expect_archive(path, "train one with 'train.py fit' or give an Ultralytics .pt file")
    try:
        checkpoint = read_plain(path)
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
    check_checkpoint(checkpoint, path)
    return checkpoint


def describe(net: DetectionModel, imgsz: int) -> dict[str, Any]:
    """What a checkpoint needs to rebuild a network; it is the ``hyper_parameters`` of a detector."""
    attributes: Any = net
    return {
        "model": dict(attributes.yaml),
        "names": dict(attributes.names),
        "imgsz": imgsz,
        "structure": structure_of(net, size_attributes(net)),
        "variants": dict(getattr(net, "variants", {})),
    }


def stamp() -> dict[str, Any]:
    """What a checkpoint says of its own format, under the key ``yolo_slim``."""
    return {"format": FORMAT, "version": __version__}


def save_weights(net: DetectionModel, path: str | Path, imgsz: int, half: bool = False) -> None:
    """Writes a small checkpoint: the weights and what rebuilds the network, nothing of a training.

    Args:
        net: The network; stays as it is.
        path: The file; appears whole or not at all.
        imgsz: Image size that the network is for, in pixels.
        half: In half precision, half as large; weights then change by up to 0.05%.

    Raises:
        ValueError: If half precision cannot hold the weights.
    """

    def saved(value: Tensor) -> Tensor:
        value = value.detach().cpu()
        return value.half() if half and value.is_floating_point() else value

    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning_version,
        "state_dict": {NETWORK_PREFIX + name: saved(value) for name, value in net.state_dict().items()},
        "hyper_parameters": describe(net, imgsz),
        "yolo_slim": stamp(),
    }
    if half and not all(value.isfinite().all() for value in checkpoint["state_dict"].values()):
        raise ValueError("the weights hold values above 65504, which half precision cannot; leave half out")
    save_whole(checkpoint, path)


def save_whole(content: Any, path: str | Path) -> None:
    """``torch.save`` to a file that appears whole or not at all."""
    buffer = io.BytesIO()  # torch itself does not survive a full disk
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def check_checkpoint(checkpoint: Any, name: object) -> None:
    """Refuses what is not a checkpoint of a detector.

    Args:
        checkpoint: What the file holds.
        name: What to call it.

    Raises:
        ValueError: If it lacks the weights, or the description of the network that they belong to.
    """
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    about = parts.get("yolo_slim")  # early checkpoints say nothing of their format
    written = about.get("format") if isinstance(about, Mapping) else FORMAT
    if type(written) is not int or not 0 <= written <= FORMAT:
        raise ValueError(
            f"{name} has the checkpoint format {brief(written)}, this yolo_slim ({__version__}) reads up to {FORMAT}; "
            "install a newer one"
        )
    hparams = parts.get("hyper_parameters")
    if not isinstance(hparams, Mapping) or not isinstance(parts.get("state_dict"), Mapping):
        raise ValueError(
            f"{name} is not a Lightning checkpoint with state_dict and hyper_parameters; expected one that yolo_slim "
            "wrote, or an Ultralytics .pt file"
        )
    if unknown := set(hparams) - {"model", "names", "imgsz", "structure", "variants"}:
        raise ValueError(
            f"{name} is a checkpoint of another project, whose hyper_parameters have {min(map(brief, unknown))}; "
            "expected one that yolo_slim wrote, or an Ultralytics .pt file"
        )
    model, names, structure = (hparams.get(key) for key in ("model", "names", "structure"))
    described = model and names and all(isinstance(part, Mapping) for part in (model, names, structure or {}))
    if not described:
        raise ValueError(
            f"{name} is a Lightning checkpoint of another project, it describes no detection model; expected one that "
            "yolo_slim wrote, or an Ultralytics .pt file"
        )
    imgsz = hparams.get("imgsz")  # early checkpoints have none
    if imgsz is not None and not takes_imgsz(imgsz):
        raise ValueError(
            f"{name} is damaged: its image size is {brief(imgsz)}, expected a multiple of {STRIDE} pixels up to "
            f"{LARGEST_IMGSZ}; take another checkpoint of that run"
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
    if not PARTS.keys() & checkpoint.keys():
        raise ValueError(
            f"{path} holds weights but no state of a training to go on with; start a new training from it with "
            "--model.weights"
        )
    _load_lightning(checkpoint, Path(path))
    try:
        check_training_state(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return int(checkpoint["epoch"]) + 1


def network_from_hparams(hparams: Mapping[str, Any]) -> DetectionModel:
    """Builds the network that a checkpoint's ``hyper_parameters`` describe, with fresh weights."""
    names = class_names(plain(hparams["names"]))
    net = build_network(plain(hparams["model"]), len(names), hparams.get("structure"), hparams.get("variants"))
    net.names = names
    return net


def adapt_classes(checkpoint: dict[str, Any], names: Mapping[int, str], fitting: bool) -> None:
    """Has a checkpoint give the classes of the data, where these are its own in another order or some of them.

    Args:
        checkpoint: Of a detector; its head and its description are changed in place.
        names: Class names of the data by index.
        fitting: Whether a fit goes on from it, with states of an optimizer that belong to its own classes.

    Raises:
        ValueError: If it does not know the classes of the data; for a fit, if they are not the very same.
    """
    hparams = checkpoint["hyper_parameters"]
    match = match_classes(hparams["names"], names)
    if fitting:
        match.expect_equal("the checkpoint")
    elif match.indices("the checkpoint") and match.relation != "equal":
        net = _load_lightning(checkpoint, Path("the checkpoint"))
        fit_classes(net, names)
        checkpoint["state_dict"] = {NETWORK_PREFIX + name: value for name, value in net.state_dict().items()}
        checkpoint["hyper_parameters"] = {**hparams, **describe(net, hparams.get("imgsz") or DEFAULT_IMGSZ)}


def _load_lightning(checkpoint: dict[str, Any], path: Path) -> DetectionModel:
    hparams = checkpoint["hyper_parameters"]
    state = {str(name): value for name, value in checkpoint["state_dict"].items()}
    weights = {k.removeprefix(NETWORK_PREFIX): v for k, v in state.items() if k.startswith(NETWORK_PREFIX)}
    try:
        net = network_from_hparams({**hparams, "structure": None})
    # What a file says of a network can be wrong in any way.
    except Exception as error:
        raise ValueError(f"{path}: {str(error) if isinstance(error, ValueError) else repr(error):.500}") from error
    try:
        expect_tensors(weights)
        apply_sizes(net, plain(hparams.get("structure") or {}), weights)
        net.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path}: its weights do not fit the network it describes ({first_reason(error)}); take another checkpoint"
        ) from error
    return net


def _finite(net: DetectionModel, path: Path) -> DetectionModel:
    for name, values in net.state_dict().items():
        if not values.isfinite().all() or (name.endswith("running_var") and values.min() < 0):
            raise ValueError(
                f"{path}: {name} holds values that are not finite, the training that wrote it has diverged; take an "
                "earlier checkpoint, or train again with a lower rate"
            )
    return net
