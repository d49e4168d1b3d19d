"""What a model would shrink to if it were pruned now."""

from __future__ import annotations

from torch import Tensor

from yolo_slim.callbacks.framework import Trainer, rank_zero_info, rank_zero_warn
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import SMALL_GAMMA, Selected, Selection, gamma_importance, select, small_share


class Preview:
    """Selects by |gamma| as a prune would, without pruning.

    Args:
        target: What is made sparse; where its module names an example input, its operations are counted too.
        selection: What the prune will be asked for.
        trainer: The Trainer of the fit; needed where ranks could measure different milliseconds.

    Attributes:
        selection: What the prune will be asked for; may be given anew.
        cost: Counts parameters and operations; None without an example input.
    """

    def __init__(self, target: Target, selection: Selection, trainer: Trainer | None = None) -> None:
        self._target = target
        self.selection = selection
        self.cost = target.cost_for(selection, trainer)

    def select(self) -> Selected:
        """The channels that would go.

        Raises:
            ValueError: If a budget cannot be reached.
        """
        model, graph = self._target.model, self._target.graph
        return select(graph, gamma_importance(model, graph), self.selection, self.cost)

    def now(self) -> Selected | None:
        """Like :meth:`select`; None too where a budget cannot be reached, since so many layers have come to rest."""
        try:
            return self.select()
        except ValueError:
            return None

    def living(self, selected: Selected) -> int:
        """How many of the channels that would go still have a gamma that is not small."""
        model, graph = self._target.model, self._target.graph
        return int((gamma_importance(model, graph)[selected.dropped] >= SMALL_GAMMA).sum())

    def share(self) -> float:
        """Share of the channels that a prune would take, in [0, 1]; half of them where that cannot be foreseen."""
        selected = self.now()
        return 0.5 if selected is None else selected.reached


def foreseen(selection: Selection, selected: Selected | None) -> str:
    """A sentence on what a prune would leave, with a space before it; empty where that is not known."""
    if selected is None or selected.params is None or selected.flops is None:
        return ""
    return (
        f" A prune of {selection} would leave {selected.params / 1e6:.3f} M parameters and "
        f"{selected.flops / 1e9:.3g} GFLOPs, and take channels of importance up to {selected.threshold:.2g}."
    )


def logged(selected: Selected) -> dict[str, float]:
    """What a logger is told of a selection."""
    values = {"sparsity/threshold": selected.threshold}
    if selected.params is not None and selected.flops is not None:
        values |= {"sparsity/slim_params": float(selected.params), "sparsity/slim_gflops": selected.flops / 1e9}
    return values


def tell_what_became(before: Tensor, after: Tensor, outlook: str, dropped: int, living: int) -> None:
    """Says what a sparse phase did to the gammas, and warns where a prune would take what still lives.

    Args:
        before: |gamma| of all channels when it began.
        after: The same when it ended.
        outlook: A sentence on what a prune would leave.
        dropped: Number of groups of channels that it would take.
        living: How many of them still have a gamma that is not small.
    """
    small = small_share(after)
    rank_zero_info(
        f"GammaSparsity: median |gamma| {before.median():.3f} -> {after.median():.3f}, {small:.1%} of them below "
        f"{SMALL_GAMMA:g}.{outlook}"
    )
    if small < 0.01:
        rank_zero_warn(
            f"GammaSparsity: only {small:.1%} of the gammas are below {SMALL_GAMMA:g}: a prune will cost accuracy. "
            "Raise the strength or the number of epochs, or use penalty='growing'."
        )
    elif living:
        rank_zero_warn(
            f"GammaSparsity: {living} of the {dropped} groups of channels that a prune would take have a gamma of "
            f"{SMALL_GAMMA:g} or more: it will cost accuracy. Prune less, or give the phase more epochs or strength."
        )
