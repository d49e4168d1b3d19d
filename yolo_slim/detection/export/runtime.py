"""Running an exported file as a detector: to compare it, time it and measure its mAP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.autobackend import AutoBackend

from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.export.undisturbed import undisturbed
from yolo_slim.detection.files.weights import load_network
from yolo_slim.detection.network.classes import match_classes
from yolo_slim.detection.training.calibration import relabelled
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.pruning import on_own_thread


class ExportedDetector(nn.Module):
    """A file of any format that ``train.py export`` writes, as a module.

    Args:
        path: The file or folder. A ``.ckpt`` or ``.pt`` runs in PyTorch with BatchNorm fused, everything else in its
            own runtime through Ultralytics' ``AutoBackend``.
        device: Device of PyTorch, or the one that the runtime is asked for.

    Raises:
        ImportError: If the package that runs the format is not installed.
        FileNotFoundError: If there is no such file.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"exported model {path} does not exist; write one with the verb 'export'")
        self.device = torch.device(device)
        self.model: Any
        if self.path.suffix in (".ckpt", ".pt"):
            self.model = load_network(path).eval().fuse(verbose=False).to(self.device)
            self.names: dict[int, str] = dict(self.model.names)
        else:
            with undisturbed():
                self.model = on_own_thread(lambda: AutoBackend(str(path), device=self.device))
            self.names = dict(self.model.names)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """What the file finds in images.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            Boxes and class scores (B, 4 + nc, anchors), boxes as centre and size in pixels; or, where suppression is in
            the file, (B, n, 6): x1, y1, x2, y2 in pixels, score, class, with rows of zeros at the end.
        """
        outputs = self.model(images.to(self.device))
        return (outputs[0] if isinstance(outputs, (tuple, list)) else outputs).float()


class _Judged(YOLODetector):
    """A detector whose answers come from an exported file."""

    def __init__(self, exported: ExportedDetector) -> None:
        super().__init__(names=exported.names)
        self.exported = exported

    def forward(self, images: Tensor) -> Tensor:
        return self.exported(images)


def file_scores(exported: ExportedDetector, data: YOLODataModule) -> dict[str, float]:
    """Precision, recall and mAP of a file on the validation images, as ``train.py validate`` measures them.

    Args:
        exported: The file.
        data: Has been set up for ``validate``.

    Returns:
        ``precision``, ``recall``, ``map50`` and ``map``, each in [0, 1].

    Raises:
        ValueError: If the file does not know the classes of the data.
    """
    judge = _Judged(exported)
    indices = match_classes(exported.names, data.names or {}).indices(exported.path.name)
    for batch in data.val_dataloader():
        (judged,) = relabelled([data.on_after_batch_transfer(batch, 0)], indices)
        judge.test_step(judged, 0)
    return judge.scores.compute()
