"""What the constants of removed channels are worth: scores right after a prune, without any training.

python benchmarks/compensation.py --weights runs/sparse/last.ckpt --data PATH/data.yaml --imgsz 320
"""

from __future__ import annotations

import argparse
import copy
import logging
import warnings
from itertools import islice
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from yolo_slim.detection.data import Augmentation, YOLODataModule
from yolo_slim.detection.detector import YOLODetector
from yolo_slim.detection.network import trace_network
from yolo_slim.pruning import Selection, apply_plan, gamma_importance, make_plan, select
from yolo_slim.pruning.compensation import compensate
from yolo_slim.pruning.recalibrate import recalibrate

PLAIN = Augmentation(hsv_h=0, hsv_s=0, hsv_v=0, translate=0, scale=0, fliplr=0, mosaic=0)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="checkpoint of a model with sparse gammas")
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--imgsz", type=int, default=640, help="image side in pixels")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8])
    given = parser.parse_args()
    for name in ("lightning.pytorch", "ultralytics"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")

    data = YOLODataModule(given.data, imgsz=given.imgsz, batch=16, workers=0, augment=PLAIN)
    data.setup("fit")
    training = list(islice(data.train_dataloader(), BATCHES))
    images = [{**batch, "img": to_unit_range(batch)} for batch in data.val_dataloader()]
    validation = DataLoader(images, batch_size=None)  # type: ignore[arg-type]
    detector = YOLODetector(weights=given.weights)
    graph = trace_network(detector.net)
    scores = gamma_importance(detector.net, graph)

    print("| ratio | variant | parameters | mAP50 | mAP50-95 |\n| ---: | --- | ---: | ---: | ---: |", flush=True)
    print(row("0", "nothing", detector, validation), flush=True)
    measured = copy.deepcopy(detector)
    recalibrate(measured.net, training, to_unit_range)
    print(row("0", "recalibrate", measured, validation), flush=True)
    for ratio in given.ratios:
        dropped = select(graph, scores, Selection(ratio, min_channels=8)).dropped
        for variant, (options, measure) in VARIANTS.items():
            slim = copy.deepcopy(detector)
            left = dropped if options is None else compensate(slim.net, graph, dropped, **options).dropped
            apply_plan(slim.net, make_plan(graph, left))
            if measure:
                recalibrate(slim.net, training, to_unit_range)
            print(row(f"{ratio:g}", variant, slim, validation), flush=True)


def to_unit_range(batch: dict[str, Any]) -> Tensor:
    """The images of a batch of the data set, (B, 3, H, W) in [0, 1]."""
    return batch["img"].float() / 255


def row(ratio: str, variant: str, detector: YOLODetector, validation: DataLoader) -> str:
    """A line of the table: the detector's size and scores on the validation images."""
    trainer = Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    found = trainer.validate(detector, validation, verbose=False)[0]
    parameters = sum(parameter.numel() for parameter in detector.net.parameters()) / 1e6
    return f"| {ratio} | {variant} | {parameters:.3f} M | {found['val/map50']:.3f} | {found['val/map']:.3f} |"


if __name__ == "__main__":
    main()
