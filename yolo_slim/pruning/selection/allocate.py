"""From measured curves to scores that are comparable over all layers: how much of each unit goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.curves import Curve
from yolo_slim.pruning.selection.units import Unit, local_shares, units_of
from yolo_slim.wording import brief

#: Rule of the published method: mAP to this power counts beside what is saved.
FZI_POWER = 20
#: Digits of a score that count: what is left of rounding must not order channels.
DIGITS = 12


@dataclass(frozen=True)
class Measured:
    """A unit with its curve, and the order in which its channels go.

    Attributes:
        unit: The unit.
        curve: What was measured of it.
        order: int64 (n,), its groups in the order of dropping.
        share: float64 (n,), the share of its channels that is gone with each of them, ascending; parts that must stay
            equal shrink together.
        scores: float64 (n,), their scores.
        sizes: int64 (n,), their channels, as a ratio counts them.
    """

    unit: Unit
    curve: Curve
    order: np.ndarray
    share: np.ndarray
    scores: np.ndarray
    sizes: np.ndarray

    @property
    def gone(self) -> np.ndarray:
        """float64 (n,), channels that are gone with each of the groups."""
        return self.share * self.curve.channels

    def rises(self) -> np.ndarray:
        """The rise with each of the groups, float64 (n,); between two measured points in the measure of the scores."""
        gone, running = self.gone, np.concatenate([[0.0], np.cumsum(self.scores.clip(min=0) * self.sizes)])
        counts = np.concatenate([[0.0], np.cumsum(self.sizes)])
        places = np.interp(gone, counts, running)
        rises = self.curve.at(gone)
        ends = self.curve.removed
        for first, last in zip(ends[:-1], ends[1:], strict=True):
            low, high = np.interp([first, last], counts, running)
            inside = (gone > first) & (gone <= last)
            if high > low:
                part = (places[inside] - low) / (high - low)
                bottom, top = self.curve.at(first), self.curve.at(last)
                rises[inside] = bottom + part * (top - bottom)
        return rises


class Sensitivities:
    """The curves of a graph's units, and the scores that follow from them.

    Args:
        graph: The channel graph.
        curves: What was measured, on a model with the same layers.
        members: int64 (num_groups,), prunable channels of each group; a candidate has some.
        channels: The same without regard to scores, as the curves count them.
        scores: float64 (num_groups,), lowest first: the order within each unit.

    Raises:
        ValueError: If a unit has no curve, or one of other layers or channels.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        curves: Sequence[Curve],
        members: np.ndarray,
        channels: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        self._groups = graph.num_groups
        self._scores, self._channels = scores, channels
        by_unit = {curve.unit: curve for curve in curves}
        self._share = share = local_shares(graph, channels, scores)
        self.units: list[Measured] = []
        for unit in units_of(graph, channels):
            curve = by_unit.get(unit.name)
            if curve is None or curve.layers != unit.layers or curve.channels != unit.channels:
                found = (
                    "no curve" if curve is None else f"one of {curve.channels} channels in {len(curve.layers)} layers"
                )
                raise ValueError(
                    f"the sensitivity was measured on another model, or with other shortcuts or ignore: "
                    f"{brief(unit.name)} has {unit.channels} channels in {len(unit.layers)} layers, and {found}; "
                    "measure it on this one"
                )
            groups = unit.groups[members[unit.groups] > 0]
            order = groups[np.lexsort((scores[groups], share[groups]))]
            self.units.append(Measured(unit, curve, order, share[order], scores[order], channels[order]))

    def predicted(self, dropped: np.ndarray) -> float:
        """The rise of the loss, relative to the dense model's, as the sum of the units' own.

        Args:
            dropped: Bool (num_groups,).
        """
        return float(self._rises(dropped).sum())

    def highest(self, dropped: np.ndarray) -> float:
        """The rise that the worst of the units causes alone; argument as of :meth:`predicted`."""
        return float(self._rises(dropped).max(initial=0.0))

    def _rises(self, dropped: np.ndarray) -> np.ndarray:
        counts = [self._channels[m.unit.groups[dropped[m.unit.groups]]].sum() for m in self.units]
        return np.array([m.curve.at(float(count)) for m, count in zip(self.units, counts, strict=True)])

    def values(self, allocate: str, cost: CostModel | None, kinds: Sequence[str]) -> np.ndarray:
        """Scores by which channels of all units can be compared, float64 (num_groups,); within a unit their order.

        Args:
            allocate: How, see :class:`Selection`.
            cost: Counts what units save; needed by "knapsack" and "fzi".
            kinds: What is limited, by the names of the budgets.

        Raises:
            ValueError: If ``cost`` is missing, or the curves have no mAP and "fzi" asks for it.
        """
        per_unit: dict[str, Callable[[Measured], np.ndarray]] = {
            "equal_loss": lambda m: m.curve.at(m.gone),
            "calibrate": lambda m: slopes(m.gone, m.rises()),
            "knapsack": lambda m: slopes(self._saved(m, cost, kinds), m.rises()),
        }
        values = np.full(self._groups, np.inf)
        if allocate == "fzi":
            found = self._published(cost)
        else:
            found = [per_unit[allocate](measured) for measured in self.units]
        for measured, own in zip(self.units, found, strict=True):
            values[measured.order] = own
        return self._strictly(values)

    def _strictly(self, values: np.ndarray) -> np.ndarray:
        """The same without ties: what rounding leaves is made equal, and equals are in the order of their shares."""
        places = np.flatnonzero(np.isfinite(values))
        mantissa, exponent = np.frexp(values[places])
        rounded = np.ldexp(np.round(mantissa, DIGITS), exponent)
        by_value = np.lexsort((self._scores[places], self._share[places], rounded))
        ordered, last = values.copy(), -np.inf
        for place, value in zip(places[by_value], rounded[by_value], strict=True):
            ordered[place] = last = max(value, np.nextafter(last, np.inf))
        return ordered

    def _saved(self, measured: Measured, cost: CostModel | None, kinds: Sequence[str]) -> np.ndarray:
        """What is saved with each of the unit's groups gone, as a share of the dense model's cost, float64 (n,)."""
        if cost is None:
            raise ValueError("allocate='knapsack' needs the cost of the model: pass cost=CostModel(...)")
        costs, dense = _by_name(cost), cost.dense()
        kinds = [kind for kind in kinds if kind in dense] or ["max_flops"]
        points = np.unique(np.concatenate([measured.curve.removed, [measured.curve.channels]]))
        saved = np.zeros(len(points))
        for i, removed in enumerate(points):
            gone = torch.zeros(self._groups, dtype=torch.bool)
            gone[torch.from_numpy(measured.order[measured.gone <= removed + 1e-6])] = True
            saved[i] = sum(1 - costs[kind](gone) / dense[kind] for kind in kinds) / len(kinds)
        return np.interp(measured.gone, points, np.maximum.accumulate(saved))

    def _published(self, cost: CostModel | None) -> list[np.ndarray]:
        """The factor f at which each channel goes, by the rule of Pavlitska et al. (IJCNN 2024), arXiv 2405.03715.

        The value of a unit is the highest of ``saved * mAP ** k`` over its ratios. Units go at that ratio whose value
        is at least the best one's divided by f, once for the parameters and once for the operations; f is moved until
        enough goes. Beyond the ratios of highest value all units go on together, so that it ends in any case.
        """
        if cost is None:
            raise ValueError("allocate='fzi' needs the cost of the model: pass cost=CostModel(...)")
        factors = [np.full(len(m.order), np.inf) for m in self.units]
        for kind in ("max_params", "max_flops"):
            found = [self._best_ratio(m, cost, kind) for m in self.units]
            best = max((value for value, _ in found), default=0.0)
            for own, m, (value, removed) in zip(factors, self.units, found, strict=True):
                if value > 0:
                    chosen = m.gone <= removed + 1e-6
                    own[chosen] = np.minimum(own[chosen], best / value)
        last = max((float(own[np.isfinite(own)].max(initial=1)) for own in factors), default=1.0)
        for own, m in zip(factors, self.units, strict=True):
            later = ~np.isfinite(own)
            own[later] = last * (1 + m.share[later])
        # Of units with one factor the same share goes first; within a unit its order must stay.
        return [np.maximum.accumulate(own) for own in factors]

    def _best_ratio(self, measured: Measured, cost: CostModel, kind: str) -> tuple[float, float]:
        """The highest value of a unit, and the channels that are gone then."""
        curve, best = measured.curve, (0.0, 0.0)
        if len(curve.removed) > 1 and np.isnan(curve.maps[1:]).all():
            raise ValueError("allocate='fzi' needs mAP: measure the sensitivity with --metric map or both")
        for removed, score in zip(curve.removed[1:], curve.maps[1:], strict=True):
            if np.isnan(score):
                continue
            gone = torch.zeros(self._groups, dtype=torch.bool)
            gone[torch.from_numpy(measured.order[measured.gone <= removed + 1e-6])] = True
            value = (1 - _by_name(cost)[kind](gone) / cost.dense()[kind]) * score**FZI_POWER
            best = max(best, (float(value), float(removed)))
        return best


def slopes(position: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Slopes of the largest convex curve below a rising one that begins at (0, 0), so that they never fall.

    Args:
        position: float64 (n,), from above 0, never falling.
        height: float64 (n,), never falling.

    Returns:
        float64 (n,), the slope of the curve up to each point.

    Example:
        >>> import numpy as np
        >>> slopes(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 6.0])).tolist()
        [1.0, 1.0, 4.0]
    """
    x, y = np.concatenate([[0.0], position]), np.concatenate([[0.0], height])
    corners = [0]
    for i in range(1, len(x)):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (y[b] - y[a]) * (x[i] - x[b]) < (y[i] - y[b]) * (x[b] - x[a]):
                break
            corners.pop()
        corners.append(i)
    ends = np.array(corners)
    run = np.diff(x[ends])
    steps = np.divide(np.diff(y[ends]), run, out=np.zeros(len(run)), where=run > 0)
    return np.repeat(np.maximum.accumulate(steps), np.diff(ends))


def _by_name(cost: CostModel) -> dict[str, Callable[[torch.Tensor], float]]:
    return {"max_params": cost.params, "max_flops": cost.flops, "max_latency_ms": cost.latency_ms}
