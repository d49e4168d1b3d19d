"""Times the engine against Torch-Pruning, and against the number of layers and channels; writes results/pruning.md.

    python -m benchmarks.pruning

Needs Ultralytics and torchvision. Without Torch-Pruning only the engine is measured; to install it beside them:
pip install --no-deps torch-pruning==1.6.1
"""

from __future__ import annotations

import copy
import gc
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from benchmarks.pruning_models import CLASSIFIERS, YOLO, Chain, build, images, output_layers, without_chunks
from yolo_slim.detection import TRACE_SIZE, raw_outputs, trace_network
from yolo_slim.pruning import (
    ChannelGraph,
    Selection,
    apply_plan,
    gamma_importance,
    make_plan,
    select,
    trace,
    verify,
)

try:
    import torch_pruning
except ImportError:
    torch_pruning = None

RESULTS = Path(__file__).parent / "results" / "pruning.md"
REPEATS = 5
RATIO = 0.5
PHASES = ("trace", "importance", "selection", "surgery")


def trace_model(model: nn.Module) -> ChannelGraph:
    """The channel graph: of a detector from three passes, of a classifier from two."""
    return trace_network(model) if isinstance(model, DetectionModel) else trace(model, images(TRACE_SIZE))


def ours(model: nn.Module, trace_it: Callable[[nn.Module], ChannelGraph] = trace_model) -> dict[str, float]:
    """Prunes the model; seconds of each phase."""
    marks = [time.process_time()]

    def done(value: Any) -> Any:
        marks.append(time.process_time())
        return value

    graph = done(trace_it(model))
    scores = done(gamma_importance(model, graph))
    selected = done(select(graph, scores, Selection(RATIO)))
    apply_plan(model, make_plan(graph, selected.dropped))
    done(None)
    phases = dict(zip(PHASES, (b - a for a, b in zip(marks, marks[1:], strict=False)), strict=True))
    return {"total": marks[-1] - marks[0], **phases}


def self_check(model: nn.Module) -> dict[str, float]:
    """Seconds of the comparison with the dense model, which ``prune`` adds."""
    graph = trace_model(model)
    selected = select(graph, gamma_importance(model, graph), Selection(RATIO))
    plan = make_plan(graph, selected.dropped)
    start = time.process_time()
    verify(model, graph, selected.dropped, plan)
    return {"total": time.process_time() - start}


@torch.no_grad()
def forwards(model: nn.Module, trace_it: Callable[[nn.Module], ChannelGraph] = trace_model) -> dict[str, float]:
    """Seconds of the passes that are traced, run plainly."""
    passes = trace_it(model).passes
    start = time.process_time()
    for run in passes:
        run(model)
    return {"total": time.process_time() - start}


def theirs(model: Any) -> dict[str, float]:
    """Prunes the model with Torch-Pruning: global, by the mean |gamma| of a group."""
    detector = isinstance(model, DetectionModel)
    outputs = output_layers(model) if detector else [model.fc if hasattr(model, "fc") else model.classifier]
    start = time.process_time()
    pruner = torch_pruning.pruner.BNScalePruner(
        model,
        images(TRACE_SIZE),
        importance=torch_pruning.importance.BNScaleImportance(normalizer=None),
        global_pruning=True,
        pruning_ratio=RATIO,
        ignored_layers=outputs,
        forward_fn=raw_outputs if detector else None,
    )
    pruner.step()
    return {"total": time.process_time() - start}


def medians(jobs: dict[str, tuple[nn.Module, Callable[[Any], dict[str, float]]]]) -> dict[str, dict[str, float]]:
    """Runs jobs in turn, each on a fresh copy of its model; the median milliseconds, and the parameters it left."""
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for repeat in range(REPEATS + 1):  # the first, in which libraries are still being loaded, does not count
        for name, (model, job) in jobs.items():
            mine = copy.deepcopy(model)
            gc.collect()
            row = {key: 1000 * seconds for key, seconds in job(mine).items()}
            row["parameters"] = sum(parameter.numel() for parameter in mine.parameters())
            if repeat:
                rows[name].append(row)
    return {name: {key: median(r[key] for r in found) for key in found[0]} for name, found in rows.items()}


