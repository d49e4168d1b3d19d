"""Where the time of a model goes: milliseconds by kind of node, from the profilers of ONNX Runtime and OpenVINO.

python -m benchmarks.nodes --weights yolov8n.pt --imgsz 320 640

Dense YOLOv8n and what is left of it at half of the FLOPs with the default widths, as ``train.py export`` writes them,
one image on one thread, in 32 bits. Beside each kind its share of the time, dense and slim.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scores import quiet
from yolo_slim.detection import ExportOptions, export_network, load_network, trace_network
from yolo_slim.pruning import Importance, Selection, importance_scores, prune

RUNS = 40
#: Kinds of node by what they are for; others are counted by their own names.
NAMES = {
    "QuickGelu": "SiLU",
    "ReorderInput": "layout",
    "ReorderOutput": "layout",
    "Reorder": "layout",
    "VariadicSplit": "Split",
    "Upsample": "Resize",
    "Interpolate": "Resize",
    "Convolution": "Conv",
}


def by_onnxruntime(file: Path, images: np.ndarray) -> dict[str, float]:
    """Milliseconds by kind of node."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(file.with_suffix(""))
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        session.run(None, {session.get_inputs()[0].name: images})
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    return _sums(times)


def by_openvino(file: Path, images: np.ndarray) -> dict[str, float]:
    """The same; activations are fused into the convolutions."""
    import openvino

    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = openvino.Core().compile_model(str(file), "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(RUNS):
        request.infer()
        for node in request.get_profiling_info():
            times[node.node_type, node.node_name].append(1000 * node.real_time.total_seconds())
    return _sums(times)


def _sums(times: dict[tuple[str, str], list[float]]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for (kind, _), values in times.items():
        sums[NAMES.get(kind, kind)] += float(np.quantile(values, 0.2))
    return dict(sums)


def main() -> None:
    """Prints one table for each image side and runtime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="trained YOLOv8n")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640], help="image sides in pixels")
    given = parser.parse_args()
    quiet()
    for imgsz in given.imgsz:
        images = torch.rand(1, 3, imgsz, imgsz)
        dense = load_network(given.weights).eval()
        slim: Any = copy.deepcopy(dense)
        graph = trace_network(slim)
        scores = importance_scores(slim, graph, Importance("l2"))
        report = prune(slim, graph, Selection(max_flops="50%"), scores, example_inputs=images)
        assert report.flops_after is not None
        assert report.flops_before is not None
        with tempfile.TemporaryDirectory() as place:
            files = {
                state: export_network(net.eval(), "onnx", ExportOptions(imgsz=imgsz), Path(place), state)
                for state, net in (("dense", dense), ("slim", slim))
            }
            for runtime, profiled in (("ONNX Runtime", by_onnxruntime), ("OpenVINO", by_openvino)):
                found = {state: profiled(file, images.numpy()) for state, file in files.items()}
                sums = {state: sum(times.values()) for state, times in found.items()}
                share = report.flops_after / report.flops_before
                print(f"\n{runtime}, {imgsz} px: {sums['dense']:.1f} -> {sums['slim']:.1f} ms at {share:.1%} FLOPs\n")
                print("| node | dense, ms | share | slim, ms | share | slim / dense |")
                print("| --- | ---: | ---: | ---: | ---: | ---: |")
                kinds = sorted(found["dense"], key=lambda kind: -found["dense"][kind])
                for kind in [kind for kind in kinds if found["dense"][kind] > 0.002 * sums["dense"]]:
                    cells = [kind]
                    for state in ("dense", "slim"):
                        ms = found[state].get(kind, 0.0)
                        cells += [f"{ms:.2f}", f"{ms / sums[state]:.1%}"]
                    cells.append(f"{found['slim'].get(kind, 0.0) / found['dense'][kind]:.2f}")
                    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
