"""Sensitivity by the engine: what a row says is what a prune does, and nothing stays behind."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch

from tests.helpers.pruned import chain
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import (
    Selection,
    Sensitivity,
    check_ratios,
    gamma_importance,
    profile,
    prune,
    relative_rise,
    trace,
)

IMAGES = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def loss(model) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        return {"loss": float(model(IMAGES)[1]["scores"].square().mean())}


@pytest.fixture(scope="module")
def detector():
    model = yolo()
    return model, trace(model, passes=yolo_passes())


@pytest.fixture(scope="module")
def rows(detector):
    model, graph = detector
    measurement = Sensitivity(model, graph, loss, IMAGES[:1], ratios=(0.0, 0.5), stop_rise=1e9)
    before = copy.deepcopy(model.state_dict())
    found = list(measurement.rows())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return measurement, found


def test_every_unit_at_every_ratio(rows):
    measurement, found = rows
    assert len(found) == len(measurement) == 2 * 51
    assert [row.ratio for row in found] == [0.0] * 51 + [0.5] * 51


def test_ratio_0_changes_nothing(rows):
    measurement, found = rows
    for row in found[:51]:
        assert (row.removed, row.parameters_saved, row.flops_saved, row.rise) == (0, 0, 0, 0.0)
        assert row.figures["loss"] == measurement.dense["loss"]


@pytest.mark.parametrize("place", range(0, 51, 7))
def test_a_row_is_what_a_prune_of_that_ratio_alone_does(detector, rows, place):
    model, graph = copy.deepcopy(detector[0]), detector[1]
    row = rows[1][51 + place]
    dense = profile(model, IMAGES[:1])
    asked = Selection(0.0, ratios={row.unit: 0.5}, scope="local", round_to=1)
    report = prune(model, graph, asked, gamma_importance(model, graph), example_inputs=IMAGES[:1])
    slim = profile(model, IMAGES[:1])
    assert sum(layer.before - layer.after for layer in report.layers) == row.removed > 0
    assert dense.parameters - slim.parameters == row.parameters_saved
    assert dense.flops - slim.flops == row.flops_saved
    assert loss(model)["loss"] == pytest.approx(row.figures["loss"], abs=1e-5)
    assert row.rise == pytest.approx(loss(model)["loss"] / rows[0].dense["loss"] - 1, abs=1e-5)


def test_larger_ratios_are_skipped_once_the_loss_has_risen():
    model, graph = chain(8, 8)
    seen = []

    def evaluate(model) -> dict[str, float]:
        silent = [int((getattr(model, name).weight == 0).sum()) for name in ("b0", "b1")]
        seen.append(silent)
        return {"loss": 1.0 + silent[0]}  # the first layer is sensitive, the second is not

    selection = Selection(round_to=1, min_channels=1)
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    found = list(
        Sensitivity(
            *(model, graph, evaluate, example), ratios=(0.25, 0.5, 0.75), selection=selection, stop_rise=2.5
        ).rows()
    )
    assert [(row.unit, row.status, row.rise) for row in found] == [
        ("b0", "measured", 2.0),
        ("b1", "measured", 0.0),
        ("b0", "measured", 4.0),
        ("b1", "measured", 0.0),
        ("b0", "skipped", None),
        ("b1", "measured", 0.0),
    ]
    assert len(seen) == 1 + 5  # the dense model, and what was not skipped


@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_it_goes_on_after_the_rows_that_are_there(after):
    model, graph = chain(8, 8)
    calls = []

    def evaluate(model) -> dict[str, float]:
        calls.append(1)
        return {"loss": 1.0 + model.b0.weight.detach().sum().item()}

    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    keys = {"ratios": (0.25, 0.5, 0.75), "selection": Selection(round_to=1, min_channels=1), "stop_rise": 0.1}
    whole = [(r.unit, r.ratio, r.rise) for r in Sensitivity(model, graph, evaluate, example, **keys).rows()]
    first = list(Sensitivity(model, graph, evaluate, example, **keys).rows())[:after]
    calls.clear()
    rest = list(Sensitivity(model, graph, evaluate, example, **keys).rows(first))
    assert [(r.unit, r.ratio, r.rise) for r in [*first, *rest]] == whole
    assert len(calls) == 1 + sum(row.rise is not None for row in rest)


def test_rows_of_another_measurement_are_refused():
    model, graph = chain(8, 8)
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    measurement = Sensitivity(model, graph, lambda model: {"loss": 1.0}, example, ratios=(0.25, 0.5))
    found = list(measurement.rows())
    with pytest.raises(ValueError, match="a row of b1 at 0.25 stands where b0 is expected"):
        list(measurement.rows(found[1:]))


def test_parts_have_every_unit_once():
    model, graph = chain(8, 8, 8)
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    parts = [Sensitivity(model, graph, lambda model: {"loss": 1.0}, example, part=(n, 2)) for n in (1, 2)]
    assert [[unit.name for unit in part.units] for part in parts] == [["b0", "b2"], ["b1"]]
    with pytest.raises(ValueError, match="part=3/2"):
        Sensitivity(model, graph, lambda model: {"loss": 1.0}, example, part=(3, 2))


@pytest.mark.parametrize("error", [None, RuntimeError("out of memory"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_comes_back_whatever_happens(training, call, error):
    model, graph = chain(8, 8)
    example = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    before, calls = copy.deepcopy(model.train(training).state_dict()), []

    def evaluate(model) -> dict[str, float]:
        calls.append(1)
        model.train()(example)  # statistics that are measured anew
        assert not torch.equal(model.b1.running_mean, before["b1.running_mean"])
        if error is not None and len(calls) == call:
            raise error
        model.eval()
        return {"loss": 1.0}

    measurement = Sensitivity(model, graph, evaluate, example, ratios=(0.5,))
    with nullcontext() if error is None else pytest.raises(type(error)):
        list(measurement.rows())
    assert len(calls) == (3 if error is None else call)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training == training for module in model.modules())
    assert not any(parameter.grad is not None or not parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_lost(lost):
    model, graph = chain(8, 8)
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)

    def evaluate(model) -> dict[str, float]:
        return {"loss": lost if (model.b0.weight == 0).any() else 1.0}

    keys = {"ratios": (0.3, 0.5), "selection": Selection(round_to=1, min_channels=1)}
    found = list(Sensitivity(model, graph, evaluate, example, **keys).rows())
    assert [(row.unit, row.status, row.rise) for row in found] == [
        ("b0", "measured", 1e9),
        ("b1", "measured", 0.0),
        ("b0", "skipped", None),
        ("b1", "measured", 0.0),
    ]


@pytest.mark.parametrize("figures", [{"loss": float("nan")}, {"loss": 0.0}, {"map": 0.0}, {}])
def test_a_model_that_nothing_can_be_compared_with_is_refused_at_once(figures):
    model, graph = chain(8, 8)
    measurement = Sensitivity(model, graph, lambda model: figures, torch.rand(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="there is nothing to compare with|neither 'loss' nor 'map'"):
        measurement.evaluate_dense()
    assert not measurement.dense


def test_channels_without_a_score_are_not_measured():
    model, graph = chain(8, 8)
    example, scores = torch.rand(1, 3, 8, 8, dtype=torch.float64), torch.full((graph.num_groups,), torch.inf)
    with pytest.raises(ValueError, match="no prunable channel has a score"):
        Sensitivity(model, graph, lambda model: {"loss": 1.0}, example, scores=scores)
    scores[graph.gammas["b1"]] = torch.rand(8)
    measurement = Sensitivity(model, graph, lambda model: {"loss": 1.0}, example, scores=scores)
    assert [(unit.name, unit.channels) for unit in measurement.units] == [("b1", 8)]


def test_a_network_that_is_really_cut_is_measured_where_asked():
    model, graph = chain(8, 8)
    selection = Selection(round_to=1, min_channels=1)
    measurement = Sensitivity(
        *(model, graph, lambda model: {"loss": 1.0}, torch.rand(1, 3, 8, 8, dtype=torch.float64)),
        **{"ratios": (0.5,), "selection": selection},
        measure_cut=lambda model: {"channels": float(model.c0.out_channels + model.c1.out_channels)},
    )
    assert [row.figures["channels"] for row in measurement.rows()] == [12.0, 12.0]
    assert measurement.dense["channels"] == 16.0


def test_rises_are_relative():
    assert relative_rise({"loss": 3.0}, {"loss": 2.0}) == 0.5
    assert relative_rise({"loss": float("nan")}, {"loss": 2.0}) == 1e9
    assert relative_rise({"map": 0.0}, {"map": 0.4}) == 1.0
    with pytest.raises(ValueError, match="neither 'loss' nor 'map'"):
        relative_rise({}, {})
    with pytest.raises(ValueError, match="nothing to compare with"):
        relative_rise({"map": 0.0}, {"map": 0.0})


@pytest.mark.parametrize("ratios", [(), (0.5, 0.3), (0.5, 0.5), (1.0,), (-0.1,)])
def test_ratios_that_are_none(ratios):
    with pytest.raises(ValueError, match="expected ascending shares"):
        check_ratios(ratios)
