"""The verbs that are tried: their command lines on tiny data, what they leave, and whether that is sound."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

from benchmarks.reliability.running import Ended, equal, run
from yolo_slim.detection import read_weights

_SMALL = [
    *("--data.imgsz=64", "--data.workers=1", "--data.batch=4", "--trainer.accelerator=cpu"),
    "--trainer.enable_progress_bar=false",
]
_HYP = ["optimizer=AdamW", "nbs=4", "warmup_epochs=1.0"]


@dataclass
class Work:
    """A verb on tiny data.

    Attributes:
        verb: Its name.
        arguments: Its command line.
        results: What it leaves in its run folder, relative to that.
        inputs: Files that it reads and must not touch.
    """

    verb: str
    arguments: list[str]
    results: list[str]
    inputs: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return "slim" if self.verb == "slim" else "run"

    def again(self, folder: Path) -> list[str]:
        """The command line that goes on with what an interrupted run has left, or starts anew."""
        last = newest(folder, "last.ckpt")
        if self.verb == "fit" and last is not None:
            return [*self.arguments, f"--ckpt_path={last}"]
        return self.arguments


def works(data: Path, trained: Path, pruned_from: Path) -> list[Work]:
    """The verbs that write.

    Args:
        data: A data YAML.
        trained: A checkpoint to export.
        pruned_from: A checkpoint to prune.
    """
    fit = ["fit", "--name=run", f"--data.data={data}", *_SMALL, "--trainer.max_epochs=4"]
    fit += [f"--model.hyp.{key}" for key in _HYP]
    slim = ["slim", f"--data.data={data}", *_SMALL, "--sparse.sparsity.penalty=growing", "--prune.selection.ratio=0.5"]
    for phase, epochs in (("baseline", 2), ("sparse", 3), ("finetune", 2)):
        slim += [f"--{phase}.epochs={epochs}", *(f"--{phase}.hyp.{key}" for key in _HYP)]
    prune = ["prune", "--name=run", f"--model.weights={pruned_from}", "--imgsz=64", "--selection.ratio=0.5"]
    export = ["export", "--name=run", f"--model.weights={trained}", "--imgsz=64", "--format", "ckpt", "torchscript"]
    return [
        # A fit that goes on in a new folder has its best epoch in either of them.
        Work("fit", fit, ["last.ckpt"]),
        Work(
            "slim",
            slim,
            ["baseline/best.ckpt", "sparse/last.ckpt", "prune/slim.ckpt", "finetune/last.ckpt", "results.md"],
        ),
        Work("prune", prune, ["slim.ckpt", "plan.yaml", "pruning.yaml"], [pruned_from]),
        Work("export", export, [f"{trained.stem}.ckpt", f"{trained.stem}.torchscript"], [trained]),
    ]


def newest(folder: Path, name: str) -> Path | None:
    """The file of this name that was written last anywhere below a folder."""
    found = sorted(folder.rglob(name), key=lambda file: file.stat().st_mtime)
    return found[-1].relative_to(folder) if found else None


def damage(folder: Path) -> list[str]:
    """What is wrong with the files that runs have left below a folder under their final names."""
    wrong = []
    for file in sorted(folder.rglob("*")):
        # What is being written has a name that begins with a dot, or lies in a folder that is still in the making.
        hidden = any(part.startswith((".", "tmp")) for part in file.relative_to(folder).parts)
        if hidden or not file.is_file() or "datasets" in file.parts:
            continue
        try:
            _open(file)
        except Exception as error:  # whatever a damaged file makes its reader raise
            wrong.append(f"{file.relative_to(folder)}: {error!r:.200}")
    return wrong


def _open(file: Path) -> None:
    if file.suffix == ".ckpt":
        read_weights(file)
    elif file.suffix == ".yaml":
        if not isinstance(yaml.safe_load(file.read_text()), dict):
            raise ValueError("no mapping")
    elif file.suffix == ".torchscript":
        torch.jit.load(str(file))
    elif file.suffix in (".md", ".html", ".png") and not file.stat().st_size:
        raise ValueError("empty")


def missing_epochs(folder: Path) -> list[str]:
    """What is wrong with the ``metrics.csv`` of a finished run: epochs that are missing or stand there twice."""
    wrong = []
    for file in sorted(folder.rglob("metrics*.csv")):
        with file.open(newline="") as stream:
            epochs = [row.get("epoch") for row in csv.DictReader(stream) if row.get("val/map")]
        if file.name != "metrics.csv" or epochs != [str(epoch) for epoch in range(len(epochs))]:
            wrong.append(f"{file.relative_to(folder)}: epochs {epochs}")
    return wrong


def completed(work: Work, folder: Path, straight: Path, tries: int = 3) -> list[str]:
    """Goes on after an interruption, and compares with a straight run; returns what is wrong.

    Args:
        work: The verb.
        folder: Where it was interrupted.
        straight: The run folder of a straight run.
        tries: How often it may be started.
    """
    ended: Ended | None = None
    finished = False
    for _ in range(tries):
        ended = run(work.again(folder), folder)
        if finished := not ended.status or "there is nothing to go on with" in ended.output:
            break
    assert ended is not None
    if not finished:
        return [f"does not go on: {ended.output[-600:]}"]
    last = newest(folder, work.results[-1])
    if last is None:
        return [f"no {work.results[-1]} after going on"]
    found = (folder / last).parent
    wrong = []
    for name in work.results:
        if not (found / name).is_file():
            wrong.append(f"no {name}")
        elif name.endswith(".ckpt") and not equal(found / name, straight / name):
            wrong.append(f"{name} differs from that of a straight run")
    if work.verb == "slim":
        wrong += missing_epochs(found)
    return wrong + damage(folder)


def fresh(place: Path, name: str) -> Path:
    """An empty folder."""
    folder = place / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
