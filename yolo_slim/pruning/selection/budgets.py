"""The fewest channels to drop so that a model fits its budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from yolo_slim.pruning.selection.cost import CostModel

CLOSE = 0.99  # a budget counts as reached within 1% below
AIM = 0.98  # of a latency that is foreseen, not measured: what is measured afterwards shall not be above the limit


class Budgets:
    """Upper limits for what a model costs once groups are dropped.

    Args:
        limits: "max_params", "max_flops" or "max_latency_ms" -> the limit.
        cost: Counts parameters and operations.

    Raises:
        ValueError: If ``cost`` is missing, or foresees no milliseconds and a latency is limited.
    """

    def __init__(self, limits: dict[str, float], cost: CostModel | None) -> None:
        self.limits = limits
        self._cost = cost
        for name, limit in limits.items():
            if cost is None:
                raise ValueError(f"{name}={limit:,.10g} needs the cost of the model: pass cost=CostModel(...)")
            if name == "max_latency_ms" and not cost.timed:
                raise ValueError(f"{name}={limit:g} needs the times of layers: pass cost=CostModel(..., times=...)")

    def value(self, name: str, dropped: np.ndarray) -> float:
        """What the model costs without the dropped groups, in the unit of the limit; milliseconds with a margin."""
        assert self._cost is not None
        groups = torch.from_numpy(dropped)
        if name == "max_latency_ms":
            return self._cost.latency_ms(groups) / AIM
        return self._cost.params(groups) if name == "max_params" else self._cost.flops(groups)

    def met(self, dropped: np.ndarray) -> bool:
        """Whether the model is within all limits."""
        return all(self.value(name, dropped) <= limit for name, limit in self.limits.items())

    def search(self, candidates: int, drop: Callable[[int], np.ndarray]) -> int | None:
        """Finds by bisection how many candidates to choose.

        Args:
            candidates: The most that can be chosen.
            drop: Number of chosen candidates -> bool (num_groups,), what is dropped then.

        Returns:
            The smallest number with which all limits are met; None if they are not met with all.
        """
        low, high = -1, candidates
        if not self.met(drop(high)):
            return None
        while high - low > 1:
            middle = max((low + high) // 2, 0)
            low, high = (low, middle) if self.met(drop(middle)) else (middle, high)
        return high

    def give_back(
        self,
        chosen: np.ndarray,
        order: np.ndarray,
        drop: Callable[[np.ndarray], np.ndarray],
        layers: Iterable[np.ndarray],
    ) -> np.ndarray:
        """Where a search ended more than 1% below, as large steps do, takes channels back while the limits allow it.

        Args:
            chosen: Bool (num_groups,), what was chosen; the limits are met.
            order: What may be taken back, the last first. A layer that has no room for its next step is done.
            drop: Chosen groups -> bool (num_groups,), what is dropped then.
            layers: The groups of each layer.

        Returns:
            What remains chosen.
        """
        dropped = drop(chosen)
        done = np.zeros_like(chosen)
        for group in order[::-1]:
            if self._reached(dropped):
                break
            if done[group] or not dropped[group]:
                continue
            fewer = chosen.copy()
            fewer[group] = False
            if self.met(fewer_dropped := drop(fewer)):
                chosen, dropped = fewer, fewer_dropped
            else:
                for layer in layers:
                    done[layer] |= group in layer
        return chosen

    def _reached(self, dropped: np.ndarray) -> bool:
        return any(self.value(name, dropped) >= CLOSE * limit for name, limit in self.limits.items())

    def unmet(self, dropped: np.ndarray) -> list[str]:
        """The limits that are not met, each with what is reached instead."""
        return [
            f"{name}={limit:,.10g}: the smallest that can be reached is {self.value(name, dropped):,.10g}"
            for name, limit in self.limits.items()
            if self.value(name, dropped) > limit
        ]
