"""Training and validation beside Ultralytics' own trainer: same weights, data, batch, threads and loading processes.

python -m benchmarks.training --data PATH/data.yaml --weights yolov8n.pt --imgsz 320
python -m benchmarks.training --data PATH/data.yaml --weights yolov8n.pt --imgsz 640 --batch 64 --workers 14 --device 0

Each runs in a process of its own, by turns: a fit of ours, the same with validation as `yolo val` does it, one of
Ultralytics', and the bare loop, which takes batches that lie in memory through forward, loss, backward and step. Else
both trainers use their defaults; on a GPU that is mixed precision. Medians over all epochs but the first of a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

MARK = "TIMES "
STARTED = "BENCHMARK_STARTED"


class Clock:
    """Seconds of the epochs of a fit, and what it used of the memory."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.validation: list[float] = []
        self.first_step = 0.0
        self._since = 0.0

    def start(self) -> None:
        """Begins to count."""
        _wait()
        self._since = time.perf_counter()

    def stop(self, kept: list[float]) -> None:
        """Keeps what has been counted."""
        _wait()
        kept.append(time.perf_counter() - self._since)

    def step(self) -> None:
        """Notes when the first batch is there, counted from the start of the process."""
        self.first_step = self.first_step or time.time() - float(os.environ[STARTED])

    def report(self, images: tuple[int, int]) -> None:
        """Prints one line for the process that compares."""
        found = {"train": self.train, "validation": self.validation, "first_step": self.first_step, "images": images}
        found["memory"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak()
        print(MARK + json.dumps(found), flush=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Watch(Callback):
    """Times a fit of ours.

    Args:
        threads: Threads of PyTorch.
    """

    def __init__(self, threads: int) -> None:
        self.clock, self.threads = Clock(), threads

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the threads."""
        torch.set_num_threads(self.threads)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training epoch begins."""
        self.clock.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The first batch is there."""
        self.clock.step()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training part of an epoch has ended; a validation begins."""
        self.clock.stop(self.clock.train)
        self.clock.start()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation has ended."""
        self.clock.stop(self.clock.validation)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports."""
        sets = trainer.datamodule.datasets  # type: ignore[attr-defined]
        self.clock.report((len(sets["train"]), len(sets["val"])))


def fit_as_baseline(keys: dict[str, Any]) -> None:
    """A fit of ours as ``train.py fit -c configs/baseline.yaml`` runs it, with further keys."""
    from yolo_slim.commands import main as ours

    config = Path(__file__).parents[1] / "configs" / "baseline.yaml"
    keys = {"data.cache": "ram", "trainer.enable_progress_bar": "false", **keys}
    ours(["fit", "-c", str(config), *(f"--{key}={value}" for key, value in keys.items())])


def run_ours(given: argparse.Namespace, folder: Path, **more: object) -> None:
    """A fit of ours, as ``train.py fit`` runs it."""
    watch = json.dumps({"class_path": "benchmarks.training.Watch", "init_args": {"threads": given.threads}})
    keys: dict[str, Any] = {
        "data.data": given.data,
        "data.imgsz": given.imgsz,
        "data.batch": given.batch,
        "data.workers": given.workers,
        "data.augment.close_mosaic": 0,
        "model.model": given.weights,
        "trainer.max_epochs": given.epochs,
        "trainer.callbacks+": watch,
        "project": folder,
        **more,
    }
    fit_as_baseline(keys)


def run_alike(given: argparse.Namespace, folder: Path) -> None:
    """A fit of ours that validates on Ultralytics' rectangles with its metric."""
    run_ours(given, folder, **{"model.metric": "ultralytics", "data.rect": "true"})


def run_theirs(given: argparse.Namespace, folder: Path) -> None:
    """A training by Ultralytics."""
    from ultralytics import YOLO
    from ultralytics.engine import trainer as engine

    engine.check_amp = lambda model: given.device != "cpu"  # it would fetch a model to find out
    clock = Clock()

    def begin(trainer: Any) -> None:
        torch.set_num_threads(given.threads)
        clock.start()

    def between(trainer: Any) -> None:
        clock.stop(clock.train)
        clock.start()

    model = YOLO(given.weights)
    model.add_callback("on_train_epoch_start", begin)
    model.add_callback("on_train_batch_start", lambda trainer: clock.step())
    model.add_callback("on_train_epoch_end", between)
    model.add_callback("on_fit_epoch_end", lambda trainer: clock.stop(clock.validation))
    model.train(
        data=given.data,
        imgsz=given.imgsz,
        batch=given.batch,
        workers=given.workers,
        epochs=given.epochs,
        device=given.device,
        cache="ram",
        close_mosaic=0,
        plots=False,
        project=str(folder),
        verbose=False,
    )
    sizes = (len(model.trainer.train_loader.dataset), len(model.trainer.test_loader.dataset))
    del clock.train[given.epochs :], clock.validation[given.epochs :]  # of the last test of best.pt
    clock.report(sizes)


def run_bare(given: argparse.Namespace, folder: Path) -> None:
    """The loop without a trainer: forward, loss, backward, step, on batches that lie in memory."""
    from yolo_slim.detection import YOLODataModule, YOLODetector

    torch.set_num_threads(given.threads)
    data = YOLODataModule(given.data, imgsz=given.imgsz, batch=given.batch, workers=0, cache="ram")
    data.setup("fit")
    batches = list(data.train_dataloader())
    device = torch.device("cpu" if given.device == "cpu" else f"cuda:{given.device}")
    detector = YOLODetector(given.weights, data.names, imgsz=given.imgsz).to(device).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-5)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    clock = Clock()
    clock.step()
    for _ in range(given.epochs):
        clock.start()
        for batch in batches:
            ready = data.on_after_batch_transfer(move_data_to_device(batch, device), 0)
            optimizer.zero_grad()
            with torch.autocast(device.type, enabled=device.type == "cuda"):
                loss = detector.loss(ready)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            scaler.step(optimizer)
            scaler.update()
        clock.stop(clock.train)
    clock.report((len(data.datasets["train"]), 0))


SUBJECTS = {
    "ours": run_ours,
    "ours, validated as by `yolo val`": run_alike,
    "Ultralytics": run_theirs,
    "bare loop": run_bare,
}


def in_a_process(subject: str, arguments: list[str]) -> dict[str, Any]:
    """Runs one of them, and returns what it reports."""
    command = [sys.executable, "-m", "benchmarks.training", *arguments, "--only", subject]
    environment = {**os.environ, STARTED: str(time.time()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RuntimeError(f"{subject} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1][len(MARK) :])  # type: ignore[no-any-return]


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Medians, and ours over the others."""
    head = ["", "training, images/s", "validation, images/s", "first batch after, s", "memory, GB"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    speeds: dict[str, tuple[float, float]] = {}
    for subject, runs in found.items():
        speed = []
        for part, images in (("train", 0), ("validation", 1)):
            epochs = [seconds for run in runs for seconds in run[part][1:]]
            speed.append(runs[0]["images"][images] / median(epochs) if epochs else float("nan"))
        speeds[subject] = (speed[0], speed[1])
        start, memory = (median(run[name] for run in runs) for name in ("first_step", "memory"))
        shown = [f"{speed[0]:.1f}", f"{speed[1]:.1f}" if runs[0]["validation"] else "", f"{start:.1f}"]
        lines.append(f"| {subject} | {' | '.join(shown)} | {memory / 1e9:.2f} |")
    for mine in (name for name in speeds if name.startswith("ours")):
        for other in (name for name in speeds if not name.startswith("ours")):
            ratios = [f"{a / b:.2f}" if b == b else "" for a, b in zip(speeds[mine], speeds[other], strict=True)]
            lines.append(f"| {mine}, over {other} | {' | '.join(ratios)} | | |")
    return "\n".join(lines)


def main() -> None:
    """Compares, or runs one of those that are compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--weights", default="yolov8n.yaml", help="model YAML or .pt file")
    parser.add_argument("--imgsz", type=int, default=320, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch")
    parser.add_argument("--workers", type=int, default=2, help="loading processes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    parser.add_argument("--epochs", type=int, default=4, help="epochs in each process; the first one does not count")
    parser.add_argument("--rounds", type=int, default=2, help="how often each of them runs")
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu", help="cpu, or index of a GPU")
    parser.add_argument("--only", choices=list(SUBJECTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        with tempfile.TemporaryDirectory() as folder:
            SUBJECTS[given.only](given, Path(folder))
        return
    found: dict[str, list[dict[str, Any]]] = {subject: [] for subject in SUBJECTS}
    for _ in range(given.rounds):
        for subject in SUBJECTS:
            found[subject].append(in_a_process(subject, sys.argv[1:]))
    print(table(found))


if __name__ == "__main__":
    main()
