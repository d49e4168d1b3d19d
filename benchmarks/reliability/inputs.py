"""Input that is wrong, verb by verb: each must end with one line and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.reliability.files import refused
from benchmarks.reliability.interruptions import Try
from benchmarks.reliability.work import fresh


def bad_inputs(checkpoint: Path, data: Path, place: Path) -> Iterator[Try]:
    """Runs every bad command line once."""
    for arguments in _arguments(checkpoint, data, place):
        folder = fresh(place, "input")
        shown = arguments if len(arguments) < 4 else [arguments[0], "...", *arguments[-2:]]
        yield " ".join(shown).replace(f"{place}/", ""), refused(arguments, folder)


def _arguments(checkpoint: Path, data: Path, place: Path) -> list[list[str]]:
    text, empty, folder = place / "text.ckpt", place / "empty.ckpt", fresh(place, "a folder")
    text.write_text("no checkpoint")
    empty.write_bytes(b"")
    fit = ["fit", f"--data.data={data}", "--data.imgsz=64", "--data.workers=0", "--trainer.accelerator=cpu"]
    prune = ["prune", f"--model.weights={checkpoint}"]
    slim = ["slim", f"--data.data={data}", "--data.imgsz=64", "--data.workers=0"]
    export = ["export", f"--model.weights={checkpoint}"]
    judge = [[verb, f"--ckpt_path={checkpoint}"] for verb in ("validate", "test", "predict")]
    wrong_files = [str(text), str(empty), str(folder), str(place / "missing.ckpt"), ""]
    found = [
        ["fit"],
        ["fitt"],
        ["fit", "--data.data=missing.yaml"],
        ["fit", f"--data.data={folder}"],
        ["fit", f"--data.data={text}"],
        [*fit, "--data.imgsz=65"],
        [*fit, "--data.imgsz=0"],
        [*fit, "--data.imgsz=100000000"],
        [*fit, "--data.batch=0"],
        [*fit, "--data.workers=-1"],
        [*fit, "--trainer.max_epochs=-1"],
        [*fit, "--trainer.max_epochs=0"],
        [*fit, "--trainer.max_epoch=3"],
        [*fit, "--trainer.precision=8-mixed"],
        [*fit, "--trainer.devices=0"],
        [*fit, "--trainer.callbacks=NoSuch"],
        [*fit, "--model.model=no_such.yaml"],
        [*fit, "--model.hyp.optimizer=Lion"],
        [*fit, "--model.hyp.lr0=-1"],
        [*fit, "--model.hyp.lr0=nan"],
        [*fit, "--name=..."],
        [*fit, f"--project={text}"],
        [*fit, f"--project={text}/below"],
        [*fit, "-c", "missing.yaml"],
        [*fit, "-c", str(folder)],
        [*fit, "-c"],
        [*fit, "--data.augment.mosaic=2"],
        [*prune, "--selection.ratio=1"],
        [*prune, "--selection.ratio=nan"],
        [*prune, "--selection.max_flops=1"],
        [*prune, "--selection.max_params=0"],
        [*prune, "--selection.min_channels=0"],
        [*prune, "--selection.ignore=[no.such.layer]"],
        [*prune, "--importance.kind=taylor"],
        [*prune, "--recalibrate=true"],
        [*prune, "--imgsz=33"],
        ["prune"],
        [*slim, "--sparse.epochs=1", "--sparse.sparsity.penalty=growing"],
        [*slim, "--baseline.epochs=0"],
        [*slim, "--baseline.enabled=false"],
        [*slim, "--prune.selection.ratio=2"],
        [*slim, "--prune.selection.max_flops=1"],
        [*slim, "--sparse.sparsity.strength=-1"],
        [*slim, "--finetune.hyp.optimizer=x"],
        [*export, "--format=nothing"],
        [*export, "--format=onnx", "--imgsz=33"],
        [*export, "--format=onnx", "--int8=true"],
        [*export],
        ["export", "--format=onnx"],
        [*judge[0]],
        [*judge[1]],
        [*judge[0], "--data.data=missing.yaml"],
        [*judge[2], "--data.source=missing"],
        [*judge[2], f"--data.source={folder}"],
        [*judge[2], f"--data.source={text}"],
        ["validate", f"--data.data={data}"],
    ]
    for file in wrong_files:
        found += [
            ["prune", f"--model.weights={file}"],
            ["export", f"--model.weights={file}", "--format=onnx"],
            [*fit, f"--model.weights={file}"],
            [*fit, f"--ckpt_path={file}"] if file else [*fit, "--name="],
            ["validate", f"--ckpt_path={file}", f"--data.data={data}"],
            ["predict", f"--ckpt_path={file}", f"--data.source={folder}"],
            [*slim, f"--model.weights={file}"],
        ]
    return found
