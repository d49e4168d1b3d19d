"""What the two ways to compute mAP cost: processor seconds on one thread for the same detections.

python -m benchmarks.metrics
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from yolo_slim.detection import YOLODetector

CLASSES, OBJECTS, DETECTIONS = 80, 8, 300


def boxes(count: int, generator: torch.Generator) -> Tensor:
    """Boxes in an image of 640 pixels."""
    corners, sides = (torch.rand(count, 2, generator=generator) * most for most in (560, 80))
    return torch.cat((corners, corners + sides + 8), 1)


def images(count: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Detections, of which the first are objects a little off, and objects."""
    generator = torch.Generator().manual_seed(0)
    found, labelled = [], []
    for _ in range(count):
        objects, labels = boxes(OBJECTS, generator), torch.randint(0, CLASSES, (OBJECTS,), generator=generator)
        others = torch.randint(0, CLASSES, (DETECTIONS - OBJECTS,), generator=generator)
        near = objects + 4 * torch.randn(objects.shape, generator=generator)
        found.append(
            {
                "boxes": torch.cat((near, boxes(DETECTIONS - OBJECTS, generator))),
                "scores": torch.linspace(0.9, 0.01, DETECTIONS),
                "labels": torch.cat((labels, others)),
            }
        )
        labelled.append({"boxes": objects, "labels": labels})
    return found, labelled


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found, labelled = images(given.images)
    print("| metric | seconds | mAP50 | mAP50-95 |\n| --- | ---: | ---: | ---: |")
    for metric in ("coco", "ultralytics"):
        scores = YOLODetector(metric=metric).scores
        start = time.process_time()
        for first in range(0, given.images, 16):
            scores.update(found[first : first + 16], labelled[first : first + 16])
        values = scores.compute()
        print(f"| {metric} | {time.process_time() - start:.2f} | {values['map50']:.4f} | {values['map']:.4f} |")


if __name__ == "__main__":
    main()
