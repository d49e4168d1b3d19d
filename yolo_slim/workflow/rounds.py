"""Pruning in rounds: how far each one goes, and when they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from yolo_slim.pruning import Selection
from yolo_slim.workflow.settings import RoundSettings


def left_after(share: float, number: int, rounds: RoundSettings) -> float:
    """What is left of a cost after a round, as a share of the dense model's, in (0, 1].

    Args:
        share: What shall be left after the last round.
        number: The round, from 1; 0 gives 1.
        rounds: How many there are, and whether each takes the same share of what is left or the same amount.
    """
    part = number / rounds.count
    return float(share**part) if rounds.schedule == "geometric" else 1 - (1 - share) * part


def selection_in(selection: Selection, number: int, rounds: RoundSettings, dense: Mapping[str, float]) -> Selection:
    """What a round removes from the model as the one before has left it.

    Args:
        selection: What shall be reached after the last round, of the dense model.
        number: The round, from 1.
        rounds: How many there are.
        dense: What the dense model costs, by the names of the budgets.
    """
    if rounds.count == 1:
        return selection

    def of_now(share: float) -> float:
        return left_after(share, number, rounds) / left_after(share, number - 1, rounds)

    changes: dict[str, Any] = {}
    for name, limit in selection.limits.items():
        if name == "max_latency_ms":  # a share: that of the model as it is then is measured
            changes["max_latency"] = f"{100 * of_now(limit.value):.6g}%"
        else:
            share = min(limit.of_dense(dense[name]) / dense[name], 1.0)
            changes[name] = int(left_after(share, number, rounds) * dense[name])
    changes["ratio"] = 1 - of_now(1 - selection.ratio)
    changes["ratios"] = [(pattern, 1 - of_now(1 - ratio)) for pattern, ratio in selection.ratio_list] or None
    return replace(selection, **changes)


def rounds_within(baseline: float, finetuned: Sequence[float], rounds: RoundSettings) -> int:
    """The last round whose mAP is within ``max_drop`` of the baseline's; 0 if none is.

    Args:
        baseline: mAP50-95 of the dense model.
        finetuned: The same after each round so far.
        rounds: What is allowed.
    """
    within = [number for number, score in enumerate(finetuned, start=1) if _allowed(baseline, score, rounds)]
    return max(within, default=0)


def ends(baseline: float, finetuned: Sequence[float], rounds: RoundSettings) -> bool:
    """Whether the rounds end early: as many in a row as ``patience`` allows have lost more than ``max_drop``."""
    last = finetuned[-rounds.patience :]
    return len(last) == rounds.patience and not any(_allowed(baseline, score, rounds) for score in last)


def _allowed(baseline: float, score: float, rounds: RoundSettings) -> bool:
    return rounds.max_drop is None or baseline - score <= rounds.max_drop
