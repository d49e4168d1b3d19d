"""Training here and by Ultralytics with the same settings: mAP50-95 over several seeds.

python -m benchmarks.accuracy --data PATH/license_plate/data.yaml --weights yolov8n.pt --epochs 15
python -m benchmarks.accuracy --data PATH/bccd/data.yaml --weights yolov8n.yaml --epochs 60

Each fit runs in a process of its own and is validated in each epoch on Ultralytics' rectangles with its metric. What
has been run stays in ``--folder``, and is not run again.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from benchmarks.training import fit_as_baseline

#: Epochs at the end whose mean is reported.
LAST = 3


def run_ours(given: argparse.Namespace, folder: Path) -> None:
    """A fit as ``train.py fit -c configs/baseline.yaml`` runs it."""
    keys = {
        "seed_everything": given.only_seed,
        "data.data": given.data,
        "data.imgsz": given.imgsz,
        "data.rect": "true",
        "data.augment.close_mosaic": 5,
        "model.model": given.weights,
        "model.metric": "ultralytics",
        "trainer.max_epochs": given.epochs,
        "project": folder.parent,
        "name": folder.name,
    }
    fit_as_baseline(keys)


def run_theirs(given: argparse.Namespace, folder: Path) -> None:
    """A training by Ultralytics."""
    from ultralytics import YOLO

    YOLO(given.weights).train(
        data=given.data,
        imgsz=given.imgsz,
        epochs=given.epochs,
        seed=given.only_seed,
        close_mosaic=5,
        cache="ram",
        amp=False,
        plots=False,
        verbose=False,
        device="cpu",
        project=str(folder.parent.resolve()),
        name=folder.name,
    )


#: Who trains: how, and where the scores of its epochs are.
TRAINERS = {
    "ours": (run_ours, "metrics.csv", "val/map"),
    "Ultralytics": (run_theirs, "results.csv", "metrics/mAP50-95(B)"),
}


def scores(folder: Path, trainer: str) -> list[float]:
    """MAP50-95 of each epoch; empty where that has not been run."""
    _, name, column = TRAINERS[trainer]
    if not (folder / name).is_file():
        return []
    with (folder / name).open(encoding="utf-8", newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file, skipinitialspace=True) if row.get(column)]


def main() -> None:
    """Trains what is missing and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--weights", default="yolov8n.yaml", help="model YAML or .pt file")
    parser.add_argument("--imgsz", type=int, default=160, help="image side in pixels")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--only", choices=list(TRAINERS), help=argparse.SUPPRESS)
    parser.add_argument("--only-seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    label = f"{Path(given.data).parent.name}-{Path(given.weights).stem}-{given.imgsz}-{given.epochs}"
    folders = {(t, s): given.folder / f"{label}-{t}-s{s}" for s in given.seeds for t in TRAINERS}
    if given.only:
        TRAINERS[given.only][0](given, given.folder / f"{label}-{given.only}-s{given.only_seed}")
        return
    for (trainer, seed), folder in folders.items():
        if len(scores(folder, trainer)) < given.epochs:
            command = [sys.executable, "-m", "benchmarks.accuracy", *sys.argv[1:], "--only", trainer]
            subprocess.run([*command, "--only-seed", str(seed)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(f"\n{label}, seeds {given.seeds}\n\n| | best epoch | mean of the last {LAST} |\n| --- | ---: | ---: |")
    for trainer in TRAINERS:
        runs = [scores(folders[trainer, seed], trainer) for seed in given.seeds]
        cells = []
        for values in ([max(run) for run in runs], [mean(run[-LAST:]) for run in runs]):
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.4f}{spread} ({', '.join(f'{value:.3f}' for value in values)})")
        print(f"| {trainer} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
