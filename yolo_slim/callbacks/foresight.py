"""What will trouble the user of a module once it is pruned, said before the fit."""

from __future__ import annotations

from torch import nn

from yolo_slim.callbacks.framework import loads_as_it_is
from yolo_slim.callbacks.target import Target

_NOT_REACHED = "is not reached by any pass"


def foreseen_troubles(target: Target) -> list[str]:
    """Finds copies of the network that keep their size, parts that are never run, and checkpoints that will not load.

    Args:
        target: What is pruned, and the module that is trained.

    Returns:
        A sentence for each, without its full stop.
    """
    sentences = []
    pl_module, graph = target.pl_module, target.graph
    prefix = next(name for name, module in pl_module.named_modules() if module is target.model)
    reached = {_join(prefix, name) for name in graph.gammas} - {
        _join(prefix, fixed.module) for fixed in graph.reasons if fixed.reason == _NOT_REACHED
    }
    copies = _copies(pl_module, reached)
    for copy, original in copies.items():
        sentences.append(
            f"{copy} is a copy of {original} that no pass reaches: it keeps its size, and no longer fits after the "
            "prune. Keep it outside of the module (WeightEMA does, for an average), or make it anew from the pruned "
            "network"
        )
    lost = sorted({f.module for f in graph.reasons if f.reason == _NOT_REACHED} - {""})
    lost = [name for name in lost if not any(_join(prefix, name).startswith(f"{copy}.") for copy in copies)]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        sentences.append(f"no pass reaches {', '.join(lost[:3])}{more}, so that they stay as they are")
    if loads_as_it_is(pl_module):
        name = type(pl_module).__name__
        sentences.append(
            f"slim.ckpt will not load into a {name} of the full size: give {name} a method on_load_checkpoint(self, "
            "checkpoint) that calls yolo_slim.pruning.restore_structure(self, checkpoint"
            + (f", self.{prefix})" if prefix else ")")
        )
    return sentences


def _copies(pl_module: nn.Module, reached: set[str]) -> dict[str, str]:
    """Modules without a reached layer whose tensors have the names and shapes of one with reached layers."""

    def shapes(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())

    def is_reached(name: str) -> bool:
        return any(layer == name or layer.startswith(f"{name}.") for layer in reached)

    named = [(name, module) for name, module in pl_module.named_modules() if name]
    of_shapes = {}
    for name, module in reversed(named):  # the outermost one last, so that it counts
        if is_reached(name) and len(module.state_dict()) > 1:
            of_shapes[shapes(module)] = name
    copies: dict[str, str] = {}
    for name, module in named:
        if is_reached(name) or any(name.startswith(f"{copy}.") for copy in copies):
            continue
        original = of_shapes.get(shapes(module))
        has_layers = any(True for _ in module.children())
        if original is not None and has_layers:
            copies[name] = original
    return copies


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
