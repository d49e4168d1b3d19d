"""Slim against a smaller dense model at equal milliseconds, all trained from random weights for as many epochs.

python -m benchmarks.smaller --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --arms "n slim" "s slim" n
python -m benchmarks.smaller --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --arms narrow
python -m benchmarks.smaller --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --table

``n slim`` and ``s slim`` are YOLOv8n and YOLOv8s through ``train.py slim``, to half and to a share of the FLOPs with
which YOLOv8s is as fast as YOLOv8n; ``n`` is the dense YOLOv8n, and ``narrow`` one with layers so narrow that it is no
faster than ``n slim``, trained by ``train.py fit``. What is there is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import csv
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from ultralytics.nn.tasks import yaml_model_load

from benchmarks.recipes import LAST
from benchmarks.speed import in_onnxruntime, in_openvino, in_turn
from benchmarks.training import fit_as_baseline
from yolo_slim.commands import main as train
from yolo_slim.detection import ExportOptions, YOLODetector, export_network, load_network

CONFIGS = {name: Path(__file__).with_name(f"{name}.yaml") for name in ("bccd", "license_plate")}
#: Share of the FLOPs that a model is pruned to.
BUDGETS = {"n slim": ("yolov8n.yaml", "50%"), "s slim": ("yolov8s.yaml", "30%")}
ARMS = (*BUDGETS, "n", "narrow")
#: Epochs of the phases of ``slim``; the dense models are trained for as many together.
PHASES = {"baseline": 30, "sparse": 9, "finetune": 21}


def folder_of(data: str, arm: str, root: Path) -> Path:
    """Where an arm's run is."""
    return root / f"{Path(data).parent.name}-{arm.replace(' ', '-')}"


def checkpoint(folder: Path) -> Path:
    """The model that a run has ended with."""
    return next(path for path in (folder / "finetune" / "best.ckpt", folder / "best.ckpt") if path.is_file())


def score(folder: Path) -> float | None:
    """The mean mAP50-95 of the last epochs of a run that is there: a single one on few images scatters."""
    files = [path for path in (folder / "finetune" / "metrics.csv", folder / "metrics.csv") if path.is_file()]
    if not files:
        return None
    file = files[0]
    with file.open(newline="") as stream:
        scores = [float(row["val/map"]) for row in csv.DictReader(stream) if row.get("val/map")]
    return mean(scores[-LAST:])


def slim(data: str, arm: str, imgsz: int, folder: Path) -> None:
    """The recipe from random weights."""
    model, share = BUDGETS[arm]
    keys: dict[str, Any] = {
        "data.data": data,
        "data.imgsz": imgsz,
        "data.workers": 0,
        "model.model": model,
        "prune.selection.max_flops": share,
        **{f"{phase}.epochs": epochs for phase, epochs in PHASES.items()},
        "trainer.enable_progress_bar": "false",
        "project": folder.parent,
        "name": folder.name,
    }
    train(["slim", "-c", str(CONFIGS[Path(data).parent.name]), *(f"--{key}={value}" for key, value in keys.items())])


def dense(data: str, model: str, imgsz: int, folder: Path) -> None:
    """As long a fit of a dense model."""
    keys = {
        "data.data": data,
        "data.imgsz": imgsz,
        "data.workers": 0,
        "data.augment.close_mosaic": 5,
        "model.model": model,
        "trainer.max_epochs": sum(PHASES.values()),
        "project": folder.parent,
        "name": folder.name,
    }
    fit_as_baseline(keys)


def narrow_yaml(width: float, folder: Path) -> Path:
    """A model YAML of YOLOv8n with layers of another width."""
    model = yaml_model_load("yolov8n.yaml")
    model["scales"] = {"n": [0.33, width, 1024]}
    path = folder / f"yolov8n-width-{width:g}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in model.items() if key not in ("scale", "yaml_file")}))
    return path


def milliseconds(nets: dict[str, Any], imgsz: int) -> dict[Any, tuple[float, float]]:
    """By runtime and name what one image takes on one thread, in turn, and the spread."""
    images = torch.rand(1, 3, imgsz, imgsz)
    runs = {}
    with tempfile.TemporaryDirectory() as place:
        for name, net in nets.items():
            file = export_network(net, "onnx", ExportOptions(imgsz=imgsz), Path(place), name.replace(" ", "-"))
            runs["onnxruntime", name] = in_onnxruntime(file, images, 1)
            runs["openvino", name] = in_openvino(file, images, 1, "f32")
        return in_turn(runs)


def find_width(target: Path, imgsz: int, folder: Path) -> Path:
    """The narrowest YOLOv8n that is no faster than a model in ONNX Runtime: the dense one has the better of it."""
    for width in (0.125, 0.14, 0.1563, 0.1719, 0.1875, 0.2032, 0.2188, 0.2344):
        path = narrow_yaml(width, folder)
        slim_net = load_network(target).eval()
        nets = {"slim": slim_net, "narrow": YOLODetector(str(path), dict(slim_net.names)).net.eval()}
        found = milliseconds(nets, imgsz)
        if found["onnxruntime", "narrow"][0] >= found["onnxruntime", "slim"][0]:
            return path
    raise RuntimeError("even YOLOv8n itself is faster")


def main() -> None:
    """Trains what is missing, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="data YAMLs")
    parser.add_argument("--imgsz", type=int, default=128, help="image side in pixels")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--folder", type=Path, default=Path("runs/smaller"))
    parser.add_argument("--table", action="store_true", help="print what is there")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for data in [] if given.table else given.data:
        for arm in given.arms:
            folder = folder_of(data, arm, given.folder)
            if (folder / "best.ckpt").is_file() or (folder / "report.html").is_file():
                continue
            if arm in BUDGETS:
                slim(data, arm, given.imgsz, folder)
            elif arm == "n":
                dense(data, "yolov8n.yaml", given.imgsz, folder)
            else:
                target = checkpoint(folder_of(data, "n slim", given.folder))
                dense(data, str(find_width(target, given.imgsz, given.folder)), given.imgsz, folder)
    if not given.table:
        return
    print(
        "| data | model | parameters | ONNX Runtime | OpenVINO | mAP50-95 |\n| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for data in given.data:
        folders = {arm: folder_of(data, arm, given.folder) for arm in ARMS}
        nets = {arm: load_network(checkpoint(f)).eval() for arm, f in folders.items() if score(f) is not None}
        times = milliseconds(copy.deepcopy(nets), given.imgsz)
        for arm, net in nets.items():
            parameters = sum(p.numel() for p in net.parameters()) / 1e6
            cells = [f"{times[runtime, arm][0]:.2f} ms" for runtime in ("onnxruntime", "openvino")]
            found = score(folder_of(data, arm, given.folder))
            print(f"| {Path(data).parent.name} | {arm} | {parameters:.3f} M | {' | '.join(cells)} | {found:.3f} |")


if __name__ == "__main__":
    main()
