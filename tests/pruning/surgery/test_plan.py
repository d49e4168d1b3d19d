from __future__ import annotations

import copy

import pytest
import torch
import yaml

from tests.helpers.pruned import random_drop, toy
from tests.helpers.toys import TOYS
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import PruningPlan, apply_plan, make_plan, trace
from yolo_slim.pruning.surgery.plan import compose


def drop(graph, **channels):
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    for name, indices in channels.items():
        dropped[graph.gammas[name][indices]] = True
    return dropped


def test_a_plan_names_the_sides_of_all_coupled_layers():
    _, graph = toy("split")
    plan = make_plan(graph, drop(graph, b1=[1, 4], b2=[3]))
    assert plan.to_dict() == {
        "modules": {
            "c1": {"out": {"size": 8, "keep": [0, 2, 3, 5, 6, 7]}},
            "b1": {"out": {"size": 8, "keep": [0, 2, 3, 5, 6, 7]}},
            "c2": {"out": {"size": 4, "keep": [0, 1, 2]}, "in": {"size": 4, "keep": [1, 2, 3]}},
            "b2": {"out": {"size": 4, "keep": [0, 1, 2]}},
            "head": {"in": {"size": 12, "keep": [0, 2, 3, 5, 6, 7, 8, 9, 10]}},
        },
        "attributes": {"": {"c": 3}},
    }


def test_sides_of_grouped_depthwise_transposed_and_foreign_layers():
    _, graph = toy("grouped")
    assert make_plan(graph, drop(graph, b1=[1])).entries["c2"] == {"in": [0]}
    _, graph = toy("depthwise")
    assert make_plan(graph, drop(graph, b1=[1])).entries["dw"] == {"out": [0, 1, 4, 5, 6, 7]}
    _, graph = toy("up and cat")
    entries = make_plan(graph, drop(graph, b2=[0], b3=[2])).entries
    assert entries["up"] == {"in": [1, 2, 3, 4], "out": [0, 1]}
    _, graph = toy("scale")
    assert make_plan(graph, drop(graph, b1=[0])).entries["scale"] == {"factor.0": [1, 2, 3]}
    _, graph = toy("attribute list")
    assert make_plan(graph, drop(graph, b1=[0, 7])).attributes == {"": {"sizes.0": 2, "sizes.1": 4}}


def test_the_file_is_readable_and_survives_a_round_trip(tmp_path):
    _, graph = toy("split")
    plan = make_plan(graph, drop(graph, b1=[1, 4], b2=[3]))
    plan.save(tmp_path / "plan.yaml")
    text = (tmp_path / "plan.yaml").read_text()
    assert "keep: [0, 2, 3, 5, 6, 7]\n" in text
    assert yaml.safe_load(text) == plan.to_dict()
    assert PruningPlan.load(tmp_path / "plan.yaml") == plan


@torch.no_grad()
def test_a_loaded_plan_prunes_another_copy_without_a_trace(tmp_path):
    model, passes = yolo(), yolo_passes()
    other = copy.deepcopy(model)
    graph = trace(model, passes=passes)
    plan = make_plan(graph, random_drop(graph, 0.5, 0))
    plan.save(tmp_path / "plan.yaml")
    apply_plan(model, plan)
    apply_plan(other, PruningPlan.load(tmp_path / "plan.yaml"))
    for run in passes:
        assert all(torch.equal(a, b) for a, b in zip(run(model), run(other), strict=True))


def test_a_plan_that_does_not_fit_names_the_module_and_both_sizes_and_touches_nothing():
    _, graph = toy("split")
    plan = make_plan(graph, drop(graph, b1=[1, 4], b2=[3]))
    model = toy("split")[0]
    model.head = torch.nn.Conv2d(11, 2, 3, padding=1).double()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=r"head.weight has shape \(2, 11, 3, 3\), the plan expects 12 at axis 1"):
        apply_plan(model, plan)
    assert model.c == before.c
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", [t.name for t in TOYS if any(c.islower() for g in t.groups.values() for c in g)])
def test_a_composed_plan_does_what_both_do_one_after_the_other(name):
    model, graph = toy(name)
    at_once = copy.deepcopy(model)
    first = make_plan(graph, random_drop(graph, 0.3, 0, min_channels=1))
    apply_plan(model, first)
    passes = graph.passes
    graph = trace(model, passes=passes)
    second = make_plan(graph, random_drop(graph, 0.4, 1, min_channels=1))
    apply_plan(model, second)
    apply_plan(at_once, compose(first, second))
    assert_same(model, at_once, passes)


