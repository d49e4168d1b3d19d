"""Files that are damaged, or that somebody made to do harm, given to every verb that opens one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.interruptions import Try
from benchmarks.reliability.running import Running
from benchmarks.reliability.work import fresh

#: No look at a small file takes longer, in seconds.
_LONGEST = 90.0


def damaged(checkpoints: list[Path], data: Path, count: int, place: Path, draw: random.Random) -> Iterator[Try]:
    """Checkpoints that are cut off, or have bytes changed or zeroed: refused in one line, or read as they are.

    Args:
        checkpoints: Sound ones.
        data: A data YAML.
        count: How many damaged ones are made.
        place: Where they go.
        draw: Draws the damage.
    """
    for number in range(count):
        folder = fresh(place, f"damaged-{number}")
        source = checkpoints[number % len(checkpoints)]
        content = bytearray(source.read_bytes())
        kind = ("cut off", "changed in a byte", "zeroed in a block", "empty")[min(draw.randrange(10) // 3, 3)]
        at = draw.randrange(len(content))
        if kind == "cut off":
            del content[at:]
        elif kind == "changed in a byte":
            content[at] ^= 1 + draw.randrange(255)
        elif kind == "zeroed in a block":
            content[at : at + 4096] = bytes(len(content[at : at + 4096]))
        else:
            content.clear()
        file = folder / f"damaged{source.suffix}"
        file.write_bytes(content)
        arguments = _verbs(file, data)[number % 3]
        # What falls between the parts that have checksums changes nothing.
        yield (
            f"{arguments[0]}: a {source.suffix} {kind}",
            refused(arguments, folder, may_work="in a" in kind),
        )  # checksums leave the padding


def hostile(checkpoint: Path, data: Path, place: Path) -> Iterator[Try]:
    """Small files that would take any time or memory, run something, or send something to the terminal."""
    sound = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, change in _changes().items():
        for number in range(3):
            folder = fresh(place, f"hostile-{number}")
            file = folder / "hostile.ckpt"
            try:
                torch.save(change({**sound, "hyper_parameters": dict(sound["hyper_parameters"])}), file)
            except RecursionError:
                continue
            arguments = _verbs(file, data)[number]
            unread = name in _OF_TRAINING and arguments[0] != "fit"
            yield f"{arguments[0]}: a checkpoint with {name}", refused(arguments, folder, may_work=unread)
    for name, text in _texts().items():
        folder = fresh(place, "hostile-yaml")
        file = folder / "hostile.yaml"
        file.write_text(text)
        for arguments in (
            ["fit", f"--data.data={file}", "--data.imgsz=64"],
            ["fit", "-c", str(file)],
            ["prune", "-c", str(file)],
            ["fit", "--data.data=shapes", f"--model.model={file}"],
        ):
            yield f"{arguments[0]} {arguments[1]}: a YAML with {name}", refused(arguments, folder)
    folder = fresh(place, "hostile-fifo")
    pipe = folder / "pipe.jpg"
    os.mkfifo(pipe)
    for arguments in (
        ["predict", f"--ckpt_path={checkpoint}", f"--data.source={pipe}"],
        ["predict", f"--ckpt_path={checkpoint}", f"--data.source={folder}"],
        ["fit", f"--data.data={pipe}"],
        ["fit", "-c", str(pipe)],
        ["prune", f"--model.weights={pipe}"],
        ["validate", f"--ckpt_path={pipe}", f"--data.data={data}"],
    ):
        yield f"{arguments[0]}: a named pipe as {arguments[-1].partition('=')[0]}", refused(arguments, folder)
    name = "\x1b]0;owned\x07\x1b[2J.ckpt"
    for arguments in _verbs(folder / name, data):
        yield f"{arguments[0]}: a file name with escape sequences", refused(arguments, folder)


#: Changes to what only a fit reads that goes on.
_OF_TRAINING = ("an epoch of 2**200", "optimizer states of text", "callback states that double")


def _verbs(file: Path, data: Path) -> list[list[str]]:
    small = [f"--data.data={data}", "--data.workers=0", "--trainer.accelerator=cpu"]
    return [
        ["prune", f"--model.weights={file}"],
        ["validate", f"--ckpt_path={file}", *small],
        ["fit", f"--ckpt_path={file}", "--data.imgsz=64", "--data.batch=4", "--trainer.max_epochs=9", *small]
        + ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--model.hyp.optimizer=AdamW"],
    ]


def _changes() -> dict[str, Any]:
    laughs: Any = ["x"]
    for _ in range(40):
        laughs = [laughs, laughs]
    deep: Any = []
    for _ in range(400):
        deep = [deep]

    def hparam(key: str, value: Any) -> Any:
        return lambda checkpoint: checkpoint | {"hyper_parameters": checkpoint["hyper_parameters"] | {key: value}}

    return {
        "a format that doubles 40 times": lambda c: c | {"yolo_slim": {"format": laughs}},
        "a format of 3 MB": lambda c: c | {"yolo_slim": {"format": "x" * 3_000_000}},
        "names that double 40 times": hparam("names", laughs),
        "a hundred thousand names": hparam("names", {i: str(i) for i in range(100_000)}),
        "a model that is nested 400 deep": hparam("model", {"backbone": deep, "head": deep}),
        "a structure that doubles": hparam("structure", {"net": laughs}),
        "variants that double": hparam("variants", {"net": laughs}),
        "an image size of 2**200": hparam("imgsz", 2**200),
        "an unknown key that doubles": hparam("other", laughs),
        "a state_dict of text": lambda c: c | {"state_dict": {"net.model.0.conv.weight": "x" * 1_000_000}},
        "a class name with escape sequences": hparam("names", {0: "\x1b[2J\x1b]0;owned\x07"}),
        "an epoch of 2**200": lambda c: c | {"epoch": 2**200, "loops": {}},
        "optimizer states of text": lambda c: c | {"optimizer_states": "x", "lr_schedulers": 3},
        "callback states that double": lambda c: c | {"callbacks": {"ModelCheckpoint": laughs}},
    }


def _texts() -> dict[str, str]:
    aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    aliases += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    return {
        "aliases that expand without end as train": aliases + "train: *a9\nval: x\nnames: [a]\n",
        "aliases that expand without end as names": aliases + "train: x\nval: x\nnames: *a9\n",
        "a bracket 5000 times": "train: " + "[" * 5000 + "]" * 5000 + "\nval: x\nnames: [a]\n",
        "two thousand million classes": "train: x\nval: x\nnc: 2000000000\n",
        "2**200 classes": f"train: x\nval: x\nnc: {2**200}\n",
        "an alias to itself": "train: &a [*a]\nval: x\nnames: [a]\n",
        "a key of 3 MB": "x" * 3_000_000 + ": 1\ntrain: x\nval: x\nnames: [a]\n",
        "a Python object": "train: !!python/object/apply:os.system [touch owned]\nval: x\nnames: [a]\n",
        "a byte that is no text": "train: x\nval: \udc80\nnames: [a]\n".encode("utf-8", "ignore").decode(),
    }


def refused(arguments: list[str], folder: Path, may_work: bool = False) -> list[str]:
    """What is wrong with how a verb answers a bad file."""
    running = Running(arguments, folder)
    ended = running.wait(seconds=_LONGEST)
    if ended is None:
        running.kill()
        running.finish()
        return [f"it still runs after {_LONGEST:.0f} s"]
    if not ended.status:
        return [] if may_work else [f"accepted: {ended.output[-300:]}"]
    wrong = [] if ended.one_line else [f"status {ended.status}, not one line: {ended.output[-900:]}"]
    if (folder / "owned").exists():
        wrong.append("it ran what the file says")
    if list(folder.glob("runs/*")):
        wrong.append(f"it leaves {[str(p.relative_to(folder)) for p in folder.glob('runs/*')]}")
    return wrong
