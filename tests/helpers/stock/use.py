"""Run by itself, where yolo_slim cannot be imported: what stock Ultralytics makes of the .pt files of a folder.

Usage: stock_use.py FOLDER [VERB...]; writes FOLDER/NAME.json for every FOLDER/NAME.pt. The folder also holds data.yaml,
frames/, film/ and imgsz.txt.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path


class WithoutYoloSlim:
    """An import finder that does not find yolo_slim, however it is installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "yolo_slim" else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [WithoutYoloSlim(finder) for finder in sys.meta_path]
assert importlib.util.find_spec("yolo_slim") is None
assert importlib.util.find_spec("ultralytics") is not None

import torch  # noqa: E402
from ultralytics import YOLO  # noqa: E402

torch.set_num_threads(1)


def boxes_of(results):
    """Per image the boxes (n, 6 or 7): corners in pixels of the image, identity where tracked, score, class."""
    return [result.boxes.data.tolist() for result in results]


def use(file, folder, imgsz, verbs):
    """What the verbs give for one file."""
    model, found = YOLO(file), {}
    layers, parameters, gradients, gflops = model.info(verbose=True, imgsz=imgsz)
    found["info"] = {"parameters": parameters, "gradients": gradients, "gflops": gflops}
    found["names"], found["imgsz"] = model.names, model.overrides["imgsz"]
    found["channels"] = [m.out_channels for m in model.model.modules() if isinstance(m, torch.nn.Conv2d)]
    frames = folder / "frames"
    alike = {"imgsz": imgsz, "rect": False, "verbose": False, "device": "cpu"}
    if "predict" in verbs:
        found["predict"] = boxes_of(YOLO(file).predict(frames, conf=0.25, iou=0.7, **alike))
    if "track" in verbs:
        found["track"] = boxes_of(YOLO(file).track(folder / "film", conf=0.25, iou=0.7, **alike))
    if "val" in verbs:
        places = {"project": str(folder / "runs"), "name": file.stem, "plots": False}
        scores = YOLO(file).val(data=str(folder / "data.yaml"), batch=4, workers=0, **alike, **places)
        found["val"] = {"map50": scores.box.map50, "map": scores.box.map}
    if "export" in verbs:
        exported = YOLO(file).export(format="onnx", imgsz=imgsz, simplify=False, device="cpu")
        found["export"] = boxes_of(YOLO(exported, task="detect").predict(frames, conf=0.25, iou=0.7, **alike))
    return found


def main():
    """Uses every file of the folder."""
    folder, verbs = Path(sys.argv[1]), sys.argv[2:] or ["predict", "track", "val", "export"]
    imgsz = int((folder / "imgsz.txt").read_text())
    for file in sorted(folder.glob("*.pt")):
        file.with_suffix(".json").write_text(json.dumps(use(file, folder, imgsz, verbs)))
    assert not [name for name in sys.modules if name.partition(".")[0] == "yolo_slim"]


if __name__ == "__main__":
    main()
