"""Run by a test in two processes: each has every second image, and writes what it says the scores are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.helpers.crowd import crowd
from yolo_slim.detection.training.metrics import DetectionScores
from yolo_slim.detection.training.ultralytics_scores import UltralyticsScores


def main(out: Path) -> None:
    """What a started process does."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    found, labelled = crowd(0)
    said = {}
    for kind in (DetectionScores, UltralyticsScores):
        scores = kind()
        scores.update(found[rank::2], labelled[rank::2])
        said[kind.__name__] = tuple(scores.evaluate())
    torch.save(said, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
