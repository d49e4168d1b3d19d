"""Prediction: images in, drawn boxes and label files out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from ultralytics.engine.results import Results
from ultralytics.utils.ops import scale_boxes

from yolo_slim.detection.data.images import read_image
from yolo_slim.files import write_whole


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
            original = read_image(Path(path))
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
    boxes: Any = result.boxes
    for kind, box, score in zip(boxes.cls, boxes.xywhn, boxes.conf, strict=True):
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
