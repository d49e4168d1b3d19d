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
from ultralytics.nn.tasks import DetectionModel, torch_safe_load
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from yolo_slim import __version__
from yolo_slim.detection.archives import expect_archive, plain
from yolo_slim.detection.network import build_network, size_attributes
from yolo_slim.detection.opening import UnknownName, is_trusted, read_inert, read_plain
from yolo_slim.detection.rebuild import class_names, first_reason, rebuild
from yolo_slim.detection.sizes import apply_sizes, expect_tensors
from yolo_slim.detection.training_state import PARTS, check_training_state
from yolo_slim.files import write_whole
from yolo_slim.pruning import structure_of

#: Name of the network inside a detector, and so the prefix of its entries in a state dict.
NETWORK_PREFIX = "net."
#: Version of the checkpoints that are written. It rises when older code could not read them.
FORMAT = 1
#: Image size of files that do not say any, in pixels: Ultralytics' default.
DEFAULT_IMGSZ = 640


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
        net, imgsz = _load_ultralytics(path)
    else:
        checkpoint = read_checkpoint(path)
        net, imgsz = _load_lightning(checkpoint, path), checkpoint["hyper_parameters"].get("imgsz")
    return _finite(net, path), imgsz if type(imgsz) is int and 0 < imgsz <= 65536 else DEFAULT_IMGSZ


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
    if type(written) is not int or written > FORMAT:
        raise ValueError(
            f"{name} has the checkpoint format {written!r}, this yolo_slim ({__version__}) reads up to {FORMAT}; "
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
            f"{name} is a checkpoint of another project, whose hyper_parameters have {min(map(str, unknown))!r:.80}; "
            "expected one that yolo_slim wrote, or an Ultralytics .pt file"
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


def _load_ultralytics(path: Path) -> tuple[DetectionModel, Any]:
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


def _finite(net: DetectionModel, path: Path) -> DetectionModel:
    for name, values in net.state_dict().items():
        if not values.isfinite().all() or (name.endswith("running_var") and values.min() < 0):
            raise ValueError(
                f"{path}: {name} holds values that are not finite, the training that wrote it has diverged; take an "
                "earlier checkpoint, or train again with a lower rate"
            )
    return net