def comparison(name: str) -> list[str]:
    """A row of the first table."""
    model = build(name)
    before = sum(parameter.numel() for parameter in model.parameters())
    jobs: dict[str, Any] = {"ours": (model, ours), "forwards": (model, forwards), "check": (model, self_check)}
    if torch_pruning:
        jobs["theirs"] = (without_chunks(model), theirs)
    found = medians(jobs)
    mine, plain, other = found["ours"], found["forwards"]["total"], found.get("theirs")
    cells = [f"{mine[key]:.1f}" for key in ("total", *PHASES)]
    cells += [f"{plain:.1f}", f"{100 * plain / mine['total']:.0f}%", f"{found['check']['total']:.1f}"]
    cells += [f"{other['total']:.1f}", f"{other['total'] / mine['total']:.1f}"] if other else ["-", "-"]
    cells += [f"{n / 1e6:.2f} M" for n in (before, mine["parameters"])]
    return [name, *cells, f"{other['parameters'] / 1e6:.2f} M" if other else "-"]


def growth() -> list[list[str]]:
    """The rows of the second table; all nets in turn, so that a busy machine slows all alike."""
    sizes = [(depth, 64, False) for depth in (10, 20, 40, 80)] + [(10, width, False) for width in (32, 128, 256, 512)]
    sizes += [(depth, 32, True) for depth in (10, 20, 40)]
    nets = [Chain(*size) for size in sizes]
    tracing = partial(trace, example_inputs=images(8))
    jobs: dict[str, Any] = {f"ours {i}": (net, partial(ours, trace_it=tracing)) for i, net in enumerate(nets)}
    jobs |= {f"forwards {i}": (net, partial(forwards, trace_it=tracing)) for i, net in enumerate(nets)}
    found = medians(jobs)
    rows = []
    for i, ((depth, width, dense), net) in enumerate(zip(sizes, nets, strict=True)):
        mine, plain = found[f"ours {i}"], found[f"forwards {i}"]["total"]
        reads = sum(conv.in_channels for conv in net.modules() if isinstance(conv, nn.Conv2d))
        cells = [f"{mine[key]:.1f}" for key in ("total", *PHASES)] + [f"{plain:.1f}"]
        cells += [f"{mine['total'] / depth:.2f}", f"{1000 * mine['total'] / reads:.1f}"]
        rows.append(["dense" if dense else "chain", str(depth), str(width), str(reads), *cells])
    return rows


def table(header: str, rows: list[list[str]]) -> str:
    """A Markdown table; the header's cells are separated by commas."""
    titles = header.split(", ")
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Measures and writes the tables."""
    torch.set_num_threads(1)
    if torch_pruning is None:
        print("Torch-Pruning is not installed, only ours is measured: pip install --no-deps torch-pruning==1.6.1")
    compared = [comparison(name) for name in YOLO + CLASSIFIERS]
    text = TEXT.format(
        cores=os.cpu_count(),
        versions=", ".join(f"{name} {_version(name)}" for name in ("torch", "torchvision", "ultralytics")),
        rival=_version("torch-pruning"),
        repeats=REPEATS,
        size=TRACE_SIZE,
        comparison=table(
            f"model, ours, {', '.join(PHASES)}, forwards, forwards / ours, self-check, Torch-Pruning, times ours,"
            " parameters, after (ours), after (Torch-Pruning)",
            compared,
        ),
        growth=table(
            f"net, depth, width, channels read, ours, {', '.join(PHASES)}, forwards, ms per layer, µs per channel",
            growth(),
        ),
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


TEXT = """# Cost of pruning

Written by `python -m benchmarks.pruning`. {cores} cores, one thread, {versions}, Torch-Pruning {rival}.
Milliseconds of processor time, median of {repeats} runs on fresh copies (copying not timed), the tools in turn. Half of
all prunable channels by the mean |gamma| of a group, ranked over the whole model, whose outputs stay; random weights;
float32. Every tool gets the same input, one image of {size} x {size} pixels.

{comparison}
- ours = trace + importance + selection + surgery. A detector is traced in the three ways in which Ultralytics runs it
  (eval, train, export), a classifier in eval and train mode; Torch-Pruning runs the model once.
- forwards: the same passes, run plainly without tracing. self-check: what `prune` adds, a comparison of copies of the
  dense model without the dropped channels and of the smaller one.
- Torch-Pruning stops with an IndexError at the chunk in YOLOv8's C2f. It gets the model with each C2f rewritten to an
  equivalent one: a convolution for each half of the chunk, same weights. Ours gets the model as Ultralytics builds it.
- Parameters differ because halves of a chunk keep equal counts and layers keep at least 8 channels in ours, and because
  a group of coupled channels counts once in Torch-Pruning's ratio, as often as it has gammas in ours.

How the cost grows, on nets of convolution, BatchNorm and ReLU at 8 x 8 pixels. In dense nets each layer reads all maps
before it, as in DenseNet, so the channels read grow with the square of the depth. The last two
columns divide ours by the layers and by the channels read.

{growth}"""


if __name__ == "__main__":
    main()
