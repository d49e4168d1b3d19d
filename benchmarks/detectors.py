"""Every generation of detectors through every state to every destination; prints the table of docs/detectors.md.

python -m benchmarks.detectors

Each is trained for a few steps on the built-in images, sparse-trained, pruned to half of its channels and finetuned
from random weights: what counts is whether all that comes out says the same, not how well it detects.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from ultralytics import YOLO

from benchmarks.scores import quiet
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.detection import (
    ExportedDetector,
    ExportOptions,
    Hyperparameters,
    YOLODataModule,
    YOLODetector,
    export_network,
    is_end_to_end,
)
from yolo_slim.pruning import Selection

MODELS = {
    **dict.fromkeys(("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-p2", "yolov9t", "yolov10n"), 64),
    **dict.fromkeys(("yolo11n", "yolo12n", "yolo26n", "yolo26n-p2"), 64),
    **dict.fromkeys(("yolov8n-p6", "yolo26n-p6"), 128),
}
DESTINATIONS = ("ckpt", "ultralytics", "torchscript", "onnx", "openvino")
#: Layers of any width: what is odd is harder to carry than multiples.
HALF = Selection(0.5, round_to=1)
HYP = Hyperparameters(optimizer="AdamW", lr0=1e-3, warmup_epochs=0, nbs=8)


def states(name: str, data: YOLODataModule, folder: Path) -> Iterator[tuple[str, YOLODetector]]:
    """The detector after each phase."""

    def fit(detector: YOLODetector, epochs: int, *callbacks: object) -> YOLODetector:
        Trainer(
            max_epochs=epochs,
            limit_train_batches=6,
            limit_val_batches=2,
            gradient_clip_val=10.0,
            callbacks=[WeightEMA(), *callbacks],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(detector, data)
        return detector

    seed_everything(0, verbose=False)
    dense = fit(YOLODetector(f"{name}.yaml", data.names, imgsz=data.imgsz, hyp=HYP), 1)
    yield "dense", dense
    yield "sparse", fit(dense, 3, GammaSparsity("growing", selection=HALF))
    fit(dense, 1, ChannelPruning(selection=HALF, dirpath=str(folder)))
    slim = YOLODetector(weights=str(folder / "slim.ckpt"), imgsz=data.imgsz, hyp=HYP)
    yield "slim", slim
    yield "finetuned", fit(slim, 1)


@torch.no_grad()
def difference(net: nn.Module, destination: str, images: Tensor, folder: Path) -> float:
    """Largest difference of a score or, relative to the image's side, of a box, after a network has gone somewhere.

    The boxes of an end-to-end head are its best, in their order, which rounding may change: their scores are compared.
    """
    wanted = net.eval()(images)[0]
    file = export_network(net, destination, ExportOptions(imgsz=images.shape[-1]), folder, "model", None)
    if destination == "ultralytics":
        stock = YOLO(file).model.float().eval()
        stock.end2end = is_end_to_end(net)  # as `nms=False` sets it
        found = stock(images)[0]
    elif destination == "ckpt":
        found = YOLODetector(weights=str(file)).eval()(images)
    else:
        found = torch.cat([ExportedDetector(file)(image[None]) for image in images])
    if is_end_to_end(net):
        return float((found[..., 4] - wanted[..., 4]).abs().max())
    apart = (found - wanted).abs()
    return float(max(apart[:, :4].max() / images.shape[-1], apart[:, 4:].max()))


def rows(name: str, imgsz: int) -> Iterator[str]:
    """The table's rows of a model."""
    data = YOLODataModule("shapes", imgsz=imgsz, batch=8, workers=0)
    images = torch.rand(2, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with TemporaryDirectory() as place:
        for state, detector in states(name, data, Path(place)):
            cells = []
            for destination in DESTINATIONS:
                folder = Path(place) / f"{state}-{destination}"
                folder.mkdir()
                try:
                    cells.append(f"{difference(detector.net, destination, images, folder):.0e}")
                except Exception as error:  # whatever it is, it belongs into the table
                    cells.append(f"**{type(error).__name__}**: {str(error).splitlines()[0]:.80}")
            millions = sum(p.numel() for p in detector.net.parameters()) / 1e6
            yield f"| {name} | {state} | {millions:.2f} | {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    given = parser.parse_args()
    quiet()
    warnings.filterwarnings("ignore")
    print(f"| model | state | parameters, M | {' | '.join(DESTINATIONS)} |")
    print(f"| --- | --- | ---: | {' | '.join('---:' for _ in DESTINATIONS)} |")
    for name in given.only:
        for row in rows(name, MODELS[name]):
            print(row, flush=True)


if __name__ == "__main__":
    main()
