"""What a teacher costs: seconds of a training step with and without `Distillation`, in turn on one machine.

python -m benchmarks.distillation

A YOLOv8n, dense and pruned to a quarter of the operations, learns from the dense one on the built-in images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from benchmarks.scores import quiet
from yolo_slim.callbacks import Distillation, FreshStatistics, WeightEMA
from yolo_slim.detection import YOLODataModule, YOLODetector
from yolo_slim.pruning import Selection, profile
from yolo_slim.workflow import PruneSettings, prune_file

FEATURES = ["model.15", "model.18", "model.21"]


class _Clock(Callback):
    """Seconds from the start of a batch to its end; the batch is there already."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)


def step_seconds(weights: Path, data: YOLODataModule, batches: int, teacher: Distillation | None) -> list[float]:
    """Seconds of the steps of one short epoch, the first two left out."""
    seed_everything(0, workers=True, verbose=False)
    clock = _Clock()
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=batches + 2,
        limit_val_batches=0,
        callbacks=[WeightEMA(), FreshStatistics(), *([teacher] if teacher else []), clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(YOLODetector(weights=str(weights), imgsz=data.imgsz), data)
    return clock.seconds[2:]


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imgsz", type=int, default=320, help="image side in pixels")
    parser.add_argument("--batches", type=int, default=6, help="steps of each turn")
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    quiet()
    with TemporaryDirectory() as place:
        dense, folder = Path(place) / "dense.ckpt", Path(place) / "slim"
        data = YOLODataModule("shapes", imgsz=given.imgsz, batch=16, workers=0)
        detector = YOLODetector("yolov8n.yaml", data.names, imgsz=given.imgsz)
        trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.strategy.connect(detector)
        trainer.save_checkpoint(dense)
        quarter = Selection(max_flops=profile(detector.net, detector.pruning_example).flops / 4)
        folder.mkdir()
        prune_file(dense, PruneSettings(quarter), folder, data, given.imgsz)
        plan = folder / "plan.yaml"
        teachers = {
            "none": lambda plan: None,
            "outputs": lambda plan: Distillation(dense),
            "outputs and features": lambda plan: Distillation(dense, features=1.0, modules=FEATURES, plan=plan),
        }
        print("| network | teacher | milliseconds per step | of the step without one |\n| --- | --- | ---: | ---: |")
        for name, weights, its_plan in (("dense", dense, None), ("a quarter", folder / "slim.ckpt", plan)):
            seconds: dict[str, list[float]] = {teacher: [] for teacher in teachers}
            for _ in range(given.turns):
                for teacher, make in teachers.items():
                    seconds[teacher] += step_seconds(weights, data, given.batches, make(its_plan))
            plain = median(seconds["none"])
            for teacher, found in seconds.items():
                print(f"| {name} | {teacher} | {1000 * median(found):.0f} | {median(found) / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
