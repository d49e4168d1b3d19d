"""How operations that reorder, add and remove axes carry channels."""

from __future__ import annotations

from yolo_slim.pruning.graph.axes import Call, Unsupported
from yolo_slim.pruning.graph.ledger import Ledger


def permute(ledger: Ledger, call: Call) -> None:
    """Reorders the axes."""
    axes = ledger.axes(call.input)
    ledger.label(call.result, [axes[d] for d in call.rest(1, "dims")])


def transpose(ledger: Ledger, call: Call) -> None:
    """Swaps two axes, by default the last two."""
    axes = ledger.axes(call.input)
    first, second = call.get(1, "dim0", "axis0", default=-1), call.get(2, "dim1", "axis1", default=-2)
    axes[first], axes[second] = axes[second], axes[first]
    ledger.label(call.result, axes)


def movedim(ledger: Ledger, call: Call) -> None:
    """Moves axes to other places."""
    axes = ledger.axes(call.input)
    source, target = (
        [d % len(axes) for d in (dims if isinstance(dims, (tuple, list)) else (dims,))]
        for dims in (call.get(1, "source"), call.get(2, "destination"))
    )
    moved = dict(zip(target, source, strict=True))
    rest = iter(d for d in range(len(axes)) if d not in source)
    ledger.label(call.result, [axes[moved[d] if d in moved else next(rest)] for d in range(len(axes))])


def reorder(ledger: Ledger, call: Call) -> None:
    """Flips or rolls axes that follow no channel."""
    axes, at = ledger.axes(call.input), 2 if call.name == "roll" else 1
    dims = call.rest(at, "dims")
    ledger.use_all(call.args[1:at])
    if any(axes[d] is not None for d in dims):
        raise Unsupported("reorders channels")
    ledger.label(call.result, axes)


def unsqueeze(ledger: Ledger, call: Call) -> None:
    """Adds an axis."""
    axes = ledger.axes(call.input)
    axes.insert(call.get(1, "dim") % call.result.dim(), None)
    ledger.label(call.result, axes)


def squeeze(ledger: Ledger, call: Call) -> None:
    """Removes axes of size 1; one that shrinks to 1 would vanish too."""
    x, dim = call.input, call.get(1, "dim", default=None)
    dims = range(x.dim()) if dim is None else dim if isinstance(dim, (tuple, list)) else [dim]
    gone = {d % x.dim() for d in dims if x.shape[d] == 1}
    axes = ledger.axes(x)
    for d in dims:
        ledger.fix(axes[d], "would vanish in squeeze() at size 1")
    ledger.label(call.result, [axis for i, axis in enumerate(axes) if i not in gone])


AXES = {
    "permute": permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t", "T", "mT"), transpose),
    **dict.fromkeys(("movedim", "moveaxis"), movedim),
    **dict.fromkeys(("flip", "roll"), reorder),
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
}
