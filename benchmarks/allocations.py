"""Which allocation leaves most right after the prune: mAP50-95 and loss before any finetune, at equal budgets.

python -m benchmarks.allocations --data PATH/bccd/data.yaml --weights runs/baseline/best.ckpt

Measures the sensitivity of the units twice, with channels ordered by Taylor importance and by their L2 norm, then
prunes copies of the model to shares of its FLOPs: by the scores alone, over all layers and at one ratio everywhere, and
by each allocation. mAP is that of the validation images, the loss that of the images of the measurement.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.scores import quiet
from yolo_slim.callbacks import Target, prune_module
from yolo_slim.detection import Evaluation, YOLODataModule, YOLODetector, observe_gradients, training_batches
from yolo_slim.pruning import Importance, Selection, relative_rise
from yolo_slim.workflow import SensitivitySettings, measure_sensitivity

ALLOCATIONS = ("calibrate", "equal_loss", "knapsack", "fzi")
RATIOS = [0.1, 0.2, 0.3, 0.5, 0.7, 0.9]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data YAML")
    parser.add_argument("--weights", required=True, help="a trained model")
    parser.add_argument("--project", type=Path, default=Path("runs/allocations"))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.75, 0.5, 0.33])
    parser.add_argument("--round-to", type=int, default=1)
    args = parser.parse_args()
    quiet()
    data = YOLODataModule(str(args.data), workers=0)
    dense = YOLODetector(weights=args.weights)
    sized = data.fresh(imgsz=dense.hparams["imgsz"])
    taylor = observe_gradients(dense, Target(dense).graph, training_batches(sized, 16))
    scored = Evaluation(dense, sized, "val", 10_000, "map")(dense.net)["map"]
    print(f"{args.data.parent.name}: dense {scored:.4f}\n")
    shares = [f"{share:.0%} of the FLOPs: mAP50-95, rise of the loss (foreseen)" for share in args.shares]
    print(" | ".join(["| scores, allocation", *shares]) + " |\n| --- |" + " ---: |" * len(shares))
    for kind in ("taylor", "l2"):
        importance = Importance(kind)
        folder = args.project / f"{args.data.parent.name}-{kind}"
        settings = SensitivitySettings(ratios=RATIOS, metric="both", importance=importance)
        started = time.perf_counter()
        measure_sensitivity(args.weights, data, settings, folder)
        minutes = (time.perf_counter() - started) / 60
        ways = {
            "none, global": {},
            "none, one ratio everywhere": {"scope": "local"},
            **{way: {"sensitivity": str(folder), "allocate": way} for way in ALLOCATIONS},
        }
        for way, keys in ways.items():
            cells = []
            for share in args.shares:
                selection = replace(Selection(max_flops=f"{100 * share:g}%", round_to=args.round_to), **keys)
                slim = copy.deepcopy(dense)
                by = taylor if kind == "taylor" else None
                report = prune_module(slim, selection, importance=importance, taylor=by, compensation="auto")
                with torch.no_grad():
                    after = Evaluation(slim, sized, "val", 10_000, "map")(slim.net)["map"]
                    losses = Evaluation(slim, sized)(slim.net), Evaluation(dense, sized)(dense.net)
                foreseen = report.predicted_rise
                told = "" if foreseen is None else f" ({foreseen:+.0%})"
                cells.append(f"{after:.3f}, {relative_rise(*losses):+.0%}{told}")
            print(" | ".join([f"| {kind}, {way}", *cells]) + " |", flush=True)
        print(f"measured in {minutes:.1f} min", flush=True)


if __name__ == "__main__":
    main()
