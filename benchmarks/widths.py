"""Widths that are multiples of 1, 8 and 16: mAP after the same recipe at half of the FLOPs, and what 8 bits make of it.

python -m benchmarks.widths --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt
python -m benchmarks.widths --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt --judge

The first command trains what is missing: from one dense baseline a sparse phase, a prune and a finetune, and the dense
model as long. The second one prints what they ended with, exports those of the first seed to ONNX in 32 and in 8 bits,
and prints mAP50-95 and milliseconds of one image on one thread in ONNX Runtime and OpenVINO, the files in turn.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.recipe_arms import ARMS, Case, Run
from benchmarks.recipes import LAST, baseline_of
from benchmarks.scores import quiet
from benchmarks.speed import in_onnxruntime, in_openvino, in_turn
from yolo_slim.detection import (
    ExportedDetector,
    ExportOptions,
    YOLODataModule,
    export_network,
    file_scores,
    load_network,
)
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


class InOpenVINO(nn.Module):
    """An ONNX file in OpenVINO, in the precision that it is written in."""

    def __init__(self, file: Path, names: dict[int, str]) -> None:
        super().__init__()
        import openvino

        self.path, self.names = file, names
        self.model = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def forward(self, images: Tensor) -> Tensor:
        """Boxes and scores of images, which the file takes one by one."""
        return torch.cat([torch.from_numpy(self.model([image[None].numpy()])[0].copy()) for image in images])


def ended(given: argparse.Namespace) -> str:
    """Mean mAP50-95 of the last epochs, and the difference to free widths, by data set and seed."""
    lines = ["| data | seed | dense | " + " | ".join(f"{w}" for w in WIDTHS[1:]) + " |", "| --- |" + " ---: |" * 5]
    for data in given.data:
        for seed in given.seeds:
            rows = {}
            for width in WIDTHS:
                case = Case(data, given.weights, given.imgsz, given.baseline, given.epochs, 0.5, seed, "widths")
                file = folder_of(case, width, given.folder) / "row.yaml"
                rows[width] = yaml.safe_load(file.read_text())["last"] if file.is_file() else float("nan")
            free = rows[1]
            shown = [f"{rows[0]:.3f}", f"{free:.3f}", *(f"{rows[w]:.3f} ({rows[w] - free:+.3f})" for w in WIDTHS[2:])]
            lines.append(f"| {Path(data).parent.name} | {seed} | {' | '.join(shown)} |")
    return "\n".join(lines)


def judge(data: str, given: argparse.Namespace) -> list[str]:
    """MAP50-95 and milliseconds of the models of a data set in 32 and 8 bits, as lines of a Markdown table."""
    images = torch.rand(1, 3, given.imgsz, given.imgsz)
    runs, scores = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for width in WIDTHS:
            case = Case(data, given.weights, given.imgsz, given.baseline, given.epochs, 0.5, given.seeds[0], "widths")
            net: Any = load_network(folder_of(case, width, given.folder) / "finetuned.ckpt").eval()
            for int8 in (False, True):
                options = ExportOptions(imgsz=given.imgsz, int8=int8)
                calibration = YOLODataModule(data, imgsz=given.imgsz, batch=16, workers=0) if int8 else None
                file = export_network(net, "onnx", options, Path(place), f"w{width}-{int8}", calibration)
                for runtime in ("onnxruntime", "openvino"):
                    key = runtime, int8, width
                    found: Any = ExportedDetector(file) if runtime == "onnxruntime" else InOpenVINO(file, net.names)
                    batch = 1 if runtime == "onnxruntime" else 16
                    val = YOLODataModule(data, imgsz=given.imgsz, batch=batch, workers=0)
                    val.setup("validate")
                    scores[key] = file_scores(found, val)["map"]
                    in_it = in_onnxruntime if runtime == "onnxruntime" else in_openvino
                    more = () if runtime == "onnxruntime" or int8 else ("f32",)
                    runs[key] = in_it(file, images, 1, *more)  # type: ignore[operator]
        times = in_turn(runs)
    lines = []
    for runtime, int8 in dict.fromkeys((runtime, int8) for runtime, int8, _ in runs):
        cells = [f"{scores[runtime, int8, w]:.3f}, {times[runtime, int8, w][0]:.2f} ms" for w in WIDTHS]
        bits = "8 bits" if int8 else "32 bits"
        lines.append(f"| {Path(data).parent.name} | {runtime} | {bits} | {' | '.join(cells)} |")
    return lines


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
    parser.add_argument("--judge", action="store_true", help="print what is there, in 32 and in 8 bits")
    given = parser.parse_args()
    quiet()
    if given.judge:
        print(ended(given))
        print("\n| data | runtime | | dense | " + " | ".join(map(str, WIDTHS[1:])) + " |")
        print("| --- | --- | --- |" + " ---: |" * len(WIDTHS))
        for data in given.data:
            print("\n".join(judge(data, given)))
        return
    for seed in given.seeds:
        for data in given.data:
            for width in WIDTHS:
                case = Case(data, given.weights, given.imgsz, given.baseline, given.epochs, 0.5, seed, "widths")
                train(case, width, given.folder)


if __name__ == "__main__":
    main()
