"""Images for a network: those of a folder or list, and batches of labelled ones."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from ultralytics.data.augment import LetterBox
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import IMG_FORMATS

from yolo_slim.detection.data.guards import decoded
from yolo_slim.detection.network.loss import HALVES
from yolo_slim.documents import read_text


def rescaled(images: torch.Tensor, imgsz: int, multi_scale: float, stride: int, seed: Sequence[int]) -> torch.Tensor:
    """Images stretched to another size, the same for all: boxes relative to the side stay where they are.

    Args:
        images: (N, 3, H, W).
        imgsz: The side around which the new one is drawn, in pixels.
        multi_scale: How far from it at most, as a fraction, in [0, 1).
        stride: What the sides are multiples of, in pixels.
        seed: Draws the new side.
    """
    least, most = max(stride, int(imgsz * (1 - multi_scale))), int(imgsz * (1 + multi_scale) + stride)
    side = int(np.random.default_rng(seed).integers(least, most)) // stride * stride
    factor = side / max(images.shape[2:])
    if factor == 1:
        return images
    size = [math.ceil(length * factor / stride) * stride for length in images.shape[2:]]
    return torch.nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)


class ImageFolder(Dataset[dict[str, Any]]):
    """Images of files, folders and lists, letterboxed to a square as in validation.

    Args:
        source: An image, a folder of images (searched in its subfolders too), a text file with a path in each line, or
            several of these.
        imgsz: Side of the square in pixels.

    Attributes:
        paths: The images, each once.
        names: Where the results of each go below a folder: its path below the folder that all of them lie in.
        labels: The same of its labels, with the image's ending where two images differ by that alone.

    Raises:
        FileNotFoundError: If a source does not exist or there is no image.
        ValueError: If an image is a pipe, a device or a link to nothing.
    """

    def __init__(self, source: str | Path | Sequence[str | Path], imgsz: int) -> None:
        sources = [Path(source)] if isinstance(source, (str, Path)) else [Path(one) for one in source]
        files: list[Path] = []
        for one in sources:
            if not one.exists():
                raise FileNotFoundError(f"data.source={one} does not exist; give an image or a folder of images")
            files += _listed(one)
        images = [path for path in files if path.suffix[1:].lower() in IMG_FORMATS and not path.is_dir()]
        for path in images:
            if not path.is_file():
                raise ValueError(f"image {path} is no ordinary file; remove it")
        self.paths = list({os.path.realpath(path): path for path in images}.values())
        if not self.paths:
            shown = ", ".join(map(str, sources[:3]))
            raise FileNotFoundError(f"data.source={shown} holds no image; known endings are {sorted(IMG_FORMATS)}")
        one_folder = len(sources) == 1 and sources[0].is_dir()
        full = [Path(os.path.abspath(path)) for path in self.paths]
        root = os.path.abspath(sources[0]) if one_folder else os.path.commonpath([path.parent for path in full])
        self.names = [Path(os.path.relpath(path, root)) for path in full]
        stems = Counter(name.with_suffix("") for name in self.names)
        self.labels = [
            name.with_name(f"{name.name}.txt") if stems[name.with_suffix("")] > 1 else name.with_suffix(".txt")
            for name in self.names
        ]
        self._letterbox = LetterBox((imgsz, imgsz), auto=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        original = read_image(self.paths[index])
        image = np.asarray(self._letterbox(image=original))[:, :, ::-1]  # BGR to RGB
        return {
            "img": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "path": str(self.paths[index]),
            "name": str(self.names[index]),
            "label": str(self.labels[index]),
        }


def _listed(source: Path) -> list[Path]:
    """What a source names, one after the other."""
    if source.suffix.lower() == ".txt" and source.is_file():
        lines = [line.strip() for line in read_text(source).lstrip("\ufeff").splitlines()]
        return [source.parent / line if line.startswith("./") else Path(line) for line in lines if line]
    return sorted(source.rglob("*")) if source.is_dir() else [source]


def collate_images(images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks images to a batch ``{"img": uint8 (B, 3, H, W), "path": [...], "name": [...], "label": [...]}``."""
    named = {key: [image[key] for image in images] for key in ("path", "name", "label")}
    return {"img": torch.stack([image["img"] for image in images]), **named}


def prediction_loader(
    source: str | Path | Sequence[str | Path], imgsz: int, batch: int, workers: int
) -> DataLoader[dict[str, Any]]:
    """The images of a source in batches."""
    return DataLoader(ImageFolder(source, imgsz), batch_size=batch, num_workers=workers, collate_fn=collate_images)


def read_image(path: Path) -> np.ndarray:
    """An image as (height, width, 3) in BGR."""
    image = decoded(path)
    if image is None:
        raise ValueError(f"image {path} cannot be read; replace or remove it")
    return image


#: Key of the labels as arrays, which Lightning does not convert.
_EXACT = "exact"


def collate_labelled(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Makes a batch as Ultralytics does, with the labels once more as arrays.

    Lightning's true half precision rounds every tensor of a batch: a box by a pixel or more, a class above 256 to
    another one.
    """
    batch: dict[str, Any] = YOLODataset.collate_fn(samples)
    return batch | {_EXACT: {name: batch[name].numpy() for name in ("cls", "bboxes", "batch_idx")}}


def in_precision(batch: dict[str, Any], kind: torch.dtype) -> dict[str, Any]:
    """A batch on its device with images (B, 3, H, W) uint8 turned into [0, 1] of a type, and labels that are exact."""
    for name, exact in batch.pop(_EXACT, {}).items():
        if batch[name].dtype in HALVES:
            batch[name] = torch.from_numpy(exact).to(batch[name].device)
    batch["img"] = batch["img"].to(kind) / 255
    return batch
