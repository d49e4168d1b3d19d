"""What GammaSparsity costs: a training step with it against the same step without, and its logging per epoch.

python -m benchmarks.sparsity --imgsz 320 --batch 16 --steps 40

Every other step of one fit runs without the penalty, so that a busy machine slows both alike. On a CPU it is processor
time that counts, on a GPU the time until the device is idle.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Dataset

from benchmarks.scores import quiet
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.detection import Hyperparameters, YOLODetector

EPOCHS = 2


class Images(Dataset[int]):
    """Random images with two boxes each, made once."""

    def __init__(self, imgsz: int, batch: int, steps: int) -> None:
        self.steps, self.batch = steps, batch
        boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.4]]).repeat(batch, 1)
        index = torch.arange(batch).repeat_interleave(2).float()
        classes = torch.zeros(2 * batch, 1)
        self.images = {"img": torch.rand(batch, 3, imgsz, imgsz), "cls": classes, "bboxes": boxes, "batch_idx": index}

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: list[int]) -> dict[str, torch.Tensor]:
        """The same batch every time."""
        return self.images


class EveryOtherStep(GammaSparsity):
    """Works in steps of odd index alone, and notes what its hooks take."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.index = 0
        self.step_seconds: list[float] = []
        self.epoch_seconds: list[float] = []

    def on_before_optimizer_step(self, *args: Any) -> None:
        """Once per step, before the optimizer."""
        self._in_step(super().on_before_optimizer_step, *args)

    def _after_step(self, *args: Any) -> None:
        self._in_step(super()._after_step, *args)

    def on_train_batch_end(self, *args: Any) -> None:
        """Once per step, after the optimizer."""
        self._in_step(super().on_train_batch_end, *args)
        self.index += 1

    def on_train_epoch_start(self, *args: Any) -> None:
        """Chooses strength or channels."""
        self.epoch_seconds.append(_timed(super().on_train_epoch_start, *args))

    def on_train_epoch_end(self, *args: Any) -> None:
        """Logs."""
        self.epoch_seconds[-1] += _timed(super().on_train_epoch_end, *args)

    def _in_step(self, hook: Callable[..., None], *args: Any) -> None:
        if self.index % 2:
            self.step_seconds += [0.0] * (self.index // 2 + 1 - len(self.step_seconds))
            self.step_seconds[-1] += _timed(hook, *args)


class Clock(Callback):
    """Times every step from the start of its batch; stands last, so that it sees the other callbacks' ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts the clock."""
        self._started = _now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops it."""
        self.seconds.append(_now() - self._started)


def main() -> None:
    """Prints a markdown table, a row per penalty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov8n.yaml")
    parser.add_argument("--imgsz", type=int, default=320, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--steps", type=int, default=40, help=f"steps per epoch, of {EPOCHS}")
    given = parser.parse_args()
    quiet()
    print(f"{given.model}, {given.imgsz} px, batch {given.batch}, {torch.get_num_threads()} threads, {_device()}\n")
    print(
        "| penalty | step without | step with | median of the pairs' ratios | inside the hooks | an epoch's logging |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for penalty in ("subgradient", "proximal", "growing"):
        print(row(given, penalty), flush=True)


def row(given: argparse.Namespace, penalty: Any) -> str:
    """Trains for two epochs; the first steps, when growing has chosen nothing yet, are left out."""
    images = Images(given.imgsz, given.batch, given.steps)
    hyp = Hyperparameters(optimizer="SGD", lr0=1e-4, warmup_epochs=0.0, nbs=given.batch)
    detector = YOLODetector(given.model, {0: "thing"}, imgsz=given.imgsz, hyp=hyp)
    sparsity, clock = EveryOtherStep(penalty), Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=EPOCHS,
            callbacks=[sparsity, clock],
            logger=TensorBoardLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(detector, DataLoader(images, given.batch, collate_fn=images.collate))
    seconds = clock.seconds[given.steps :]
    without, with_it = seconds[0::2], seconds[1::2]
    ratio = median(b / a for a, b in zip(without, with_it, strict=False))
    logging = sparsity.epoch_seconds[-1]
    inside = median(sparsity.step_seconds[len(without) :])
    times = f"{1000 * median(without):.1f} ms | {1000 * median(with_it):.1f} ms | {ratio:.4f}"
    times += f" | {1000 * inside:.2f} ms, {inside / median(without):.2%}"
    return f"| {penalty} | {times} | {1000 * logging:.0f} ms, {logging / sum(seconds):.2%} of {given.steps} steps |"


def _timed(action: Callable[..., None], *args: Any) -> float:
    started = _now()
    action(*args)
    return _now() - started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


if __name__ == "__main__":
    main()
