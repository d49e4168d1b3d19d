from __future__ import annotations

import copy

import pytest
import torch
import yaml

from tests.helpers.pruned import difference, random_drop, silenced, with_one_wrong_channel
from tests.helpers.toy_nets import randomised
from tests.helpers.toys import TOYS
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import CostModel, PruningPlan, Selection, apply_plan, make_plan, prune, trace
from yolo_slim.pruning.pipeline import check_prune
from yolo_slim.pruning.surgery.silence import silence
from yolo_slim.pruning.surgery.verify import TOLERANCE, verify

SELECTIONS = [
    Selection(0.5, round_to=1),
    Selection(0.9),
    Selection(0.99, min_channels=1),
    Selection(0.4, shortcuts="spare", round_to=1),
]


@torch.no_grad()
@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
def test_the_report_says_what_was_done(selection):
    model, passes = yolo(), yolo_passes()
    dense, graph = copy.deepcopy(model), trace(model, passes=passes)
    report = prune(model, graph, selection)
    before = sum(layer.before for layer in report.layers)
    after = sum(layer.after for layer in report.layers)
    prunable = sum(int(gamma.prunable.sum()) for gamma in graph.prunable_gammas(selection.shortcuts))
    assert (before - after) / prunable == pytest.approx(report.reached)
    assert report.asked == selection.ratio
    assert all(len(model.get_submodule(layer.module).weight) == layer.after for layer in report.layers)
    assert report.parameters_before == sum(p.numel() for p in dense.parameters())
    assert report.parameters_after == sum(p.numel() for p in model.parameters()) < report.parameters_before
    assert report.error < 1e-10
    assert report.structure["model.2"] == {"c": model.model[2].c}
    assert bool(report.held) == any(layer.after == selection.min_channels for layer in report.layers)
    apply_plan(dense, report.plan)
    assert all(difference(run(model), run(dense)) == 0 for run in passes)


def test_the_report_is_plain_data():
    model = yolo()
    report = prune(model, trace(model, passes=yolo_passes()), Selection(0.9))
    data = report.to_dict()
    assert yaml.safe_load(yaml.safe_dump(data)) == data
    assert PruningPlan.from_dict(data["plan"]) == report.plan
    assert data["fixed"][0]["module"] == "model.0.conv"


def test_the_gammas_decide_unless_scores_are_given():
    toy = next(toy for toy in TOYS if toy.name == "plain")
    model = randomised(toy.build())
    model.b1.weight.data = torch.tensor([-3.0, 0.1, -0.2, 3.0], dtype=torch.float64)
    model.b2.weight.data.fill_(-2)
    other, graph = copy.deepcopy(model), trace(model, toy.example())
    assert prune(model, graph, Selection(2 / 9, min_channels=1)).plan.entries["b1"] == {"out": [0, 3]}
    scores = torch.arange(graph.num_groups, dtype=torch.float64)
    scores[graph.gammas["b1"]] -= 100
    assert prune(other, graph, Selection(2 / 9, min_channels=1), scores).plan.entries["b1"] == {"out": [2, 3]}


def test_ratio_zero_changes_nothing():
    model = yolo()
    before = dict(model.named_parameters())
    report = prune(model, trace(model, passes=yolo_passes()), Selection(0.0))
    assert (report.reached, report.error, report.plan.entries) == (0.0, 0.0, {})
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_a_wrong_graph_is_noticed_and_the_model_untouched():
    toy = next(toy for toy in TOYS if toy.name == "residual")
    model = randomised(toy.build())
    graph = trace(model, toy.example())
    for axis, groups in graph.axes["c2.weight"].items():
        graph.axes["c2.weight"][axis] = groups.flip(0) if axis == 1 else groups
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    with pytest.raises(RuntimeError, match="differs from the dense one .* by .*untouched"):
        prune(model, graph, Selection(0.4, min_channels=1))
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
    assert model.c2.in_channels == 4


def test_a_model_that_fails_to_run_is_untouched():
    toy = next(toy for toy in TOYS if toy.name == "plain")
    model = randomised(toy.build())
    graph = trace(model, toy.example())
    del graph.axes["c2.weight"][1]
    with pytest.raises(RuntimeError, match="by inf"):
        prune(model, graph, Selection(0.4, min_channels=1))
    assert model.c1.out_channels == 4


def test_half_precision_is_refused():
    toy = next(toy for toy in TOYS if toy.name == "plain")
    model = randomised(toy.build())
    graph = trace(model, toy.example())
    with pytest.raises(ValueError, match=r"c1.weight is torch.bfloat16; .*model.float\(\)"):
        prune(model.bfloat16(), graph, Selection())


def test_prune_leaves_modes_and_statistics_alone():
    toy = next(toy for toy in TOYS if toy.name == "plain")
    model = randomised(toy.build()).train()
    statistics = model.b1.running_mean.clone()
    report = prune(model, trace(model, toy.example()), Selection(0.4, min_channels=1))
    assert model.training
    assert model.b1.training
    assert torch.equal(model.b1.running_mean, statistics[report.plan.entries["b1"]["out"]])


def test_silence_is_the_oracle_of_the_tests():
    toy = next(toy for toy in TOYS if toy.name == "residual")
    model = randomised(toy.build())
    graph = trace(model, toy.example())
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    dropped[graph.gammas["b1"][:2]] = True
    expected = silenced(model, graph, dropped)
    silence(model, graph, dropped)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert model.b3.weight[:2].tolist() == [0, 0]


