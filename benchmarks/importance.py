"""Which channels go: scores right after a prune to a share of the operations, without any training.

python -m benchmarks.importance --weights runs/baseline/best.ckpt --data PATH/data.yaml --imgsz 320
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks.scores import arguments, quiet, validated
from yolo_slim.detection import YOLODataModule, YOLODetector, observe_gradients, training_batches
from yolo_slim.pruning import Importance, Selection, importance_scores, profile, prune

BATCHES = 16
#: importance, what a score is divided by, compensation
VARIANTS = [
    (Importance("taylor", reduction="sum"), "flops", "fold"),
    (Importance("taylor", reduction="sum"), "channel", "fold"),
    (Importance("taylor", reduction="sum"), "channel", "none"),
    (Importance("gamma"), "channel", "fold"),
    (Importance("gamma_l1", normalise="mean"), "channel", "fold"),
    (Importance("l2", normalise="mean"), "channel", "fold"),
    (Importance("l1", normalise="mean"), "channel", "fold"),
    (Importance("random"), "channel", "fold"),
]


def main() -> None:
    """Prints a markdown table."""
    parser = arguments(__doc__, weights="checkpoint of a dense model")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.6, 0.45], help="operations left, as a share")
    given = parser.parse_args()
    quiet()

    data = YOLODataModule(given.data, imgsz=given.imgsz, batch=16, workers=0)
    detector = YOLODetector(weights=given.weights, imgsz=given.imgsz)
    graph, images = detector.trace_channels(), torch.zeros(1, 3, given.imgsz, given.imgsz)
    taylor = observe_gradients(detector, graph, training_batches(data, BATCHES))
    dense: Any = profile(detector.net, images)
    print("| operations | importance | per | compensation | parameters | mAP50-95 |")
    print("| ---: | --- | --- | --- | ---: | ---: |")
    print(f"| 100% | | | | {dense.parameters / 1e6:.3f} M | {validated(detector, data)[1]:.3f} |", flush=True)
    for share in given.shares:
        for importance, per, compensation in VARIANTS:
            slim = copy.deepcopy(detector)
            scores = importance_scores(slim.net, graph, importance, taylor)
            selection = Selection(max_flops=share * dense.flops, per=per)
            report = prune(slim.net, graph, selection, scores, example_inputs=images, compensation=compensation)
            row = f"| {share:.0%} | {importance.kind} | {per} | {compensation} | {report.parameters_after / 1e6:.3f} M"
            print(f"{row} | {validated(slim, data)[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
