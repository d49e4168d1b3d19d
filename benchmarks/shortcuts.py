"""Residual channels pruned together or spared, at equal GFLOPs: scores after the prune and after the same finetune.

python -m benchmarks.shortcuts --weights runs/baseline/best.ckpt --data PATH/data.yaml --imgsz 320 --epochs 15
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import torch
from lightning.pytorch import seed_everything

from benchmarks.scores import arguments, validated
from yolo_slim.callbacks import save_slim
from yolo_slim.detection import YOLODataModule, YOLODetector, observe_gradients, training_batches
from yolo_slim.pruning import Importance, Selection, importance_scores, profile, prune, store_structure

BATCHES = 16
LAST = 5  # epochs whose mean is reported: single epochs on a small validation set scatter by 0.01


def main() -> None:
    """Prints a markdown table, a row per share of the operations and way with shortcuts."""
    parser = arguments(__doc__, weights="checkpoint of a dense model")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.35], help="operations left, as a share")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the finetune")
    parser.add_argument("--project", default="runs/shortcuts", help="folder of the run folders")
    given = parser.parse_args()
    print("| shortcuts | GFLOPs | params | mAP50-95 pruned | best finetuned | mean of the last 5 epochs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for share in given.shares:
        for shortcuts in ("couple", "spare"):
            print(row(given, share, shortcuts), flush=True)


def row(given: argparse.Namespace, share: float, shortcuts: str) -> str:
    """Prunes, finetunes and scores one model."""
    seed_everything(0, verbose=False)
    data = YOLODataModule(given.data, imgsz=given.imgsz, batch=16, workers=0)
    detector = YOLODetector(weights=given.weights)
    graph = detector.trace_channels()
    images = torch.zeros(1, 3, given.imgsz, given.imgsz)
    budget = share * profile(detector.net, images).flops
    taylor = observe_gradients(detector, graph, training_batches(data, BATCHES))
    scores = importance_scores(detector.net, graph, Importance("taylor", reduction="sum"), taylor)
    selection = Selection(max_flops=budget, shortcuts=shortcuts)
    report = prune(detector.net, graph, selection, scores, example_inputs=images)
    store_structure(detector, report.structure)
    name = f"{shortcuts}_{share:g}"
    slim = save_slim(detector, report, Path(given.project) / f"{name}_prune")
    _, pruned = validated(YOLODetector(weights=str(slim), names=data.names), data)
    finetune(given, slim, name)
    with (Path(given.project) / name / "metrics.csv").open(encoding="utf-8") as file:
        scores_by_epoch = [float(line["val/map"]) for line in csv.DictReader(file) if line.get("val/map")]
    size = f"{report.flops_after / 1e9:.3f} | {report.parameters_after / 1e6:.3f} M"
    return f"| {shortcuts} | {size} | {pruned:.3f} | {max(scores_by_epoch):.3f} | {mean(scores_by_epoch[-LAST:]):.3f} |"


def finetune(given: argparse.Namespace, slim: Path, name: str) -> None:
    """Trains the slim model as ``configs/finetune.yaml`` does, with the batch as nominal batch."""
    root = Path(__file__).resolve().parent.parent
    arguments = ["--name", name, "--project", given.project, "--model.weights", str(slim), "--data.data", given.data]
    arguments += ["--data.imgsz", str(given.imgsz), "--data.cache", "ram", "--data.workers", "0"]
    arguments += ["--trainer.max_epochs", str(given.epochs), "--data.augment.close_mosaic", "5"]
    arguments += ["--model.hyp.optimizer", "AdamW", "--model.hyp.lr0", "0.001", "--model.hyp.nbs", "16"]
    arguments += ["--model.hyp.warmup_epochs", "1", "--model.hyp.warmup_bias_lr", "0", "--model.hyp.momentum", "0.9"]
    command = [sys.executable, str(root / "train.py"), "fit", "-c", str(root / "configs/finetune.yaml"), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(root)})


if __name__ == "__main__":
    main()
