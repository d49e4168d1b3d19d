"""What half of the operations is worth in milliseconds, by width: dense and slim in turn, in three runtimes.

python -m benchmarks.speed --weights yolov8n.pt --models n s --imgsz 320 640 --threads 1 2
python -m benchmarks.speed --table

Each model is pruned to half of its FLOPs with channels in multiples of 1, 8, 16 and 32, by the norms of its filters
(YOLOv8n, whose weights are given) or at random (the others), exported as ``train.py export`` does, and run with one
image per batch. The files of a model and size take turns; of all times the one counts that a fifth of them is below.
Rows that are there are not run again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scores import quiet
from yolo_slim.detection import (
    ExportOptions,
    YOLODataModule,
    YOLODetector,
    as_deployed,
    export_network,
    load_network,
    trace_network,
)
from yolo_slim.pruning import Importance, Selection, importance_scores, profile, prune

WIDTHS = (1, 8, 16, 32)
ROUNDS, REPEATS = 8, 4
COLUMNS = (
    *("model", "imgsz", "threads", "runtime", "precision", "round_to"),
    *("flops", "parameters", "ms", "spread", "time", "realised"),
)
RESULTS = Path("benchmarks/results/speed.csv")


def variants(size: str, weights: str, imgsz: int) -> Iterator[tuple[Any, Any, float, float]]:
    """Width, network, and its share of the dense one's FLOPs and parameters; the dense one comes first, as 0."""
    dense = load_network(weights) if size == "n" else YOLODetector(f"yolov8{size}.yaml").net
    images = torch.zeros(1, 3, imgsz, imgsz)
    yield 0, dense.eval(), 1.0, 1.0
    before = profile(dense, images)
    for width in WIDTHS:
        net = copy.deepcopy(dense)
        graph = trace_network(net)
        scores = importance_scores(net, graph, Importance("l2" if size == "n" else "random"))
        prune(net, graph, Selection(max_flops="50%", round_to=width), scores, example_inputs=images)
        after = profile(net, images)
        yield width, net.eval(), after.flops / before.flops, after.parameters / before.parameters


def in_torch(net: Any, images: torch.Tensor) -> Callable[[], object]:
    """A forward of the fused network."""
    fused = as_deployed(copy.deepcopy(net))

    @torch.no_grad()
    def run() -> object:
        return fused(images)

    return run


def in_onnxruntime(file: Path, images: torch.Tensor, threads: int) -> Callable[[], object]:
    """A run of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def in_openvino(file: Path, images: torch.Tensor, threads: int, precision: str | None = None) -> Callable[[], object]:
    """A run of the same file, in a precision or in the one that OpenVINO chooses."""
    import openvino

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        options["INFERENCE_PRECISION_HINT"] = precision
    request = openvino.Core().compile_model(str(file), "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images.numpy()))
    return request.infer


def in_turn(runs: dict[Any, Callable[[], object]]) -> dict[Any, tuple[float, float]]:
    """By key the milliseconds and the spread, the distance from the 20th to the 80th percentile over the first."""
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            run()
            for _ in range(REPEATS):
                start = time.perf_counter()
                run()
                times[key].append(1000 * (time.perf_counter() - start))
    low, high = ({key: float(np.quantile(t, q)) for key, t in times.items()} for q in (0.2, 0.8))
    return {key: (low[key], high[key] / low[key] - 1) for key in runs}


def measure(size: str, imgsz: int, threads: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a model and an image side."""
    torch.set_num_threads(threads)
    images = torch.rand(1, 3, imgsz, imgsz)
    runs: dict[Any, Callable[[], object]] = {}
    shares = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for width, net, flops, parameters in variants(size, given.weights, imgsz):
            shares[width] = flops, parameters
            runs["torch", "fp32", width] = in_torch(net, images)
            file = export_network(net, "onnx", ExportOptions(imgsz=imgsz), folder, f"w{width}")
            runs["onnxruntime", "fp32", width] = in_onnxruntime(file, images, threads)
            runs["openvino", "fp32", width] = in_openvino(file, images, threads, "f32")
            runs["openvino", "its own", width] = in_openvino(file, images, threads, None)
            if given.int8:
                data = YOLODataModule("shapes", imgsz=imgsz, batch=4, workers=0)
                options = ExportOptions(imgsz=imgsz, int8=True, calibration_images=8)
                file = export_network(net, "onnx", options, folder, f"q{width}", data)
                runs["onnxruntime", "int8", width] = in_onnxruntime(file, images, threads)
                runs["openvino", "int8", width] = in_openvino(file, images, threads, None)
        torch.set_num_threads(threads)  # an export leaves it at one
        found = in_turn(runs)
    rows = []
    for (runtime, precision, width), (ms, spread) in found.items():
        share = ms / found[runtime, precision, 0][0]
        flops, parameters = shares[width]
        figures = (flops, parameters, ms, spread, share, (1 - share) / (1 - flops) if width else 0.0)
        cells = (
            f"yolov8{size}",
            str(imgsz),
            str(threads),
            runtime,
            precision,
            str(width),
            *(f"{v:.4g}" for v in figures),
        )
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Time relative to dense, with the realised share of the cut in brackets, as a Markdown table."""
    widths = [str(width) for width in WIDTHS]
    lines = ["| model, px, threads | runtime | precision | dense | " + " | ".join(widths) + " |"]
    lines.append("| --- | --- | --- | ---: |" + " ---: |" * len(widths))
    cells: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        key = (f"{row['model']}, {row['imgsz']}, {row['threads']}", row["runtime"], row["precision"])
        cells.setdefault(key, {})[row["round_to"]] = row
    for key, by_width in sorted(cells.items()):
        shares = [f"{float(by_width[w]['time']):.3f} ({float(by_width[w]['realised']):.2f})" for w in widths]
        lines.append(f"| {' | '.join(key)} | {float(by_width['0']['ms']):.1f} ms | {' | '.join(shares)} |")
    return "\n".join(lines)


def read(path: Path) -> list[dict[str, str]]:
    """The rows that are there."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Measures what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="yolov8n.pt", help="trained YOLOv8n")
    parser.add_argument("--models", nargs="+", default=["n", "s", "m"], help="sizes of YOLOv8")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640], help="image sides in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--int8", action="store_true", help="8 bits too")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there")
    given = parser.parse_args()
    quiet()
    rows = read(given.results)
    for size in [] if given.table else given.models:
        for imgsz in given.imgsz:
            for threads in given.threads:
                have = [r for r in rows if (r["model"], r["imgsz"]) == (f"yolov8{size}", str(imgsz))]
                if any(r["threads"] == str(threads) for r in have):
                    continue
                rows += measure(size, imgsz, threads, given)
                with given.results.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
