"""Penalties of the sparse phase side by side: curves over the phase, scores after prunes and after equal finetunes.

python -m benchmarks.sparse_phase --weights runs/baseline/best.ckpt --data PATH/data.yaml --imgsz 224 --name plates
python -m benchmarks.sparse_phase --plot docs/sparse_phase.png plates cells

The first command trains every setting below and writes ``runs/sparse_phase/NAME/SETTING/result.yaml``; started again it
goes on with what is missing. The second one draws the curves of such runs and prints their tables.
"""

from __future__ import annotations

import argparse
import csv
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import yaml
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from benchmarks.scores import quiet, validated
from benchmarks.sparse_phase_plot import draw, tables
from yolo_slim.callbacks import GammaMonitor, GammaSparsity, WeightEMA, prune_module
from yolo_slim.detection import Augmentation, Hyperparameters, YOLODataModule, YOLODetector
from yolo_slim.pruning import Selection, profile

ROOT = Path("runs/sparse_phase")
RATIOS = (0.2, 0.4, 0.6, 0.8)
LAST = 3  # epochs whose mean is reported: single epochs on a small validation set scatter by 0.01

ADAMW = Hyperparameters(optimizer="AdamW", lr0=1e-3, momentum=0.9, warmup_epochs=1.0, warmup_bias_lr=0.0, nbs=16)
FINETUNE = replace(ADAMW, lr0=5e-4)
#: Clipping is on for the proximal penalty, which allows the usual rate; without it that rate diverges.
SGD = Hyperparameters(optimizer="SGD", lr0=0.01, warmup_epochs=1.0, warmup_bias_lr=0.0, nbs=16)
SLOW_SGD = replace(SGD, lr0=5e-4)


@dataclass(frozen=True)
class Setting:
    """A way to run the sparse phase; without a penalty it is dense training as long."""

    penalty: Literal["subgradient", "proximal", "growing"] | None = None
    hyp: Hyperparameters = field(default_factory=lambda: ADAMW)
    strength: float | Literal["auto"] = 1.0
    ratio: float | None = None  # of channels, for growing
    operations: float | None = None  # share of the operations that is left, for growing
    per: Literal["channel", "flops"] = "channel"  # what importance is compared by, with operations


SETTINGS = {
    "dense": Setting(),
    **{f"growing {ratio:.0%}": Setting("growing", ratio=ratio) for ratio in RATIOS},
    "growing to half": Setting("growing", operations=0.5),
    "growing to half, per GFLOP": Setting("growing", operations=0.5, per="flops"),
    **{f"subgradient {s}": Setting("subgradient", SLOW_SGD, s) for s in ("auto", 0.3, 1.0, 3.0)},
    **{f"proximal {s}": Setting("proximal", SGD, s) for s in ("auto", 0.25, 0.75, 2.5)},
}
LOGGED = ("val/map", "gamma/small", "gamma/median", "sparsity/strength")
#: Pruned at all ratios and finetuned; a growing phase is pruned at its own.
FINETUNED = ("subgradient auto", "proximal auto")


def main() -> None:
    """Trains what is missing, or draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="with --plot: names of the runs to draw")
    parser.add_argument("--plot", type=Path, help="picture to write, in place of training")
    parser.add_argument("--weights", help="checkpoint of a dense model")
    parser.add_argument("--data", help="data YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="image side in pixels")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the sparse phase")
    parser.add_argument("--finetune", type=int, default=8, help="epochs of each finetune")
    parser.add_argument("--name", help="folder of the results below runs/sparse_phase")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="settings to train")
    given = parser.parse_args()
    if given.plot:
        results = {name: {s: read(ROOT / name / s) for s in SETTINGS} for name in given.names}
        draw(results, given.plot)
        print(tables(results))
        return
    quiet()
    for setting in given.settings:
        folder = ROOT / given.name / setting
        if not (folder / "result.yaml").is_file():
            print(f"== {given.name}: {setting}", flush=True)
            result = run(given, setting, folder)
            temporary = folder / ".result.yaml"
            temporary.write_text(yaml.safe_dump(result, sort_keys=False), encoding="utf-8")
            os.replace(temporary, folder / "result.yaml")


def read(folder: Path) -> dict[str, Any]:
    """The result of one setting; empty where it was not run."""
    file = folder / "result.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def run(given: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """Trains one sparse phase, prunes it, and finetunes what was pruned."""
    setting = SETTINGS[name]
    detector = YOLODetector(weights=given.weights, imgsz=given.imgsz, hyp=setting.hyp)
    if setting.penalty is None:
        selections = [Selection(0.0)]
    elif setting.operations is not None:
        limit = setting.operations * profile(detector.net, detector.pruning_example).flops
        selections = [Selection(max_flops=limit, per=setting.per)]
    else:
        selections = [Selection(ratio) for ratio in RATIOS if setting.ratio in (None, ratio)]
    sparsity: list[Callback] = []
    if setting.penalty is not None:
        towards = Selection(0.5) if len(selections) > 1 else selections[0]
        sparsity = [GammaSparsity(setting.penalty, setting.strength, selection=towards)]
    curves = fit(given, detector, given.epochs, folder, sparsity)
    finetuned = name in FINETUNED or len(selections) == 1
    return {"curves": curves, "prunes": [pruned(given, folder, selection, finetuned) for selection in selections]}


def pruned(given: argparse.Namespace, folder: Path, selection: Selection, finetuned: bool) -> dict[str, Any]:
    """Scores of a prune, with the constants of removed channels folded or merged, and of its finetune."""
    row: dict[str, Any] = {}
    for compensation in ("none", "fold") if selection.budgets else ("none", "exact", "fold"):
        detector = YOLODetector(weights=str(folder / "last.ckpt"), imgsz=given.imgsz, hyp=FINETUNE)
        report = prune_module(detector, selection, compensation=compensation)
        row[compensation] = validated(detector, images(given))[1]
    cost = profile(detector.net, detector.pruning_example)
    row |= {"ratio": report.reached, "parameters": cost.parameters, "gflops": cost.gflops}
    row["threshold"] = report.threshold
    if finetuned:
        scores = fit(given, detector, given.finetune, folder / f"finetune_{selection.ratio}", [])["val/map"]
        row |= {"best": max(scores), "mean": mean(scores[-LAST:])}
    return row


def fit(
    given: argparse.Namespace, detector: YOLODetector, epochs: int, folder: Path, extra: list[Callback]
) -> dict[str, list[float]]:
    """Trains a detector; returns what was logged per epoch."""
    seed_everything(0, workers=True, verbose=False)
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    trainer = Trainer(
        max_epochs=epochs,
        gradient_clip_val=10.0,
        callbacks=[WeightEMA(), *extra, GammaMonitor(), last],
        logger=CSVLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(detector, images(given))
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in LOGGED}


def images(given: argparse.Namespace) -> YOLODataModule:
    """The data, without mosaics in the last epochs."""
    augment = Augmentation(close_mosaic=5)
    return YOLODataModule(given.data, imgsz=given.imgsz, batch=16, workers=0, cache="ram", augment=augment)


if __name__ == "__main__":
    main()
