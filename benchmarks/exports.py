"""All formats and precisions of two models in one table: sizes, latencies on one thread, mAP.

OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.exports --before runs/baseline/best.ckpt \
    --after runs/finetune/best.ckpt --data data.yaml
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnxruntime
import torch

from yolo_slim.detection import ExportedDetector, ExportOptions, YOLODataModule, read_weights
from yolo_slim.pruning import latency_ms
from yolo_slim.reporting import exports_markdown
from yolo_slim.workflow import Exported, export_all, measure_exports


def main() -> None:
    """Prints the table, and the latencies of a second pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="Checkpoint of the baseline.")
    parser.add_argument("--after", required=True, help="Checkpoint of the finetuned model.")
    parser.add_argument("--data", required=True, help="Data YAML.")
    parser.add_argument("--imgsz", type=int, help="Image side in pixels; by default that of the checkpoint.")
    parser.add_argument("--rounds", type=int, default=10, help="How often each file is timed in a pass.")
    given = parser.parse_args()
    nets = {"before": read_weights(given.before)[0]}
    nets["after"], imgsz = read_weights(given.after)
    plain = ExportOptions(imgsz=given.imgsz or imgsz)
    quantized = ["onnx", *(["openvino"] if importlib.util.find_spec("nncf") else [])]
    plans = [
        (plain, ["onnx", "torchscript", "openvino"]),
        (replace(plain, half=True), ["openvino"]),
        (replace(plain, int8=True), quantized),
    ]
    data = YOLODataModule(given.data, imgsz=plain.imgsz, workers=0)
    data.prepare_data()
    data.setup("validate")
    with tempfile.TemporaryDirectory() as place:
        exported: list[Exported] = []
        for index, (options, formats) in enumerate(plans):
            for model, net in nets.items():
                folder = Path(place) / f"{model}{index}"
                folder.mkdir()
                made = export_all(net, model, formats, options, folder, "best", data)
                exported += made if index == 0 else made[1:]  # the PyTorch model once
        rows = measure_exports(exported, plain, data)
        for _ in range(2):
            times = quietest(exported, plain.imgsz, given.rounds)
            print(exports_markdown([replace(row, latency_ms=times[row.format, row.model]) for row in rows]))


def quietest(exported: Sequence[Exported], imgsz: int, rounds: int) -> dict[tuple[str, str], float]:
    """Milliseconds of a forward on one thread: medians of 15, the files in turn; of all turns the quickest counts.

    A machine that others use too is seldom quiet for long, so neither a mean nor a median over the turns repeats.
    """
    session, options = onnxruntime.InferenceSession, onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by default one per core, even of cores it may not use
    onnxruntime.InferenceSession = lambda path, _=None, **keys: session(path, options, **keys)
    try:
        detectors = {(e.format, e.model): ExportedDetector(e.file) for e in exported}
    finally:
        onnxruntime.InferenceSession = session
    run = partial(latency_ms, example_inputs=torch.rand(1, 3, imgsz, imgsz), repeats=15)
    turns = [{key: run(detector) for key, detector in detectors.items()} for _ in range(rounds)]
    return {key: min(turn[key] for turn in turns) for key in detectors}


if __name__ == "__main__":
    main()
