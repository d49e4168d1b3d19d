"""What a model would shrink to if it were pruned now."""

from __future__ import annotations

from torch import Tensor

from yolo_slim.callbacks.framework import LightningModule, rank_zero_info, rank_zero_warn
from yolo_slim.callbacks.target import example_inputs, find_target
from yolo_slim.pruning import ChannelGraph, CostModel, Selected, Selection, gamma_importance, select
from yolo_slim.pruning.sparsity.penalty import SMALL_GAMMA, small_share


class Preview:
    """Selects by |gamma| as a prune would, without pruning.

    Args:
        pl_module: The module; where it names an example input, its operations are counted too.
        target: Path of the submodule, see :func:`yolo_slim.callbacks.target.find_target`.
        graph: The channel graph of the target.
        selection: What the prune will be asked for.

    Attributes:
        selection: What the prune will be asked for; may be given anew.
        cost: Counts parameters and operations; None without an example input.
    """

    def __init__(self, pl_module: LightningModule, target: str | None, graph: ChannelGraph, selection: Selection):
        self._graph = graph
        self.selection = selection
        self._model = find_target(pl_module, target)
        example = None if self._unforeseen else example_inputs(pl_module)
        self.cost = None if example is None else CostModel(self._model, graph, example)

    def select(self) -> Selected | None:
        """The channels that would go; None for a budget of milliseconds, which only a pruned model can show.

        Raises:
            ValueError: If a budget cannot be reached.
        """
        if self._unforeseen:
            return None
        scores = gamma_importance(self._model, self._graph)
        return select(self._graph, scores, self.selection, self.cost)

    @property
    def _unforeseen(self) -> bool:
        return self.selection.max_latency_ms is not None


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


def tell_what_became(before: Tensor, after: Tensor, outlook: str) -> None:
    """Says what a sparse phase did to the gammas, and warns where that was next to nothing.

    Args:
        before: |gamma| of all channels when it began.
        after: The same when it ended.
        outlook: A sentence on what a prune would leave.
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
