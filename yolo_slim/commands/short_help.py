"""Help that fits a screen: what a verb does, three examples, and the keys that people use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO

from yolo_slim.commands.config_files import options_of


@dataclass(frozen=True)
class Page:
    """Help of a verb.

    Attributes:
        what: What it does.
        examples: Commands, without the program.
        keys: Key -> default and meaning.
    """

    what: str
    examples: tuple[str, ...]
    keys: dict[str, tuple[str, str]]


_DATA = {
    "data.data": ("", "data YAML as Ultralytics has it, or shapes, the built-in images"),
    "imgsz": ("of the weights", "side of the images in pixels, a multiple of 32"),
    "batch": ("16", "images per batch and process"),
    "workers": ("8", "loading processes, no more than there are cores"),
}
_DEVICE = {"device": ("auto", "cpu, mps, or numbers of GPUs: 0 or 0,1")}
_RUN = {"name": ("VERB", "name of the run folder"), "project": ("runs", "folder of the run folders")}
_BUDGET = {
    "ratio": ("0.5", "share of the prunable channels to remove, in [0, 1)"),
    "max-flops": ("", "a budget instead: 50%, or a number of operations of one forward"),
    "max-params": ("", "a budget: 50%, or a number of parameters"),
    "max-latency": ("", "a budget: 60% or 8ms, in the runtime of latency.runtime"),
}
_USE = {
    "ckpt_path": ("", "the checkpoint; or a word: a .ckpt, .pt or run folder"),
    **_DATA,
    "data.rect": ("false", "batches of the shape of their images, as yolo val has them"),
    "model.metric": ("coco", "coco, or ultralytics for the figures of yolo val"),
    "conf": ("0.001", "lowest score of a box, in [0, 1]"),
    "iou": ("0.7", "overlap above which the lower box of a class goes, in [0, 1]"),
    "max_det": ("300", "boxes of an image at most"),
    **_DEVICE,
    **_RUN,
}

PAGES = {
    "fit": Page(
        "Train a detector: a baseline, a sparse phase or a finetune, as the configuration says.",
        (
            "fit yolov8n.pt data.yaml --epochs 100",
            "fit -c growing.yaml --model.weights runs/fit/best.ckpt --data.data data.yaml",
            "fit data=data.yaml model=yolov8n.pt epochs=100 imgsz=640 batch=16 device=0",
        ),
        {
            "model.model": ("yolov8n.yaml", "model YAML, from scratch, or a .pt file"),
            "model.weights": ("", "checkpoint or .pt to start from, with its structure"),
            "ckpt_path": ("", "checkpoint of a fit that was interrupted: goes on with it"),
            "epochs": ("1000", "passes over the training images"),
            **_DATA,
            "model.activation": ("", "another one for the whole network: nn.ReLU(), nn.Hardswish(), ..."),
            "optimizer": ("auto", "SGD, Adam, AdamW, MuSGD, or auto"),
            "lr0": ("0.01", "first learning rate, where the optimizer is not auto"),
            **_DEVICE,
            "trainer.precision": ("mixed on a GPU", "32-true, 16-mixed, bf16-mixed, ..."),
            "seed": ("0", "seed of weights, order and augmentation"),
            **_RUN,
        },
    ),
    "validate": Page(
        "mAP of a checkpoint on the validation images.",
        ("validate runs/slim", "validate best.pt data.yaml --batch 32", "validate runs/fit --conf 0.25"),
        _USE,
    ),
    "test": Page(
        "mAP of a checkpoint on the test images.",
        ("test runs/slim", "test best.pt data.yaml --batch 32", "test runs/fit --data.data other.yaml"),
        _USE,
    ),
    "predict": Page(
        "Draw and write the boxes that a checkpoint finds in images.",
        (
            "predict runs/slim image.jpg",
            "predict best.pt folder --conf 0.4",
            "predict runs/slim 'photos/*.jpg' --imgsz 320",
        ),
        {
            "ckpt_path": ("", "the checkpoint; or a word: a .ckpt, .pt or run folder"),
            "source": ("", "image, folder, glob or list of images; or a word"),
            "conf": ("0.25", "lowest score of a box, in [0, 1]"),
            "iou": ("0.7", "overlap above which the lower box of a class goes, in [0, 1]"),
            "max_det": ("300", "boxes of an image at most"),
            "imgsz": ("of the weights", "side of the images in pixels, a multiple of 32"),
            **_DEVICE,
            **_RUN,
        },
    ),
    "sensitivity": Page(
        "Measure how the loss rises when channels of one unit, layers that are pruned together, are silenced.",
        (
            "sensitivity runs/fit",
            "sensitivity best.pt data.yaml --metric both --images 256",
            "prune runs/fit --max-flops 50% --selection.sensitivity runs/sensitivity",
        ),
        {
            "model.weights": ("", "the checkpoint; or a word: a .ckpt, .pt or run folder"),
            "data.data": ("of the run", "data YAML"),
            "ratios": ("0.1 0.3 0.5 0.7 0.9", "shares of a unit's channels that are silenced"),
            "metric": ("loss", "loss, map or both"),
            "images": ("128", "images that are measured on, at most"),
            "split": ("train", "where they come from: train, val or test"),
            "stop_rise": ("1.0", "larger ratios are skipped once the loss has risen by more, relative"),
            "importance.kind": ("gamma", "which channels of a unit go first: gamma, l1, l2, taylor, ..."),
            "part": ("1/1", "of several machines: 2/4 measures every fourth unit"),
            "merge": ("", "folders of all parts, to be joined"),
            "imgsz": ("of the weights", "side of the images in pixels"),
            **_RUN,
        },
    ),
    "prune": Page(
        "Remove the channels that matter least and save the slim model, which is then finetuned.",
        (
            "prune runs/fit --ratio 0.5",
            "prune best.pt data.yaml --max-flops 50% --importance.kind taylor",
            "prune runs/fit --max-latency 60% --latency.runtime onnxruntime",
        ),
        {
            "model.weights": ("", "the checkpoint; or a word: a .ckpt, .pt or run folder"),
            **_BUDGET,
            "latency.runtime": ("torch", "torch, onnxruntime, openvino or tensorrt"),
            "importance.kind": ("gamma", "gamma, l1, l2, taylor (needs data), gamma_l1, random"),
            "selection.round_to": ("auto", "multiples that layers keep: auto, or a number such as 8"),
            "selection.min_channels": ("8", "channels that every layer keeps"),
            "selection.ignore": ("", "patterns of module names that stay as they are"),
            "selection.sensitivity": ("", "folder of a measurement that says how much of each layer goes"),
            "data.data": ("of the run", "training images, for taylor and recalibrate"),
            "imgsz": ("of the weights", "side of the images that budgets are meant for"),
            **_RUN,
        },
    ),
    "export": Page(
        "Write ONNX, TorchScript, OpenVINO, ... files and measure their size, latency and mAP.",
        (
            "export runs/slim --format onnx",
            "export runs/slim --format onnx openvino --int8 true",
            "export best.pt --format onnx --nms true",
        ),
        {
            "model.weights": ("", "the checkpoint; or a word: a .ckpt, .pt or run folder"),
            "format": ("", "onnx, torchscript, openvino, engine, ncnn, coreml, ultralytics, weights, ..."),
            "imgsz": ("of the weights", "side of the images in pixels"),
            "batch": ("1", "images in a batch"),
            "dynamic": ("false", "images of any size and number"),
            "half": ("false", "half precision"),
            "int8": ("false", "8 bits; takes training images to calibrate"),
            "nms": ("false", "non-maximum suppression inside the file"),
            "data.data": ("of the run", "to measure mAP with, and to calibrate"),
            "before": ("", "another checkpoint to compare with, such as the baseline"),
            **_RUN,
        },
    ),
    "compare": Page(
        "Parameters, GFLOPs, size, latency and mAP of several checkpoints in one table and one picture.",
        (
            "compare runs/slim runs/strong",
            "compare dense.pt slim.ckpt --data.data data.yaml --per_class",
            "compare runs/fit/best.ckpt runs/prune --split test",
        ),
        {
            "data.data": ("of the run", "data YAML"),
            "split": ("val", "images that are judged by: val or test"),
            "per_class": ("false", "mAP50-95 of each class, the largest fall first"),
            "imgsz": ("of the first", "side of the images in pixels, for all"),
            **_RUN,
        },
    ),
    "slim": Page(
        "Train, sparse-train, prune and finetune in one command that goes on where it was interrupted.",
        (
            "slim best.pt data.yaml",
            "slim best.pt data.yaml --max-flops 50% --epochs 100",
            "slim runs/slim --ratio 0.7 --name strong",
        ),
        {
            "model.weights": ("", "trained .pt or checkpoint: no baseline is trained; or a word"),
            "model.model": ("yolov8n.yaml", "model YAML, whose baseline is trained first; or a word"),
            "data.data": ("", "data YAML; or a word"),
            **_BUDGET,
            "epochs": ("by the images", "of the baseline, and of all that comes after it"),
            "sparse.enabled": ("true", "a sparse phase before the prune"),
            "prune.importance.kind": ("gamma", "how channels are scored; taylor where there is no sparse phase"),
            "rounds.count": ("1", "how often sparse phase, prune and finetune are repeated"),
            "rounds.max_drop": ("", "mAP50-95 that may be lost before rounds end"),
            "imgsz": ("of the weights", "side of the images in pixels"),
            "batch": ("16", "images per batch and process"),
            **_DEVICE,
            "name": ("slim", "name of the run folder; the same name goes on"),
        },
    ),
}


def asks_for_help(arguments: list[str]) -> str | None:
    """What help is asked for: "" for the page, "all", or a key; None if none is."""
    for option in options_of(arguments):
        if option[0] in ("-h", "--help"):
            return option[1] if len(option) > 1 else ""
    return None


def page(verb: str, program: str) -> str:
    """The help of a verb, at most 45 lines.

    Args:
        verb: The verb.
        program: How it is called.
    """
    own = PAGES[verb]
    lines = [f"{program} {verb} [WORDS] [-c CONFIG.yaml] [--key value]", "", own.what, ""]
    lines += [f"  {program} {example}" for example in own.examples]
    lines += ["", "keys that people use:"]
    for key, (default, meaning) in own.keys.items():
        known = f" ({verb if default == 'VERB' else default})" if default else ""
        lines.append(f"  --{key:24}{meaning}{known}")
    lines += ["", f"{program} {verb} --help all lists every key, --help KEY those like it; -c finds configs by name."]
    return "\n".join(lines)


def full(command: Callable[[list[str]], None], verb: str, more: str = "") -> str:
    """All keys of a verb, as its parser shows them, and more below."""
    shown = StringIO()
    with redirect_stdout(shown), suppress(SystemExit):
        command([verb, "--help"])
    return shown.getvalue() + more


def about(key: str, text: str) -> str | None:
    """The parts of a full help that are about a key; None if nothing is.

    Args:
        key: A key, or part of one.
        text: The full help.
    """
    wanted = key.lstrip("-").replace("-", "_")
    blocks: list[list[str]] = []
    for line in text.splitlines():
        if line.lstrip().startswith("-"):
            blocks.append([line])
        elif blocks and line.startswith("   ") and line.strip():
            blocks[-1].append(line)
        else:
            blocks.append([])
    found = [block for block in blocks if block and wanted in block[0].split()[0].lstrip("-")]
    return "\n".join(line for block in found for line in block) or None
