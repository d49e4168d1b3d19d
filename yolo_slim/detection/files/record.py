"""What a file says of a network: all that rebuilds one but for the weights, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection.files.sizes import apply_sizes, expect_tensors
from yolo_slim.detection.network.build import build_network
from yolo_slim.detection.network.limits import LARGEST_IMGSZ, STRIDE, takes_imgsz
from yolo_slim.detection.network.tracing import size_attributes
from yolo_slim.detection.plain import plain
from yolo_slim.pruning import Structure, structure_of
from yolo_slim.wording import brief


@dataclass(frozen=True)
class NetworkRecord:
    """The description of a network in a checkpoint; its fields are the ``hyper_parameters`` of a detector."""

    model: dict[str, Any]
    """Content of its model YAML."""
    names: dict[int, str]
    """Class names by index, without gaps."""
    imgsz: int | None = None
    """Side of the images that it is for, in pixels; None in early checkpoints."""
    structure: Structure = field(default_factory=dict)
    """Sizes of its layers; empty where they are those of the YAML."""
    variants: dict[str, str] = field(default_factory=dict)
    """Layers in which it differs from what the YAML gives today, see ``set_variants``."""

    @classmethod
    def of(cls, net: DetectionModel, imgsz: int | None) -> NetworkRecord:
        """The record of a network."""
        attributes: Any = net
        return cls(
            model=dict(attributes.yaml),
            names=dict(attributes.names),
            imgsz=imgsz,
            structure=structure_of(net, size_attributes(net)),
            variants=dict(getattr(net, "variants", {})),
        )

    @classmethod
    def parse(cls, hparams: object, what: object) -> NetworkRecord:
        """Takes plain data, and nothing else, from what a file holds.

        Args:
            hparams: The ``hyper_parameters`` of a checkpoint.
            what: What to call the file.

        Raises:
            ValueError: If it describes no detector, or is damaged.
        """
        if not isinstance(hparams, Mapping):
            raise ValueError(
                f"{what} is not a Lightning checkpoint with state_dict and hyper_parameters; expected one that "
                "yolo_slim wrote, or an Ultralytics .pt file"
            )
        own = [entry.name for entry in fields(cls)]
        if unknown := set(hparams) - set(own):
            raise ValueError(
                f"{what} is a checkpoint of another project, whose hyper_parameters have {min(map(brief, unknown))}; "
                "expected one that yolo_slim wrote, or an Ultralytics .pt file"
            )
        parts = {name: hparams.get(name) or {} for name in own if name != "imgsz"}
        if not (parts["model"] and parts["names"] and all(isinstance(part, Mapping) for part in parts.values())):
            raise ValueError(
                f"{what} is a Lightning checkpoint of another project, it describes no detection model; expected one "
                "that yolo_slim wrote, or an Ultralytics .pt file"
            )
        imgsz = hparams.get("imgsz")
        if imgsz is not None and not takes_imgsz(imgsz):
            raise ValueError(
                f"{what} is damaged: its image size is {brief(imgsz)}, expected a multiple of {STRIDE} pixels up to "
                f"{LARGEST_IMGSZ}; take another checkpoint of that run"
            )
        try:
            said = plain({name: dict(part) for name, part in parts.items()})
            return cls(**{**said, "names": class_names(said["names"])}, imgsz=imgsz)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error

    def to_hparams(self) -> dict[str, Any]:
        """Plain data, which :meth:`parse` takes."""
        return asdict(self)

    def build(self, weights: Mapping[str, Tensor] | None = None, what: str = "the checkpoint") -> DetectionModel:
        """Makes the network.

        Args:
            weights: Its state dict; by default the weights are fresh.
            what: What to call the file they come from.

        Raises:
            ValueError: If the description gives no detector, or the weights do not fit it.
        """
        try:
            net = build_network(
                self.model, len(self.names), None if weights is not None else self.structure, self.variants
            )
        # What a file says of a network can be wrong in any way.
        except Exception as error:
            raise ValueError(f"{what}: {str(error) if isinstance(error, ValueError) else repr(error):.500}") from error
        net.names = self.names
        if weights is not None:
            try:
                expect_tensors(weights)
                apply_sizes(net, self.structure, weights)
                net.load_state_dict(weights)
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{what}: its weights do not fit the network it describes ({first_reason(error)}); take another "
                    "checkpoint"
                ) from error
        return net


def class_names(names: Any) -> dict[int, str]:
    """Class names by index.

    Raises:
        ValueError: If they are not numbered from 0 without gaps.
    """
    pairs = dict(names) if isinstance(names, dict) else dict(enumerate(names))
    if not pairs or pairs.keys() != set(range(len(pairs))):
        raise ValueError("class names are not numbered from 0")
    return {index: str(pairs[index]) for index in range(len(pairs))}


def first_reason(error: Exception) -> str:
    """What an error of torch's says first after its heading, or all that it says in one line."""
    lines = str(error).splitlines()
    return lines[min(1, len(lines) - 1)].strip() if lines else repr(error)
