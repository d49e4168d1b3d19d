"""One prune or several rounds, at equal total epochs beside the dense model trained as long.

python -m benchmarks.iterative --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt
python -m benchmarks.iterative --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt --table

The first command trains what is missing, every arm with `train.py slim` from one baseline per data set and seed, and
goes on where it was stopped. The second one prints what they ended with: best, and mean of the last three epochs of the
last phase.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from statistics import mean

import yaml

ROOT = Path(__file__).parents[1]
#: Epochs of the baseline, and of every arm after it in all.
BASELINE, EPOCHS, ROUNDS = 15, 16, 4
OFF = ["--sparse.enabled", "false"]
TAYLOR = ["--prune.importance.kind", "taylor"]
EACH = str(EPOCHS // ROUNDS)
ARMS = {
    "dense": [*OFF, "--prune.enabled", "false", "--finetune.epochs", str(EPOCHS)],
    "one prune": [*OFF, *TAYLOR, "--finetune.epochs", str(EPOCHS)],
    "rounds": [*OFF, *TAYLOR, "--rounds.count", str(ROUNDS), "--rounds.epochs", EACH],
    "rounds by sensitivity": [
        *(*OFF, *TAYLOR, "--rounds.count", str(ROUNDS), "--rounds.epochs", EACH),
        *("--rounds.sensitivity", "true", "--prune.selection.allocate", "calibrate"),
    ],
    "growing": ["--sparse.epochs", str(EPOCHS // 2), "--finetune.epochs", str(EPOCHS // 2)],
}


def common(data: Path, seed: int, imgsz: int) -> list[str]:
    """Keys that all arms share."""
    return [
        *("--data.data", str(data), "--data.imgsz", str(imgsz), "--data.workers", "0", "--data.cache", "ram"),
        *("--seed", str(seed), "--trainer.accelerator", "cpu", "-c", "configs/slim.yaml"),
    ]


def run(project: Path, name: str, keys: list[str]) -> None:
    """Runs the recipe in a folder, or goes on with it."""
    if (project / name / "results.md").is_file():
        return
    command = [sys.executable, "train.py", "slim", *keys, "--project", str(project), "--name", name]
    project.mkdir(parents=True, exist_ok=True)
    with (project / f"{name}.log").open("a") as log:
        subprocess.run(command, check=True, cwd=ROOT, stdout=log, stderr=log)


def name_of(data: Path, seed: int, arm: str, share: float) -> str:
    """Name of the run folder of an arm."""
    end = "" if arm == "dense" else f"-{share:.2f}"
    return f"{data.parent.name}-s{seed}-{arm.replace(' ', '_')}{end}"


def last_scores(folder: Path) -> list[float]:
    """mAP50-95 of the epochs of the last finetune."""
    phases = sorted(folder.glob("round-*/finetune")) or [folder / "finetune"]
    with (phases[-1] / "metrics.csv").open() as stream:
        return [float(row["val/map"]) for row in csv.DictReader(stream) if row.get("val/map")]


def table(project: Path, datas: list[Path], seeds: list[int], shares: list[float]) -> str:
    """What every arm ended with, in Markdown."""
    head = [f"{data.parent.name}, seed {seed}" for data in datas for seed in seeds]
    lines = [" | ".join(["| | GFLOPs left", *head]) + " |", "| --- | ---: |" + " ---: |" * len(head)]
    for arm in ARMS:
        for share in shares if arm != "dense" else [1.0]:
            cells = []
            for data in datas:
                for seed in seeds:
                    folder = project / name_of(data, seed, arm, share)
                    if not (folder / "results.md").is_file():
                        cells.append("-")
                        continue
                    scores = last_scores(folder)
                    slim = [*sorted(folder.glob("round-*/prune/result.yaml")), folder / "prune/result.yaml"]
                    after = [yaml.safe_load(f.read_text())["map"] for f in slim if f.is_file()]
                    told = f" (prunes: {', '.join(f'{score:.3f}' for score in after)})" if after else ""
                    cells.append(f"{max(scores):.3f}, {mean(scores[-3:]):.3f}{told}")
            lines.append(f"| {arm} | {share:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data YAMLs")
    parser.add_argument("--weights", required=True, help="weights that the baseline is trained from")
    parser.add_argument("--project", type=Path, default=Path("runs/iterative"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.33])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--imgsz", type=int, default=192)
    parser.add_argument("--table", action="store_true", help="print what there is")
    args = parser.parse_args()
    if args.table:
        print(table(args.project, args.data, args.seeds, args.shares))
        return
    for seed in args.seeds:
        for data in args.data:
            keys, base = common(data, seed, args.imgsz), f"{data.parent.name}-s{seed}-baseline"
            rest = ["--finetune.enabled", "false", "--prune.enabled", "false", *OFF]
            trained = ["--model.model", args.weights, "--baseline.epochs", str(BASELINE)]
            run(args.project, base, [*keys, *trained, *rest])
            start = ["--model.weights", str(args.project / base / "baseline/best.ckpt"), "--baseline.enabled", "false"]
            for share in args.shares:
                for arm in args.arms:
                    budget = ["--prune.selection.max_flops", f"{100 * share:g}%"]
                    run(args.project, name_of(data, seed, arm, share), [*keys, *start, *budget, *ARMS[arm]])


if __name__ == "__main__":
    main()
