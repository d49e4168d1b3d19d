"""Prunes every architecture of the zoo, checks that nothing else changes, and writes a table.

Run as ``python -m benchmarks.architectures --only 'yolo11*' --output docs/architectures.md``.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.head import Detect

from benchmarks.checks import (
    TOLERANCE,
    changes_with_the_first_layer,
    comes_back_from_a_file,
    error_of,
    pruned,
    random_drop,
    randomised,
    trains,
)
from benchmarks.zoo import ULTRALYTICS, Model
from yolo_slim.pruning import ChannelGraph, profile, trace

PROFILE_SIZE = 320  # pixels
LARGE = 40e6  # parameters; from here on two plans instead of three
RATIOS = (0.5, 0.9, 0.2)
#: Operations whose reasons only repeat others: what they say holds for inputs and outputs, or follows from another one.
FOLLOW = ("output", "conv2d", "linear")


@dataclass
class Row:
    """What was found for one architecture."""

    name: str
    family: str
    parameters: int = 0
    parameters_after: int = 0
    gflops: float = 0.0
    gflops_after: float = 0.0
    gammas: tuple[int, int] = (0, 0)
    others: tuple[int, int] = (0, 0)
    fixed: list[str] = field(default_factory=list)
    error: float = float("nan")
    trace_ms: float = 0.0
    failure: str = ""

    @property
    def good(self) -> bool:
        """Whether everything ran and the pruned model was exact."""
        return not self.failure and self.error < TOLERANCE


def architectures() -> list[Model]:
    """Every model of the zoo; those of torchvision where it is installed."""
    if importlib.util.find_spec("torchvision") is None:
        return list(ULTRALYTICS)
    from benchmarks.zoo_torchvision import MODELS

    return [*ULTRALYTICS, *MODELS.values()]


def examine(entry: Model, ratios: Sequence[float] = RATIOS) -> Row:
    """Traces a model, prunes it at random and compares; an error of any kind ends up in the row."""
    row = Row(entry.name, entry.family)
    try:
        _examine(entry, ratios, row)
    except Exception as error:  # noqa: BLE001 - a table with one failed row is worth more than none
        row.failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    gc.collect()
    return row


def _examine(entry: Model, ratios: Sequence[float], row: Row) -> None:
    model = entry.build()
    row.parameters = sum(parameter.numel() for parameter in model.parameters())
    passes = entry.passes(model, entry.size, torch.float64)
    randomised(model, passes)
    before = {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    attributes = {name: list(vars(module)) for name, module in model.named_modules()}
    start = time.process_time()
    graph = trace(model, passes=passes)
    row.trace_ms = 1e3 * (time.process_time() - start)
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
    assert attributes == {name: list(vars(module)) for name, module in model.named_modules()}
    del before, after
    _count(model, graph, row)
    row.error = 0.0
    for seed, ratio in enumerate(ratios[: 2 if row.parameters > LARGE else None]):
        dropped = random_drop(graph, ratio, seed)
        slim = pruned(model, graph, dropped)
        row.error = max(row.error, error_of(model, slim, graph, dropped))
        if seed:
            continue
        row.parameters_after = sum(parameter.numel() for parameter in slim.parameters())
        assert {type(m) for m in slim.modules()} == {type(m) for m in model.modules()}, "classes have changed"
        changes_with_the_first_layer(model, graph, dropped)
        comes_back_from_a_file(model, slim, graph)
        if entry.loss is not None:
            trains(entry.loss, model, slim, entry.size)
    size = entry.size if entry.family == "transformer" else PROFILE_SIZE  # some transformers take one size only
    image = torch.rand(1, 3, size, size)
    slim = pruned(model, graph, random_drop(graph, ratios[0], 0)).float()
    row.gflops, row.gflops_after = profile(model.float(), image).gflops, profile(slim, image).gflops


def _count(model: nn.Module, graph: ChannelGraph, row: Row) -> None:
    layers = graph.prunable_layers()
    for name, found in (
        ("gammas", [layer for layer in layers if layer.module in graph.gammas]),
        ("others", [layer for layer in layers if layer.module not in graph.gammas]),
    ):
        total = sum(len(layer.groups) for layer in found)
        setattr(row, name, (sum(int(layer.prunable.sum()) for layer in found), total))
    if row.gammas[0] < row.gammas[1]:
        row.fixed = _reasons(model, graph)


def _reasons(model: nn.Module, graph: ChannelGraph) -> list[str]:
    counts: Counter[str] = Counter()
    for reason in graph.reasons:
        module = model.get_submodule(reason.module)
        if reason.operation not in FOLLOW and not isinstance(module, (Detect, DFL)):
            counts[f"{type(module).__name__} {reason.operation}"] += reason.channels
    return [f"{what} {count}" for what, count in counts.most_common(4)] or ["outputs"]


HEADER = """# Architectures

