"""What the examples share and what is not about pruning: arguments, folders, fits, and the table at the end."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from yolo_slim.pruning import latencies_ms, profile


def arguments(description: str, epochs: tuple[int, int, int], size: int, batch: int = 8) -> argparse.Namespace:
    """Reads the command line; `data` is a data YAML afterwards, of drawn shapes where none was given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--data", help="data YAML in Ultralytics' layout; without one, shapes are drawn into datasets/shapes")
    add("--epochs", type=int, nargs=3, default=epochs, metavar=("DENSE", "SPARSE", "FINETUNE"), help="of each phase")
    add("--size", type=int, default=size, help="size of the network's images in pixels")
    add("--batch", type=int, default=batch, help="images per step")
    add("--ratio", type=float, default=0.5, help="share of the prunable channels to remove")
    add("--weights", help="DEFAULT downloads torchvision's trained backbone; without, weights are random")
    add("--workers", type=int, default=0, help="processes that read images")
    options = parser.parse_args()
    if options.data is None:
        from yolo_slim.detection import generate_shapes  # OpenCV and NumPy, no Ultralytics

        options.data = generate_shapes("datasets/shapes")
    return options


def new_folder(name: str) -> Path:
    """Makes runs/examples/NAME, or NAME-2, NAME-3, ... where that exists."""
    for number in count(1):
        folder = Path("runs/examples") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() ended")


def loaders(
    make: Callable[..., Any], options: argparse.Namespace, collate: Callable[..., Any] | None = None
) -> tuple[DataLoader, DataLoader]:
    """Loaders of both splits, with training images flipped and in random order."""
    common: dict[str, Any] = {"batch_size": options.batch, "num_workers": options.workers, "collate_fn": collate}
    train = DataLoader(make(options.data, "train", options.size, flip=True), shuffle=True, drop_last=True, **common)
    return train, DataLoader(make(options.data, "val", options.size), **common)


def trainer(folder: Path, epochs: int = 1, callbacks: Sequence[L.Callback] = ()) -> L.Trainer:
    """An ordinary Trainer that validates at the end of its fit."""
    return L.Trainer(
        devices=1,
        max_epochs=epochs,
        check_val_every_n_epoch=epochs,
        callbacks=list(callbacks),
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )


class Table:
    """Figures of a module in the states that it goes through.

    Args:
        inputs: Positional arguments of the module for one image, to count operations of and to time.
        score: What the module logs in validation.
    """

    def __init__(self, inputs: tuple, score: str) -> None:
        self.inputs, self.score = inputs, score
        self.states: list[tuple[str, L.LightningModule, float]] = []

    def add(self, state: str, module: L.LightningModule | None, by: L.Trainer) -> None:
        """Keeps a copy of a module as it is now.

        Args:
            state: What to call it.
            module: The module; None where its network is of the same size as that of the state before.
            by: The Trainer that validated it last.
        """
        kept = self.states[-1][1] if module is None else copy.deepcopy(module).cpu()
        self.states.append((state, kept, float(by.callback_metrics[self.score])))

    def markdown(self, rounds: int = 5) -> str:
        """Measures all states, in turn so that a busy machine slows all alike, and puts them side by side."""
        times = latencies_ms({i: (module, self.inputs) for i, (_, module, _) in enumerate(self.states)}, rounds)
        costs = [profile(module, self.inputs) for _, module, _ in self.states]
        first = costs[0]
        lines = [f"| State | Params | GFLOPs | {self.score.removeprefix('val/')} | Latency |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        for (state, _, score), cost, time in zip(self.states, costs, times.values(), strict=True):
            parameters = f"{cost.parameters / 1e6:.3f} M{_change(cost.parameters, first.parameters)}"
            gflops = f"{cost.gflops:.3f}{_change(cost.gflops, first.gflops)}"
            lines.append(f"| {state} | {parameters} | {gflops} | {score:.3f} | {time:.1f} ms |")
        return "\n".join(lines) + "\n"


def _change(now: float, first: float) -> str:
    return "" if now == first else f" ({now / first - 1:+.1%})"


def check_equal(one: L.LightningModule, other: L.LightningModule, inputs: tuple) -> None:
    """Raises unless two modules give the same outputs in eval mode, bit for bit; both are in train mode afterwards."""
    with torch.no_grad():
        found, expected = (module.cpu().eval()(*inputs) for module in (one, other))
    for module in (one, other):
        module.train()  # Lightning trains a module in the mode that it is given in
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
