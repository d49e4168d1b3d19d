"""Allocations: how much of each unit goes, by curves that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.pruned import chain
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import CostModel, Selection, gamma_importance, select, trace
from yolo_slim.pruning.selection.allocate import Sensitivities, slopes
from yolo_slim.pruning.selection.curves import TABLE, Curve
from yolo_slim.pruning.selection.units import prunable_members, units_of

ALLOCATIONS = ("calibrate", "equal_loss", "knapsack", "fzi")


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    graph = trace(model, passes=yolo_passes())
    return graph, gamma_importance(model, graph), CostModel(model, graph, torch.rand(1, 3, 64, 64).double())


def write_curves(folder: Path, graph, rise_of) -> str:
    """A table in which ``rise_of(unit number, share)`` has been measured of each unit, and a mAP that falls with it."""
    lines = ["unit,layers,channels,ratio,removed,status,rise,map"]
    for number, unit in enumerate(units_of(graph, prunable_members(graph, Selection()))):
        for tenth in range(1, 10):
            removed = int(unit.channels * tenth / 10)
            rise = rise_of(number, removed / unit.channels)
            head = f"{unit.name},{' '.join(unit.layers)},{unit.channels},{tenth / 10}"
            lines.append(f"{head},{removed},measured,{rise!r},{0.5 / (1 + rise)!r}")
    (folder / TABLE).write_text("\n".join(lines) + "\n")
    return str(folder)


def uneven(number: int, share: float) -> float:
    """Some units bear much, others nothing; none of them on a straight line."""
    return (0.01 + 0.05 * (number % 7)) * share ** (0.5 + number % 3)


@pytest.fixture(scope="module")
def measured(detector, tmp_path_factory) -> str:
    return write_curves(tmp_path_factory.mktemp("curves"), detector[0], uneven)


@pytest.mark.parametrize("allocate", ALLOCATIONS)
@pytest.mark.parametrize(
    "budget", [{"max_flops": "60%"}, {"max_params": "40%"}, {"max_flops": "70%", "max_params": "30%"}]
)
def test_budgets_are_met_and_not_exceeded(detector, measured, allocate, budget):
    graph, scores, cost = detector
    asked = Selection(**budget, sensitivity=measured, allocate=allocate, round_to=1, min_channels=1)
    selected = select(graph, scores, asked, cost)
    dense = cost.dense()
    limits = {name: float(share.rstrip("%")) / 100 * dense[name] for name, share in budget.items()}
    reached = {"max_flops": selected.flops, "max_params": selected.params}
    assert all(reached[name] <= limit for name, limit in limits.items())
    assert any(reached[name] > 0.99 * limit for name, limit in limits.items())
    assert selected.predicted_rise is not None


@pytest.mark.parametrize("allocate", ALLOCATIONS)
def test_widths_are_kept(detector, measured, allocate):
    graph, scores, cost = detector
    asked = Selection(max_flops="50%", sensitivity=measured, allocate=allocate, round_to=16)
    dropped = select(graph, scores, asked, cost).dropped
    for layer in graph.prunable_layers():
        kept = int((~dropped[layer.groups]).sum())
        assert kept % 16 == 0 or kept == len(layer.groups) or not layer.prunable.all()


@pytest.mark.parametrize("allocate", ALLOCATIONS)
def test_within_a_unit_the_lowest_scores_go_first(detector, measured, allocate):
    graph, scores, cost = detector
    asked = Selection(max_flops="60%", sensitivity=measured, allocate=allocate, round_to=1, min_channels=1)
    dropped = select(graph, scores, asked, cost).dropped
    equal = {int(group) for parts in graph.arrays.equal_counts for part in parts for group in part}
    compared = 0
    for unit in units_of(graph, prunable_members(graph, Selection())):
        own = torch.from_numpy(unit.groups)
        if not equal & set(own.tolist()) and 0 < dropped[own].sum() < len(own):
            assert scores[own][dropped[own]].max() <= scores[own][~dropped[own]].min()
            compared += 1
    assert compared >= 5


def test_equal_loss_takes_no_unit_beyond_what_is_allowed(detector, measured):
    graph, scores, cost = detector
    asked = Selection(max_rise=0.05, sensitivity=measured, allocate="equal_loss", round_to=1, min_channels=1)
    dropped = select(graph, scores, asked, cost).dropped.numpy()
    members = prunable_members(graph, Selection())
    for number, unit in enumerate(units_of(graph, members)):
        share = members[unit.groups[dropped[unit.groups]]].sum() / unit.channels
        assert share <= 0.9 or number % 7 == 0
        points = [0, *(int(unit.channels * t / 10) / unit.channels for t in range(1, 10))]
        assert np.interp(share, points, [uneven(number, p) if p else 0 for p in points]) <= 0.05 + 1e-9
    nothing = replace(asked, max_rise=0.0)
    assert select(graph, scores, nothing, cost).predicted_rise == 0.0


@pytest.mark.parametrize("allocate", ["calibrate", "knapsack", "fzi"])
def test_the_summed_rise_stays_within_what_is_allowed(detector, measured, allocate):
    graph, scores, cost = detector
    found = [
        select(graph, scores, Selection(max_rise=rise, sensitivity=measured, allocate=allocate, round_to=1), cost)
        for rise in (0.1, 0.5)
    ]
    assert found[0].predicted_rise <= 0.1
    assert found[0].predicted_rise < found[1].predicted_rise <= 0.5
    assert found[0].flops > found[1].flops


@pytest.mark.parametrize("share", ["75%", "60%", "45%"])
def test_a_knapsack_rises_no_more_than_one_ceiling_for_all(detector, measured, share):
    graph, scores, cost = detector
    rise = {
        allocate: select(
            graph, scores, Selection(max_flops=share, sensitivity=measured, allocate=allocate, round_to=1), cost
        ).predicted_rise
        for allocate in ALLOCATIONS
    }
    assert rise["knapsack"] <= rise["equal_loss"]
    assert rise["knapsack"] < 0.9 * rise["fzi"]


@pytest.mark.parametrize("limit", [{"max_flops": "60%"}, {"max_params": "50%"}])
def test_equal_lines_are_one_ratio_everywhere(detector, tmp_path, limit):
    graph, scores, cost = detector
    lines = write_curves(tmp_path, graph, lambda number, share: 0.3 * share)
    rules = {"round_to": 1, "min_channels": 1}
    local = select(graph, scores, Selection(**limit, scope="local", **rules), cost)
    equal = select(graph, scores, Selection(**limit, sensitivity=lines, allocate="equal_loss", **rules), cost)
    assert torch.equal(local.dropped, equal.dropped)
    by_rise = select(graph, scores, Selection(max_rise=0.15, sensitivity=lines, allocate="equal_loss", **rules), cost)
    half = select(graph, scores, Selection(0.5, scope="local", **rules), cost)
    assert torch.equal(half.dropped, by_rise.dropped)


def toy(points: dict[str, list[tuple[int, float, float]]]):
    """A chain of two layers, its scores, and a sensitivity with these points (channels gone, rise, mAP)."""
    model, graph = chain(4, 4)
    scores = np.full(graph.num_groups, np.inf)
    for name in ("b0", "b1"):
        scores[graph.gammas[name].numpy()] = [4.0, 1.0, 2.0, 1.0]
    members = prunable_members(graph, Selection())
    members[np.isinf(scores)] = 0
    curves = [Curve.of_points(name, (name,), 4, own) for name, own in points.items()]
    cost = CostModel(model, graph, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    return graph, Sensitivities(graph, curves, members, members, scores), cost


def test_calibrated_scores_sum_up_to_the_curve():
    graph, measured, _ = toy({"b0": [(2, 0.2, 0), (3, 0.6, 0)], "b1": [(2, 0.5, 0), (3, 0.6, 0)]})
    values = measured.values("calibrate", None, [])
    first = np.sort(values[graph.gammas["b0"].numpy()])
    assert np.cumsum(first)[[1, 2]] == pytest.approx([0.2, 0.6])
    # Of a curve that is not convex, the largest convex one below it.
    second = np.sort(values[graph.gammas["b1"].numpy()])
    assert np.cumsum(second)[2] == pytest.approx(0.6)
    assert second[:3] == pytest.approx([0.2] * 3)
    order = np.argsort(values[graph.gammas["b0"].numpy()]).tolist()
    assert order == [1, 3, 2, 0]


def test_the_published_rule_by_hand():
    points = {"b0": [(1, 0.1, 0.5), (3, 0.4, 0.45)], "b1": [(1, 0.1, 0.4), (3, 0.2, 0.1)]}
    graph, measured, cost = toy(points)
    values = measured.values("fzi", cost, [])

    def value(name: str, order: list[int], score: float, kind: str) -> float:
        dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
        dropped[graph.gammas[name][order]] = True
        return (1 - getattr(cost, kind)(dropped) / cost.dense()[f"max_{kind}"]) * score**20

    for name, taken in (("b0", [1]), ("b1", [1])):
        wanted = []
        for kind in ("params", "flops"):
            best = max(value("b0", [1], 0.5, kind), value("b0", [1, 3, 2], 0.45, kind))
            own = {"b0": best, "b1": max(value("b1", [1], 0.4, kind), value("b1", [1, 3, 2], 0.1, kind))}[name]
            wanted.append(best / own)
        assert values[graph.gammas[name][taken].numpy()] == pytest.approx(min(wanted))
    assert values[graph.gammas["b0"][0].numpy()] > values[graph.gammas["b1"][1].numpy()]  # beyond the best ratio: last


def test_fzi_needs_map(detector, measured, tmp_path):
    graph, scores, cost = detector
    text = (Path(measured) / TABLE).read_text().splitlines()
    (tmp_path / TABLE).write_text("\n".join(line.rpartition(",")[0] for line in text) + "\n")
    with pytest.raises(ValueError, match="allocate='fzi' needs mAP: measure the sensitivity with --metric map or both"):
        select(graph, scores, Selection(max_flops="50%", sensitivity=str(tmp_path), allocate="fzi"), cost)


def test_curves_of_another_model_are_refused(detector, measured):
    _, graph = chain(16, 16)
    scores = torch.rand(graph.num_groups, dtype=torch.float64)
    with pytest.raises(ValueError, match="the sensitivity was measured on another model"):
        select(graph, scores, Selection(sensitivity=measured))
    graph, scores, cost = detector
    fewer = Selection(max_flops="90%", sensitivity=measured, shortcuts="spare", ignore=("model.22",), round_to=1)
    assert (
        select(graph, scores, fewer, cost).flops < cost.dense()["max_flops"]
    )  # units that are left out are not missed


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_rise": 0.1}, "max_rise=0.1 needs a sensitivity"),
        ({"sensitivity": "x", "scope": "local"}, "scope='local' beside a sensitivity"),
        ({"sensitivity": "x", "allocate": "knapsack", "per": "flops"}, "goes with 'calibrate' alone"),
        ({"sensitivity": "x", "max_rise": 0.1, "max_flops": 1e6}, "give one of them"),
        ({"sensitivity": "x", "max_rise": -0.1}, "expected a share of the loss of at least 0"),
        ({"allocate": "greedy"}, "allocate='greedy': expected one of calibrate, equal_loss, knapsack, fzi"),
    ],
)
def test_what_does_not_go_together_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        Selection(**keys)


def test_slopes_of_a_convex_curve_are_its_own():
    assert slopes(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 5.0])).tolist() == [0.0, 1.0, 2.0]
    assert slopes(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 3.0])).tolist() == [
        1.0,
        1.0,
        2.0,
    ]  # two that go as one
