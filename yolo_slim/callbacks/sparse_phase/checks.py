"""What the sparse phase needs of a Trainer and its optimizers, found out before the first step."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

from torch import nn
from torch.optim import LBFGS, Optimizer

from yolo_slim.callbacks.framework import MisconfigurationException, Trainer, check_strategy
from yolo_slim.pruning import ChannelGraph, Selection

#: What makes channels dispensable; see :class:`yolo_slim.callbacks.GammaSparsity`.
PenaltyKind = Literal["subgradient", "proximal", "growing"]
#: Which channels an L1 penalty acts on; see :class:`yolo_slim.callbacks.GammaSparsity`.
Choosing = Literal["none", "taylor"]


@dataclass(frozen=True)
class Penalty:
    """What a sparse phase does to the gammas.

    Raises:
        MisconfigurationException: If a value is out of range.
    """

    kind: PenaltyKind = "subgradient"
    """``subgradient``, ``proximal`` or ``growing``."""
    strength: float | Literal["auto"] = 1e-2
    """Lambda of the L1 term, above 0, or ``auto``; not for ``growing``."""
    beta_strength: float = 0.0
    """The same for the betas, constant over the fit, at least 0; not for ``growing``."""
    final_fraction: float = 0.1
    """Share of the strength that is left at the end of the fit, in [0, 1]; not for ``growing``."""
    choose: Choosing = "none"
    """``taylor`` acts on the channels alone that the prune would take by Taylor importance; ``growing`` always does."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.kind not in get_args(PenaltyKind):
            expected = ", ".join(get_args(PenaltyKind))
            raise MisconfigurationException(f"penalty={self.kind!r} is unknown; expected one of {expected}")
        if self.choose not in get_args(Choosing):
            expected = ", ".join(get_args(Choosing))
            raise MisconfigurationException(f"choose={self.choose!r} is unknown; expected one of {expected}")
        strength = self.strength
        if strength != "auto" and (isinstance(strength, str) or not strength > 0):
            raise MisconfigurationException(f"strength={strength} is out of range; expected a number above 0 or 'auto'")
        if not self.beta_strength >= 0:
            raise MisconfigurationException(f"beta_strength={self.beta_strength} is out of range; expected 0 or more")
        if not 0 <= self.final_fraction <= 1:
            raise MisconfigurationException(f"final_fraction={self.final_fraction} is out of range; expected 0 to 1")


def refuse_sensitivity(selection: Selection) -> None:
    """Refuses a selection whose ratios come from a sensitivity: the phase would prepare other channels than these.

    Raises:
        MisconfigurationException: If it is one.
    """
    if selection.sensitivity is not None:
        raise MisconfigurationException(
            f"sensitivity={selection.sensitivity}: a sparse phase ranks channels by scores of its own; leave it out, "
            "or prune without a sparse phase"
        )


def check_trainer(trainer: Trainer) -> None:
    """Refuses strategies that shard parameters, and fits without a number of epochs.

    Raises:
        MisconfigurationException: If the penalty cannot work with this Trainer.
    """
    check_strategy(trainer, "GammaSparsity")
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        check_epochs(trainer.max_epochs)


def check_epochs(epochs: int | None, name: str = "max_epochs") -> None:
    """Refuses a sparse phase without a number of epochs.

    Args:
        epochs: Epochs of the phase.
        name: What the number is called where it has been given.

    Raises:
        MisconfigurationException: If there are none.
    """
    if not epochs or epochs < 1:
        raise MisconfigurationException(
            f"GammaSparsity needs the number of epochs for its schedule, got {name}={epochs}; set {name}"
        )


def refuse_line_search(optimizers: Iterable[Optimizer]) -> None:
    """Refuses LBFGS.

    Raises:
        MisconfigurationException: If one of the optimizers is LBFGS.
    """
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        raise MisconfigurationException(
            "GammaSparsity does not work with LBFGS, whose line search does not see the penalty; use SGD or AdamW"
        )


def check_owners(optimizers: Iterable[Optimizer], gammas: Collection[int]) -> None:
    """Refuses gammas, given by ``id()``, that would be penalised twice in a step.

    Raises:
        MisconfigurationException: If several optimizers own one of them.
    """
    seen: set[int] = set()
    for optimizer in optimizers:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]} & set(gammas)
        if owned & seen:
            raise MisconfigurationException(
                f"GammaSparsity would penalise {len(owned & seen)} gammas once per optimizer, because several "
                "optimizers own them; let one optimizer own each parameter"
            )
        seen |= owned


def expect_prunable_gammas(
    model: nn.Module, graph: ChannelGraph, selection: Selection, resting: Collection[str]
) -> tuple[int, int]:
    """Refuses a model without a gamma that a penalty may act on.

    Args:
        model: The model.
        graph: Its channel graph.
        selection: What the prune will be asked for, less the layers that rest.
        resting: The layers that rest.

    Returns:
        The number of prunable gammas, and of BatchNorm layers.

    Raises:
        MisconfigurationException: If there is none, with what the graph, the selection or the fit has against each.
    """
    try:
        gammas = graph.prunable_gammas(selection.shortcuts, selection.ignore)
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
    channels = sum(int(gamma.prunable.sum()) for gamma in gammas)
    if channels:
        return channels, len(gammas)
    name = type(model).__name__
    if not gammas:
        why = "it has no BatchNorm layer with affine=True that its forward reaches"
    elif len(resting) == len(gammas):
        why = f"none of its {len(gammas)} BatchNorm layers is trained: they are frozen or in eval mode"
    else:
        largest = sorted(graph.reasons, key=lambda fixed: -fixed.channels)[:3]
        reasons = [f"{f.operation} in {f.module or name} {f.reason} ({f.channels} channels)" for f in largest]
        reasons += [f"{len(resting)} layers are frozen or in eval mode"] * bool(resting)
        reasons += [f"ignore={list(selection.ignore[: len(selection.ignore) - len(resting)])}"] * bool(
            selection.ignore[: len(selection.ignore) - len(resting)]
        )
        reasons += ["shortcuts='spare'"] * (selection.shortcuts == "spare")
        why = "; ".join(reasons)
    raise MisconfigurationException(f"GammaSparsity found no prunable gamma in {name}: {why}")


def differing(sparsity: Selection, pruning: Selection) -> str:
    """Says in what the selection that a sparse phase prepares and the one of the prune differ; empty if in nothing."""
    differences = []
    for field in fields(Selection):
        prepared, taken = getattr(sparsity, field.name), getattr(pruning, field.name)
        if prepared != taken:
            differences.append(f"{field.name}={prepared!r} there, {taken!r} here")
    return "; ".join(differences)
