"""Images with boxes from a folder in Ultralytics' layout, as torchvision's detectors and classifiers want them.

`data.yaml` names the folders of images; beside each `images` folder lies `labels`, with one text file for each image
and a line `class x_center y_center width height` for each object, all but the class as fractions of the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


class Boxes(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """One split of a data YAML.

    An item is an image, float (3, H, W) in [0, 1], and its target: `boxes`, float (N, 4) as x1, y1, x2, y2 in pixels
    of that image, and `labels`, int64 (N,) from 1 on, as 0 is torchvision's background.

    Args:
        data: The data YAML.
        split: `train` or `val`.
        size: Longer side in pixels that larger images are shrunk to.
        flip: Whether an image is mirrored, to and fro, at random.

    Raises:
        FileNotFoundError: If the YAML, or an image folder that it names, is not there.
        ValueError: If the YAML, or a line of a label file, is not what was expected; it names the file.
    """

    def __init__(self, data: str | Path, split: str, size: int = 320, flip: bool = False) -> None:
        self.names, self.images = read_data(Path(data), split)
        self.rows = [read_labels(label_file(image), len(self.names)) for image in self.images]
        self.size, self.flip = size, flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The image and its target."""
        with Image.open(self.images[index]) as file:
            file.draft("RGB", (self.size, self.size))  # a JPEG need not be decoded larger than it is used
            small = ImageOps.exif_transpose(file).convert("RGB")  # labels are of the upright image
        small.thumbnail((self.size, self.size))
        image = pil_to_tensor(small).float() / 255
        height, width = image.shape[1:]
        rows = self.rows[index]
        centre, half = rows[:, 1:3], rows[:, 3:] / 2
        boxes = torch.cat([centre - half, centre + half], 1).clamp(0, 1) * torch.tensor([width, height] * 2)
        if self.flip and torch.rand(()) < 0.5:
            image = image.flip(2)
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": rows[:, 0].long() + 1}


def collate(batch: list[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Lists of images and of targets: images of a batch may differ in size."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """What the boxes of a split show, each as an image of its own: float (3, size, size) in [0, 1], class from 0 on.

    Args:
        data: The data YAML.
        split: `train` or `val`.
        size: Height and width in pixels.
        flip: Whether crops are mirrored at random, along both axes.
    """

    def __init__(self, data: str | Path, split: str, size: int = 48, flip: bool = False) -> None:
        boxes = Boxes(data, split, size=100_000)
        self.names, self.flip = boxes.names, flip
        crops, labels = [torch.empty(0, 3, size, size, dtype=torch.uint8)], [torch.empty(0, dtype=torch.int64)]
        for image, target in boxes:
            picture = Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy())
            places = [tuple(box) for box in target["boxes"].tolist()]
            crops += [pil_to_tensor(picture.resize((size, size), box=place))[None] for place in places]
            labels.append(target["labels"] - 1)
        self.crops, self.labels = torch.cat(crops), torch.cat(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """The crop and its class."""
        crop = self.crops[index].float() / 255
        axes = [axis for axis in (1, 2) if self.flip and torch.rand(()) < 0.5]
        return crop.flip(axes), self.labels[index]


def read_data(file: Path, split: str) -> tuple[list[str], list[Path]]:
    """Names of the classes, and the images of a split; entries are relative to `path`, and that to the file."""
    info = yaml.safe_load(file.read_text())
    if not isinstance(info, dict) or not info.get("names") or not info.get(split):
        raise ValueError(f"{file} lacks names or {split}; expected a data YAML with train, val and names")
    names = info["names"]
    names = [names[i] for i in sorted(names)] if isinstance(names, dict) else list(names)
    entries = info[split] if isinstance(info[split], list) else [info[split]]
    images = [image for entry in entries for image in _listed(file.parent / (info.get("path") or "") / entry)]
    if not images:
        raise ValueError(f"{file}: no images in {split}: {info[split]}; expected {', '.join(sorted(SUFFIXES))} files")
    return names, images


def _listed(path: Path) -> list[Path]:
    """The images in a folder, or those that a text file lists relative to its own folder."""
    if path.is_dir():
        return sorted(image for image in path.rglob("*") if image.suffix.lower() in SUFFIXES)
    if path.suffix == ".txt" and path.is_file():
        return [path.parent / line.strip() for line in path.read_text().splitlines() if line.strip()]
    raise FileNotFoundError(f"{path} is neither a folder of images nor a text file that lists them; correct data.yaml")


def label_file(image: Path) -> Path:
    """Where the labels of an image are: in `labels` in place of the last `images` in its path."""
    parts = list(image.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_labels(file: Path, classes: int) -> Tensor:
    """Float (N, 5) of class, x centre, y centre, width, height; no rows where there is no file or nothing in it."""
    rows: list[list[float]] = []
    lines = file.read_text().splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        problem = _problem(line.split(), classes)
        if problem:
            raise ValueError(
                f"{file}, line {number}: {problem} in {line.strip()!r}; expected 'class x_center y_center width height'"
                f" with a class from 0 to {classes - 1} and fractions of the image"
            )
        rows.append([float(word) for word in line.split()])
    return torch.tensor(rows).reshape(-1, 5)


def _problem(words: list[str], classes: int) -> str:
    """What is wrong with a line, or nothing."""
    try:
        numbers: list[Any] = [float(word) for word in words]
    except ValueError:
        return "not a number"
    if len(numbers) != 5:
        return f"{len(numbers)} numbers"
    if numbers[0] not in range(classes):
        return "no such class"
    if not all(0 <= value <= 1 for value in numbers[1:]):
        return "a value outside [0, 1]"
    return "" if min(numbers[3:]) > 0 else "a box without a size"