@pytest.mark.parametrize("layer", ["model.1.conv", "model.9.cv2.conv", "model.22.cv3.2.2"])
def test_verify_sees_one_wrong_channel_in_single_precision(layer):
    model = yolo().float()
    graph = trace(model, passes=yolo_passes(dtype=torch.float32))
    dropped = random_drop(graph, 0.3, 0)
    plan = make_plan(graph, dropped)
    weights = [tensor.clone() for tensor in model.parameters()]
    assert verify(model, graph, dropped, plan) < 1e-5
    assert verify(model, graph, dropped, with_one_wrong_channel(plan, layer)) > TOLERANCE
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True)), "the model was changed"


@torch.no_grad()
def test_exact_compensation_is_proved_on_a_copy_and_reported(monkeypatch):
    model, passes = yolo(), yolo_passes(128)
    graph = trace(model, passes=passes)
    report = prune(copy.deepcopy(model), graph, Selection(0.4), compensation="exact")
    assert report.error < 1e-10
    assert report.compensation.kept_dead > 0
    data = report.to_dict()["compensation"]
    assert yaml.safe_load(yaml.safe_dump(data)) == data
    assert data["kept_dead"] == report.compensation.kept_dead
    monkeypatch.setattr("yolo_slim.pruning.repair.compensate._merge", lambda entry, dropped: None)
    with pytest.raises(RuntimeError, match="differs from the dense one"):
        prune(model, graph, Selection(0.4), compensation="exact")


def test_an_unknown_compensation():
    model = yolo()
    graph = trace(model, passes=yolo_passes())
    with pytest.raises(ValueError, match="compensation='fould': expected one of auto, none, fold, exact"):
        prune(model, graph, Selection(max_latency_ms=1), compensation="fould")


def with_dead_channels(share=0.6):
    """A detector most of whose gammas are next to zero, and whose betas are not."""
    model = yolo()
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            dead = torch.rand(len(module.weight), generator=generator) < share
            module.weight.data[dead] = 1e-9
            module.bias.data.uniform_(-1, 1, generator=generator)
    return model


@torch.no_grad()
@pytest.mark.parametrize("compensation", ["exact", "auto"])
@pytest.mark.parametrize("asked", [{"max_flops": 0.6}, {"max_params": 0.6}, {"round_to": 4, "ratio": 0.4}])
def test_dead_channels_that_stay_count_in_the_budget_and_in_the_multiple(asked, compensation):
    model = with_dead_channels()
    passes, images = yolo_passes(), torch.rand(1, 3, 64, 64).double()
    graph = trace(model, passes=passes)
    cost, nothing = CostModel(model, graph, images), torch.zeros(graph.num_groups, dtype=torch.bool)
    dense = {"max_flops": cost.flops(nothing), "max_params": cost.params(nothing)}
    limits = {name: value * dense[name] if name in dense else value for name, value in asked.items()}
    selection = Selection(**limits, min_channels=4)
    folded = copy.deepcopy(model)
    prune(folded, graph, selection, example_inputs=images, compensation="fold")
    slim = copy.deepcopy(model)
    report = prune(slim, graph, selection, example_inputs=images, compensation=compensation)
    assert report.compensation.merged
    assert report.compensation.kept_dead > 0
    assert report.error < 1e-10  # the dense model whose dropped channels are constants
    if "round_to" in asked:
        changed = [layer.after for layer in report.layers if layer.after < layer.before]
        assert changed
        assert all(after % 4 == 0 for after in changed)
    else:
        (name,) = limits
        left = {"max_flops": report.flops_after, "max_params": report.parameters_after}[name]
        assert 0.98 * limits[name] < left <= limits[name]
    assert all(difference(run(slim), run(model)) < 0.1 * difference(run(folded), run(model)) for run in passes[:1])


@torch.no_grad()
def test_a_dead_channel_never_takes_the_place_of_the_last_living_one():
    torch.manual_seed(0)
    first, last = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False), torch.nn.Conv2d(16, 4, 3, padding=1)
    model = torch.nn.Sequential(first, torch.nn.BatchNorm2d(16), torch.nn.ReLU(), last).eval()
    model[1].weight[:12] = 1e-9
    model[1].bias.fill_(0.5)
    images = torch.rand(1, 3, 8, 8)
    graph = trace(model, images)
    cost = CostModel(model, graph, images)
    limit = 1.3 * cost.flops(torch.zeros(graph.num_groups, dtype=torch.bool)) / 16
    selection = Selection(max_flops=limit, min_channels=1, round_to=1)
    with pytest.raises(ValueError, match="'exact' leaves 1 no living channel with at most .* use 'fold'"):
        prune(copy.deepcopy(model), graph, selection, example_inputs=images, compensation="exact")
    prune(model, graph, selection, example_inputs=images, compensation="auto")
    assert model[1].weight.tolist() == [1.0]


def test_auto_leaves_living_channels_to_the_fold():
    model = yolo()
    graph = trace(model, passes=yolo_passes())
    report = prune(model, graph, Selection(0.5, round_to=4), compensation="auto")
    assert report.compensation.kept_dead == 0
    assert all(layer.after % 4 == 0 for layer in report.layers if layer.after < layer.before)


def test_check_finds_what_prune_would_refuse():
    model = yolo()
    graph, images = trace(model, passes=yolo_passes()), torch.rand(1, 3, 64, 64).double()
    check_prune(model, graph, Selection(max_flops=5e7, max_latency_ms=1), images)
    for selection, message in (
        (Selection(ratios={"nothing": 0.1}), "'nothing' matches no layer"),
        (Selection(max_params=1e3), "max_params"),
    ):
        with pytest.raises(ValueError, match=message):
            check_prune(model, graph, selection, images)
    with pytest.raises(ValueError, match="needs example_inputs to time"):
        check_prune(model, graph, Selection(max_latency_ms=1))
