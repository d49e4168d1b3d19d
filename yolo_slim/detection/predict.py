"""Prediction: images in, drawn boxes and label files out."""

from __future__ import annotations

from collections.abc import Sequence
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


class ImageFolder(Dataset[dict[str, Any]]):
    """Images of a file or folder, letterboxed to a square as in validation.

    Args:
        source: An image, or a folder of images (searched in its subfolders too).
        imgsz: Side of the square in pixels.

    Raises:
        FileNotFoundError: If the source does not exist or holds no image.
    """

    def __init__(self, source: str | Path, imgsz: int) -> None:
        source = Path(source)
        if not source.exists():
            raise FileNotFoundError(f"data.source={source} does not exist; give an image or a folder of images")
        found = [source] if source.is_file() else sorted(source.rglob("*"))
        self.paths = [p for p in found if p.suffix[1:].lower() in IMG_FORMATS]
        if not self.paths:
            raise FileNotFoundError(f"data.source={source} holds no image; known endings are {sorted(IMG_FORMATS)}")
        self._letterbox = LetterBox((imgsz, imgsz), auto=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        original = _read(path)
        image = np.asarray(self._letterbox(image=original))[:, :, ::-1]  # BGR to RGB
        return {"img": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), "path": str(path)}


def collate(images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks images to a batch ``{"img": uint8 (B, 3, H, W), "path": [...]}``."""
    return {"img": torch.stack([i["img"] for i in images]), "path": [i["path"] for i in images]}


def prediction_loader(source: str | Path, imgsz: int, batch: int, workers: int) -> DataLoader[dict[str, Any]]:
    """The images of a source in batches."""
    return DataLoader(ImageFolder(source, imgsz), batch_size=batch, num_workers=workers, collate_fn=collate)


class PredictionWriter(Callback):
    """Writes what ``predict`` finds: ``images/`` with the boxes drawn, ``labels/`` with class, box and score.

    A label line is ``class x y width height score``, the box's centre and size as shares of the image.

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
        images, labels = self.folder / "images", self.folder / "labels"
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for detections, name in zip(outputs, batch["path"], strict=True):
            path = Path(name)
            original = _read(path)
            boxes = detections.cpu().float().clone()
            scale_boxes(batch["img"].shape[2:], boxes[:, :4], original.shape)
            result = Results(original, path=name, names=pl_module.hparams["names"], boxes=boxes)
            result.save(str(images / path.name))
            label = labels / f"{path.stem}.txt"
            label.unlink(missing_ok=True)
            result.save_txt(str(label), save_conf=True)


def _read(path: Path) -> np.ndarray:
    """An image as (height, width, 3) in BGR."""
    # Not cv2.imread, which fails on paths outside ASCII on some systems.
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if image is None:
        raise ValueError(f"image {path} cannot be read; replace or remove it")
    return image
