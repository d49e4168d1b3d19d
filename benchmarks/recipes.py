"""Recipes side by side, at equal epochs after one shared baseline: what is left of the mAP when a budget is met.

python -m benchmarks.recipes --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt
python -m benchmarks.recipes --table docs/recipes.png

The first command trains what is missing of every arm, data set, share of the FLOPs and seed, and can be stopped at any
time; several of them share the work in one folder. The second one prints the tables and draws the picture.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from benchmarks.recipe_arms import ARMS, Case, Run, images, trainer_of
from benchmarks.recipes_table import table
from benchmarks.scores import quiet
from yolo_slim.callbacks import WeightEMA
from yolo_slim.detection import Hyperparameters, YOLODetector
from yolo_slim.files import write_whole

#: Epochs at the end whose mean is reported: single epochs on a small validation set scatter by 0.01.
LAST = 3
BASELINE = Hyperparameters(optimizer="auto")


def baseline_of(case: Case, root: Path) -> str:
    """The dense model that every arm of a data set and seed starts from, trained where it is missing."""
    folder = root / f"{Path(case.data).parent.name}-{case.imgsz}-baseline-s{case.seed}"
    file = folder / "baseline.ckpt"
    if not file.is_file():
        last = ModelCheckpoint(folder, filename="training", enable_version_counter=False)
        detector = YOLODetector(case.weights, images(case).names, imgsz=case.imgsz, hyp=BASELINE)
        trainer_of(case.baseline, case.seed, [WeightEMA(), last]).fit(detector, images(case))
        os.replace(folder / "training.ckpt", file)
    return str(file)


def run_case(case: Case, root: Path) -> None:
    """Runs one cell, unless it is there or another process has taken it; writes ``row.yaml``."""
    folder = root / case.name
    row, claim = folder / "row.yaml", folder / "claimed"
    folder.mkdir(parents=True, exist_ok=True)
    if row.is_file():
        return
    if claim.is_file() and not Path(f"/proc/{claim.read_text()}").exists():
        claim.unlink()  # of a process that was killed
    try:
        with claim.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    try:
        run = Run(case, folder, baseline_of(case, root))
        print(f"== {case.name}", flush=True)
        ARMS[case.arm](run)
        cost = run.cost
        found = {
            **asdict(case),
            "data": Path(case.data).parent.name,
            "best": max(run.scores),
            "last": mean(run.scores[-LAST:]),
            "parameters": cost.parameters,
            "flops": cost.flops,
            "of_dense": cost.flops / run.dense,
            "stages": run.stages,
            "scores": run.scores,
        }
        del found["weights"]
        write_whole(row, yaml.safe_dump(found, sort_keys=False))
        print(f"   {case.name}: best {found['best']:.4f} last {found['last']:.4f} {run.stages}", flush=True)
        for left in [*folder.rglob("*.ckpt"), *folder.rglob("prun*.yaml"), *folder.rglob("plan.yaml")]:
            left.unlink()
    finally:
        claim.unlink()


def main() -> None:
    """Trains what is missing, or prints and draws what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="?", const="", help="print the tables, and draw the picture of this name")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="where the rows are")
    parser.add_argument("--data", nargs="+", default=[], help="data YAMLs")
    parser.add_argument("--weights", default="yolov8n.yaml", help="what the baselines start from")
    parser.add_argument("--imgsz", type=int, default=128, help="image side in pixels")
    parser.add_argument("--baseline", type=int, default=15, help="epochs of the baselines")
    parser.add_argument("--epochs", type=int, nargs="+", default=[18], help="epochs of every arm after its baseline")
    parser.add_argument("--shares", type=float, nargs="+", default=[1 / 2, 1 / 3, 1 / 4], help="of the FLOPs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    if given.table is not None:
        print(table(given.folder, given.table))
        return
    quiet()
    for epochs in given.epochs:
        for seed in given.seeds:
            for share in given.shares:
                for arm in given.arms:
                    for data in given.data:
                        where = (data, given.weights, given.imgsz, given.baseline)
                        run_case(Case(*where, epochs, share, seed, arm), given.folder)


if __name__ == "__main__":
    main()