Made by `python -m benchmarks.architectures`. Every model gets random weights and BatchNorm statistics, is traced, and
is pruned at random, in float64 on one thread.

- *parameters* and *GFLOPs* (at {size} px): before, and with {half} of the prunable channels removed at random. The
  GFLOPs of two-stage detectors depend on how many objects they propose; transformers are small ones, on small images.
- *BatchNorm channels* and *other channels* (of convolutions and linear layers without a BatchNorm layer; outputs are
  among them): prunable / all.
- *fixed by*: the modules and operations that keep BatchNorm channels, with the number of coupled channels that each
  touches. A channel can have several reasons.
- *error*: the largest difference of any raw output, relative to the largest value of that output, between the pruned
  model and the dense one with the dropped channels at zero; over plans that remove {ratios} of the channels and all
  ways in which a model is run: eval and train mode, and for Ultralytics also the exporter's `forward_split`.
- *trace*: processor time to find the coupled channels in all these ways.

Every pruned model consists of the classes it had before, comes back from a file, and, where the model has a loss of its
own, its gradients are finite and reach the parameters they reached before.
"""


def table(rows: Sequence[Row]) -> str:
    """The page."""
    ratios = ", ".join(f"{ratio:.0%}" for ratio in sorted(RATIOS))
    lines = [HEADER.format(size=PROFILE_SIZE, half=f"{RATIOS[0]:.0%}", ratios=ratios)]
    for family in dict.fromkeys(row.family for row in rows):
        lines += [
            f"## {family}",
            "",
            "| model | parameters, M | GFLOPs | BatchNorm channels | other channels | fixed by | error | trace, ms |",
            "| --- | --- | --- | ---: | ---: | --- | ---: | ---: |",
            *[_line(row) for row in rows if row.family == family],
            "",
        ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    if row.failure:
        return f"| {row.name} | **failed**: {row.failure.replace('|', '/')} | | | | | | |"
    cells = [
        row.name,
        f"{row.parameters / 1e6:.2f} → {row.parameters_after / 1e6:.2f}",
        f"{row.gflops:.2f} → {row.gflops_after:.2f}",
        "{} / {}".format(*row.gammas) if row.gammas[1] else "none",
        "{} / {}".format(*row.others) if row.others[1] else "none",
        ", ".join(row.fixed),
        f"{row.error:.0e}" if row.good else f"**{row.error:.0e}**",
        f"{row.trace_ms:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table; 1 if a model failed or was not exact."""
    parser = argparse.ArgumentParser(description="Prune every architecture of the zoo and write a table.")
    parser.add_argument("--only", default="*", help="pattern (fnmatch) of model names; default: all")
    parser.add_argument("--output", type=Path, help="file for the table; default: standard output")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    entries = [entry for entry in architectures() if fnmatchcase(entry.name, options.only)]
    if not entries:
        parser.error(f"--only {options.only}: no such model; names look like {architectures()[0].name}")
    trace(nn.Linear(2, 2), torch.rand(1, 2))  # the first call takes longer
    rows = []
    for entry in entries:
        start = time.perf_counter()
        rows.append(examine(entry))
        print(f"{time.perf_counter() - start:5.1f} s {_line(rows[-1])}", file=sys.stderr, flush=True)
    if options.output:
        options.output.write_text(table(rows), encoding="utf-8")
    else:
        print(table(rows))
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
