"""Widths that are multiples of 1, 8 and 16: mAP after the same recipe at half of the FLOPs, and what 8 bits make of it.

python -m benchmarks.widths --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt
python -m benchmarks.widths --judge --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt

The first command trains what is missing: from one dense baseline a sparse phase, a prune and a finetune, and the dense
model as long. The second one exports what is there to ONNX in 32 and in 8 bits, runs it in ONNX Runtime and OpenVINO,
and prints mAP50-95 and milliseconds of one image on one thread, the files in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import yaml

from benchmarks.recipe_arms import ARMS, Case, Run
from benchmarks.recipes import LAST, baseline_of
from benchmarks.scores import quiet
from yolo_slim.files import write_whole
from yolo_slim.pruning import Selection

#: Multiples that channels come in; 0 is the dense model, trained as long.
WIDTHS = (0, 1, 8, 16)


class WidthRun(Run):
    """The recipe with channels in multiples."""

    round_to = 1

    def selection(self, share: float | None = None) -> Selection:
        """Half of the FLOPs, in multiples."""
        return Selection(max_flops=self.dense * self.case.share, round_to=self.round_to)


def folder_of(case: Case, width: int, root: Path) -> Path:
    """Where the row and the checkpoint of a cell are."""
    return root / f"{Path(case.data).parent.name}-{case.imgsz}-{case.epochs}-{case.share:.2f}-w{width}-s{case.seed}"


def train(case: Case, width: int, root: Path) -> None:
    """Trains one cell, unless it is there; writes ``row.yaml`` and ``finetuned.ckpt``."""
    folder = folder_of(case, width, root)
    if (folder / "row.yaml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    run = WidthRun(case, folder, baseline_of(case, root))
    run.round_to = width
    ARMS["growing, finetuned" if width else "dense"](run)
    row = {
        "data": Path(case.data).parent.name,
        "width": width,
        "seed": case.seed,
        "best": max(run.scores),
        "last": mean(run.scores[-LAST:]),
        "parameters": run.cost.parameters,
        "of_dense": run.cost.flops / run.dense,
        "stages": run.stages,
    }
    Path(run.weights).rename(folder / "finetuned.ckpt")
    write_whole(folder / "row.yaml", yaml.safe_dump(row, sort_keys=False))
    print(row, flush=True)


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/widths"), help="where the rows and checkpoints are")
    parser.add_argument("--data", nargs="+", required=True, help="data YAMLs")
    parser.add_argument("--weights", default="yolov8n.yaml", help="what the baselines start from")
    parser.add_argument("--imgsz", type=int, default=128, help="image side in pixels")
    parser.add_argument("--baseline", type=int, default=15, help="epochs of the baselines")
    parser.add_argument("--epochs", type=int, default=18, help="epochs after the baseline")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    quiet()
    for seed in given.seeds:
        for data in given.data:
            for width in WIDTHS:
                case = Case(data, given.weights, given.imgsz, given.baseline, given.epochs, 0.5, seed, "widths")
                train(case, width, given.folder)


if __name__ == "__main__":
    main()