@torch.no_grad()
def test_a_composed_plan_of_a_detector():
    model, passes = yolo(), yolo_passes()
    at_once, plans = copy.deepcopy(model), []
    for seed in range(3):
        graph = trace(model, passes=passes)
        plans.append(make_plan(graph, random_drop(graph, 0.3, seed)))
        apply_plan(model, plans[-1])
    apply_plan(at_once, compose(compose(plans[0], plans[1]), plans[2]))
    assert_same(model, at_once, passes)
    assert compose(plans[0], compose(plans[1], plans[2])) == compose(compose(plans[0], plans[1]), plans[2])


def assert_same(first, second, passes):
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    for run in passes:
        outputs = [run(model) for model in (first, second)]
        outputs = [[o] if isinstance(o, torch.Tensor) else o for o in outputs]
        assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def test_plans_that_do_not_follow_each_other():
    first = PruningPlan({"c": {"out": [0, 2, 5]}}, {"c": {"out": 6}}, {"m": {"c": 3}})
    second = PruningPlan({"c": {"out": [1, 2]}, "d": {"in": [0]}}, {"c": {"out": 3}, "d": {"in": 2}}, {"m": {"c": 2}})
    assert compose(first, second).to_dict() == {
        "modules": {"c": {"out": {"size": 6, "keep": [2, 5]}}, "d": {"in": {"size": 2, "keep": [0]}}},
        "attributes": {"m": {"c": 2}},
    }
    assert first.entries == {"c": {"out": [0, 2, 5]}}
    with pytest.raises(ValueError, match="c, side 'out': the first leaves 2 channels, the second expects 6"):
        compose(second, first)


def test_nothing_dropped_is_an_empty_plan():
    model, graph = toy("plain")
    assert make_plan(graph, drop(graph)).to_dict() == {"modules": {}, "attributes": {}}


def test_drops_that_cannot_be_are_refused():
    _, graph = toy("not zero")
    with pytest.raises(ValueError, match="with 1 fixed"):
        make_plan(graph, drop(graph, b1=[0]))
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        make_plan(graph, torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"c3: side 'out' would lose all its 5 channels"):
        make_plan(graph, drop(graph, b3=range(5)))
    _, graph = toy("split")
    with pytest.raises(ValueError, match=r"would keep \[3, 4\]"):
        make_plan(graph, drop(graph, b1=[0]))


GOOD = {"modules": {"c": {"out": {"size": 3, "keep": [0, 2]}}}, "attributes": {"m": {"c": 2}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attributes": None}, "not a pruning plan"),
        ({"modules": {"c": {"out": [0, 2]}}}, "not a pruning plan"),
        ({"modules": {"c": {"out": {"size": 0, "keep": [0]}}}}, "'c', side 'out': size is 0"),
        ({"modules": {"c": {"out": {"size": 3, "keep": []}}}}, "non-empty list"),
        ({"modules": {"c": {"out": {"size": 3, "keep": [0, "1"]}}}}, "list of integers"),
        ({"modules": {"c": {"out": {"size": 3, "keep": [2, 0]}}}}, r"must ascend within 0..2"),
        ({"modules": {"c": {"out": {"size": 3, "keep": [1, 1]}}}}, r"must ascend within 0..2"),
        ({"modules": {"c": {"out": {"size": 3, "keep": [0, 3]}}}}, r"must ascend within 0..2"),
        ({"attributes": {"m": {"c": True}}}, "attribute m:c is True"),
    ],
)
def test_a_plan_is_checked_when_it_is_read(tmp_path, change, message):
    assert PruningPlan.from_dict(GOOD).to_dict() == GOOD
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **change}))
    with pytest.raises(ValueError, match=message) as error:
        PruningPlan.load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1", "modules: [", "12"])
def test_a_file_that_is_no_plan(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="plan.yaml"):
        PruningPlan.load(path)
