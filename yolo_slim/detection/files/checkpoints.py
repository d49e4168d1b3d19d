"""Lightning checkpoints of detectors: what they say, and which of them a fit goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import __version__ as lightning_version
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.files.opening import open_checkpoint
from yolo_slim.detection.files.record import NetworkRecord
from yolo_slim.detection.files.training_state import PARTS, check_training_state
from yolo_slim.detection.network.build import fit_classes
from yolo_slim.detection.network.classes import match_classes
from yolo_slim.detection.network.limits import DEFAULT_IMGSZ
from yolo_slim.pruning import save_whole, weights_checkpoint
from yolo_slim.version import __version__
from yolo_slim.wording import brief

#: Name of the network inside a detector, and so the prefix of its entries in a state dict.
NETWORK_PREFIX = "net."
#: Version of the checkpoints that are written. It rises when older code could not read them.
FORMAT = 1


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], NetworkRecord]:
    """Reads a Lightning checkpoint of a detector without running anything that it contains.

    Returns:
        What the file holds, and what that says of the network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, or not a checkpoint of a detector.
    """
    checkpoint = open_checkpoint(Path(path))
    return checkpoint, read_record(checkpoint, path)


def read_record(checkpoint: object, name: object) -> NetworkRecord:
    """What a checkpoint says of its network.

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
    described = parts.get("hyper_parameters") if isinstance(parts.get("state_dict"), Mapping) else None
    return NetworkRecord.parse(described, name)


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the network alone: the average where there is one."""
    state = {str(name): value for name, value in checkpoint["state_dict"].items()}
    return {k.removeprefix(NETWORK_PREFIX): v for k, v in state.items() if k.startswith(NETWORK_PREFIX)}


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
    state = {
        NETWORK_PREFIX + name: value.half() if half and value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    if half and not all(torch.isfinite(value).all() for value in state.values()):
        raise ValueError("the weights hold values above 65504, which half precision cannot; leave half out")
    content = weights_checkpoint(state, NetworkRecord.of(net, imgsz).to_hparams(), lightning_version)
    save_whole(content | {"yolo_slim": stamp()}, path)


def check_resumable(path: str | Path) -> int:
    """Refuses a checkpoint that a fit cannot go on from.

    Returns:
        The number of epochs that it has been trained for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no sound checkpoint of a detector, or holds weights alone.
    """
    checkpoint, record = read_checkpoint(path)
    if not PARTS.keys() & checkpoint.keys():
        raise ValueError(
            f"{path} holds weights but no state of a training to go on with; start a new training from it with "
            "--model.weights"
        )
    record.build(network_weights(checkpoint), str(path))
    try:
        check_training_state(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return int(checkpoint["epoch"]) + 1


def adapt_classes(checkpoint: dict[str, Any], names: Mapping[int, str], fitting: bool) -> NetworkRecord:
    """Has a checkpoint give the classes of the data, where these are its own in another order or some of them.

    Args:
        checkpoint: Of a detector; its head and its description are changed in place.
        names: Class names of the data by index.
        fitting: Whether a fit goes on from it, with states of an optimizer that belong to its own classes.

    Returns:
        What it says of its network then.

    Raises:
        ValueError: If it does not know the classes of the data; for a fit, if they are not the very same.
    """
    what = "the checkpoint"
    record = read_record(checkpoint, what)
    match = match_classes(record.names, names)
    if fitting:
        match.expect_equal(what)
    elif match.indices(what) and match.relation != "equal":
        net = record.build(network_weights(checkpoint), what)
        fit_classes(net, names)
        record = NetworkRecord.of(net, record.imgsz or DEFAULT_IMGSZ)
        checkpoint["state_dict"] = {NETWORK_PREFIX + name: value for name, value in net.state_dict().items()}
        checkpoint["hyper_parameters"] = record.to_hparams()
    return record
