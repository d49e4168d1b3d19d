"""What the constants of removed channels are worth: scores right after a prune, without any training.

python -m benchmarks.compensation --weights runs/sparse/last.ckpt --data PATH/data.yaml --imgsz 320
"""

from __future__ import annotations

import copy

from benchmarks.scores import arguments, quiet, validated
from yolo_slim.detection import YOLODataModule, YOLODetector, trace_network, training_batches
from yolo_slim.pruning import Selection, apply_plan, compensate, gamma_importance, make_plan, recalibrate, select

BATCHES = 8
#: variant -> (compensate with these options or not at all, recalibrate)
VARIANTS: dict[str, tuple[dict[str, bool] | None, bool]] = {
    "nothing": (None, False),
    "fold": ({"exact": False}, False),
    "exact": ({"exact": True}, False),
    "recalibrate": (None, True),
    "exact + recalibrate": ({"exact": True}, True),
}


def main() -> None:
    """Prints a markdown table."""
    parser = arguments(__doc__, weights="checkpoint of a model with sparse gammas")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8])
    given = parser.parse_args()
    quiet()

    data = YOLODataModule(given.data, imgsz=given.imgsz, batch=16, workers=0)
    training = training_batches(data, BATCHES)
    detector = YOLODetector(weights=given.weights)
    graph = trace_network(detector.net)
    scores = gamma_importance(detector.net, graph)

    print("| ratio | variant | parameters | mAP50 | mAP50-95 |\n| ---: | --- | ---: | ---: | ---: |", flush=True)
    print(row("0", "nothing", detector, data), flush=True)
    measured = copy.deepcopy(detector)
    recalibrate(measured.net, training, lambda batch: batch["img"])
    print(row("0", "recalibrate", measured, data), flush=True)
    for ratio in given.ratios:
        dropped = select(graph, scores, Selection(ratio, min_channels=8)).dropped
        for variant, (options, measure) in VARIANTS.items():
            slim = copy.deepcopy(detector)
            left = dropped if options is None else compensate(slim.net, graph, dropped, **options).dropped
            apply_plan(slim.net, make_plan(graph, left))
            if measure:
                recalibrate(slim.net, training, lambda batch: batch["img"])
            print(row(f"{ratio:g}", variant, slim, data), flush=True)


def row(ratio: str, variant: str, detector: YOLODetector, data: YOLODataModule) -> str:
    """A line of the table: the detector's size and scores on the validation images."""
    map50, map50_95 = validated(detector, data)
    parameters = sum(parameter.numel() for parameter in detector.net.parameters()) / 1e6
    return f"| {ratio} | {variant} | {parameters:.3f} M | {map50:.3f} | {map50_95:.3f} |"


if __name__ == "__main__":
    main()
