"""Prediction: images in, drawn boxes and label files out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.engine.results import Results
from ultralytics.utils.ops import scale_boxes

from yolo_slim.detection.data.guards import decoded
from yolo_slim.documents import read_text
from yolo_slim.files import write_whole


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
        found: list[Path] = []
        for one in sources:
            if not one.exists():
                raise FileNotFoundError(f"data.source={one} does not exist; give an image or a folder of images")
            found += _listed(one)
        images = [path for path in found if path.suffix[1:].lower() in IMG_FORMATS and not path.is_dir()]
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
        original = _read(self.paths[index])
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


def collate(images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks images to a batch ``{"img": uint8 (B, 3, H, W), "path": [...], "name": [...], "label": [...]}``."""
    named = {key: [image[key] for image in images] for key in ("path", "name", "label")}
    return {"img": torch.stack([image["img"] for image in images]), **named}


def prediction_loader(
    source: str | Path | Sequence[str | Path], imgsz: int, batch: int, workers: int
) -> DataLoader[dict[str, Any]]:
    """The images of a source in batches."""
    return DataLoader(ImageFolder(source, imgsz), batch_size=batch, num_workers=workers, collate_fn=collate)


class PredictionWriter(Callback):
    """Writes what ``predict`` finds: ``images/`` with the boxes drawn, ``labels/`` with class, box and score.

    Both have the images' own folders below the one that all images lie in. A label line is ``class x y width height
    score``, the box's centre and size as shares of the image; a file without lines says that nothing was found.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: list[Tensor],
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the images of one batch."""
        for index, (detections, path) in enumerate(zip(outputs, batch["path"], strict=True)):
            original = _read(Path(path))
            boxes = detections.cpu().float().clone()
            scale_boxes(batch["img"].shape[2:], boxes[:, :4], original.shape)
            result = Results(original, path=path, names=pl_module.hparams["names"], boxes=boxes)
            picture = self.folder / "images" / batch["name"][index]
            labels = self.folder / "labels" / batch["label"][index]
            for file in (picture, labels):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(picture, _encoded(result.plot(), picture.suffix))
            write_whole(labels, "".join(_lines(result)))


def _lines(result: Results) -> Iterator[str]:
    found: Any = result.boxes
    for kind, box, score in zip(found.cls, found.xywhn, found.conf, strict=True):
        yield f"{int(kind)} {' '.join(f'{value:g}' for value in [*box.tolist(), score.item()])}\n"


def _encoded(image: np.ndarray, ending: str) -> bytes:
    """A picture in the format of an ending, or as PNG where that cannot be written."""
    try:
        done, content = cv2.imencode(ending, image)
    except cv2.error:
        done = False
    if not done:
        done, content = cv2.imencode(".png", image)
    return content.tobytes()


def _read(path: Path) -> np.ndarray:
    """An image as (height, width, 3) in BGR."""
    image = decoded(path)
    if image is None:
        raise ValueError(f"image {path} cannot be read; replace or remove it")
    return image
