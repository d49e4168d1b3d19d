from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.toy_nets import Net, bn, conv, randomised
from tests.helpers.toys import TOYS, Split, Toy
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import trace


def by_name(name: str) -> Toy:
    return next(toy for toy in TOYS if toy.name == name)


def traced(toy: Toy):
    passes = None
    if toy.name == "split":
        example = toy.example()
        passes = [lambda m: m.eval()(example), lambda m: m.eval().forward_split(example)]
    return trace(randomised(toy.build()), toy.example(), passes=passes)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_groups_are_those_known_by_hand(toy):
    graph = traced(toy)
    letters = [letter for letters in toy.groups.values() for letter in letters]
    groups = [int(group) for name in toy.groups for group in graph.gammas[name]]
    assert list(graph.gammas) == list(toy.groups)
    assert [letters.index(letter) for letter in letters] == [groups.index(group) for group in groups]
    assert [letter.isupper() for letter in letters] == graph.fixed[groups].tolist()


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_constraints_and_attributes_are_those_known_by_hand(toy):
    graph = traced(toy)
    letter_of = {int(g): c for name, cs in toy.groups.items() for g, c in zip(graph.gammas[name], cs, strict=True)}
    equal = [tuple("".join(letter_of[int(g)] for g in part) for part in parts) for parts in graph.equal_counts]
    attributes = {
        f"{a.module}:{a.name}" + ("" if a.index is None else f".{a.index}"): len(a.groups) for a in graph.attributes
    }
    assert equal == toy.equal
    assert attributes == toy.attributes


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_every_channel_is_in_one_group(toy):
    graph, model = traced(toy), toy.build()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    assert set(graph.axes) == set(tensors)
    for name, axes in graph.axes.items():
        for axis, groups in axes.items():
            assert len(groups) == tensors[name].shape[axis]
            assert int(groups.min()) >= 0
            assert int(groups.max()) < graph.num_groups
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert 0 in graph.axes[f"{name}.weight"]
            assert (1 in graph.axes[f"{name}.weight"]) == (module.groups < module.in_channels)


@pytest.mark.parametrize("name", ["yolov8n", "yolov8s"])
def test_yolov8_is_prunable_as_a_whole(name):
    graph = trace(yolo(name), passes=yolo_passes())
    gammas = graph.prunable_gammas()
    assert len(gammas) == 57
    assert all(bool(gamma.prunable.all()) for gamma in gammas)
    assert [f"{a.module}.{a.name}" for a in graph.attributes] == [f"model.{i}.c" for i in (2, 4, 6, 8, 12, 15, 18, 21)]
    assert len(graph.equal_counts) == 8
    for branch in ("cv2", "cv3"):
        for level in range(3):
            assert bool(graph.fixed[graph.axes[f"model.22.{branch}.{level}.2.weight"][0]].all())
    assert bool(graph.fixed[graph.axes["model.22.dfl.conv.weight"][1]].all())


def test_shortcuts_spare_leaves_residual_channels_and_the_half_that_must_stay_equal():
    gammas = {g.module: g.prunable for g in trace(yolo(), passes=yolo_passes()).prunable_gammas("spare")}
    spared = {name for name, prunable in gammas.items() if not prunable.all()}
    repeats = {2: 1, 4: 2, 6: 2, 8: 1}  # the C2f blocks of the backbone, whose Bottlenecks have shortcuts
    expected = {f"model.{i}.cv1.bn" for i in repeats}
    expected |= {f"model.{i}.m.{j}.cv2.bn" for i, count in repeats.items() for j in range(count)}
    assert spared == expected
    assert not any(gammas[name].any() for name in spared)


def test_shortcuts_spare_is_about_sums_of_feature_maps_only():
    assert not traced(by_name("residual")).prunable_gammas("spare")[0].prunable.any()
    assert traced(by_name("gate")).prunable_gammas("spare")[0].prunable.all()
    net = Net(lambda n, x: n.head(n.subtract_mean(n.b1(n.c1(x)))), c1=conv(3, 4), b1=bn(4), head=conv(4, 2))
    net.subtract_mean = lambda x: x - x.mean((2, 3), keepdim=True)
    assert trace(net, torch.rand(1, 3, 8, 8)).prunable_gammas("spare")[0].prunable.all()
    with pytest.raises(ValueError, match="shortcuts='cut'"):
        traced(by_name("plain")).prunable_gammas("cut")


def test_ignore_keeps_a_module_its_children_and_what_is_coupled_to_them():
    graph = traced(by_name("residual"))
    prunable = {g.module: bool(g.prunable.any()) for g in graph.prunable_gammas(ignore=["c3"])}
    assert prunable == {"b1": False, "b2": True, "b3": False}
    graph = traced(by_name("shared"))
    prunable = {g.module: bool(g.prunable.any()) for g in graph.prunable_gammas(ignore=["bot*"])}
    assert prunable == {"b1": True, "b2": True, "both.1": False}


@pytest.mark.parametrize("pattern", ["model.99*", "pool"])
def test_ignore_that_matches_nothing_is_an_error(pattern):
    with pytest.raises(ValueError, match=f"'{pattern[:5]}.*matches no layer"):
        traced(by_name("plain")).prunable_gammas(ignore=["c1", pattern])


def test_an_unknown_operation_is_named_and_counted():
    found = [r for r in traced(by_name("unknown")).reasons if r.operation == "cumsum"]
    assert [(r.module, r.reason, r.channels) for r in found] == [("", "no rule for this operation", 4)]


def test_reasons_name_the_module():
    reasons = {(r.module, r.operation): r.channels for r in traced(by_name("not zero")).reasons}
    assert reasons["c2", "conv2d"] == 3
    assert reasons["c3", "conv2d"] == 4
    assert reasons["c1", "conv2d"] == 3  # the image's


@torch.jit.script
def scripted(x: Tensor) -> Tensor:
    return torch.relu(x) * 2


def test_operations_of_a_scripted_function_fix_what_they_touch():
    net = Net(lambda n, x: n.head(scripted(n.b1(n.c1(x)))), c1=conv(3, 4), b1=bn(4), head=conv(4, 2))
    graph = trace(net, torch.rand(1, 3, 8, 8))
    assert not graph.prunable_gammas()[0].prunable.any()
    assert any("relu" in reason.operation for reason in graph.reasons)


def test_a_layer_that_no_pass_reaches_is_fixed():
    net = Net(lambda n, x: n.head(n.b1(n.c1(x))), c1=conv(3, 4), b1=bn(4), head=conv(4, 2), b2=bn(5))
    graph = trace(net, torch.rand(1, 3, 8, 8))
    assert [bool(g.prunable.all()) for g in graph.prunable_gammas()] == [True, False]
    assert any(r.module == "b2" and "not reached" in r.reason for r in graph.reasons)


def test_a_batch_norm_without_gamma_cannot_zero_a_channel():
    layers = {"c1": conv(3, 4), "b1": nn.BatchNorm2d(4, affine=False), "b2": bn(4)}
    graph = trace(
        Net(lambda n, x: n.head(n.b1(n.c1(x)) + n.b2(n.c1(x))), **layers, head=conv(4, 2)), torch.rand(1, 3, 8, 8)
    )
    assert list(graph.gammas) == ["b2"]
    assert not graph.prunable_gammas()[0].prunable.any()


def test_default_passes_cover_what_runs_in_training_only():
    def run(net: Net, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = net.b1(net.c1(x))
        return (net.head(x), net.auxiliary(x[:, :2])) if net.training else net.head(x)

    net = Net(run, c1=conv(3, 4), b1=bn(4), head=conv(4, 2), auxiliary=conv(2, 2))
    before = net.b1.running_mean.clone()
    assert not trace(net, torch.rand(1, 3, 8, 8)).prunable_gammas()[0].prunable.any()
    assert torch.equal(net.b1.running_mean, before)


def snapshot(model: nn.Module) -> dict:
    state = {name: (id(tensor), tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    attributes = {
        name: {k: (type(v), v if isinstance(v, (int, list, tuple, str)) else id(v)) for k, v in vars(module).items()}
        for name, module in model.named_modules()
    }
    return {"state": state, "flags": flags, "attributes": attributes}


@pytest.mark.parametrize("fails", [False, True], ids=["", "when a pass fails"])
def test_the_model_comes_back_as_it_was(fails):
    model = yolo()
    model.train()
    model.model[3].eval()
    model.model[0].conv.weight.requires_grad_(False)
    before, hooks = snapshot(model), len(nn.modules.module._global_forward_hooks)

    def disturb(model: nn.Module) -> Tensor:
        model.train()  # BatchNorm statistics move
        model.model[0].bn.bias.requires_grad_(False)
        model.model[4].c = 99
        model.extra = torch.rand(3)
        outputs = model(torch.rand(2, 3, 64, 64, dtype=torch.float64))
        if fails:
            raise KeyError("inside a pass")
        return outputs["boxes"]

    passes = [*yolo_passes(), disturb]
    if fails:
        with pytest.raises(KeyError, match="inside a pass"):
            trace(model, passes=passes)
    else:
        trace(model, passes=passes)
    after = snapshot(model)
    assert after["flags"] == before["flags"]
    assert after["attributes"] == before["attributes"]
    assert list(after["state"]) == list(before["state"])
    for name, (identity, values) in before["state"].items():
        assert after["state"][name][0] == identity
        assert torch.equal(after["state"][name][1], values)
    assert len(nn.modules.module._global_forward_hooks) == hooks


def test_a_trace_leaves_the_random_state_alone():
    net = Net(lambda n, x: n.head(n.drop(n.b1(n.c1(x)))), c1=conv(3, 4), b1=bn(4), drop=nn.Dropout(), head=conv(4, 2))
    x = torch.rand(1, 3, 8, 8)
    state = torch.get_rng_state()
    trace(net, x)
    assert torch.equal(torch.get_rng_state(), state)


def test_tracing_twice_gives_the_same_graph():
    model, passes = yolo(), yolo_passes()
    first, second = trace(model, passes=passes), trace(copy.deepcopy(model), passes=passes)
    assert first.num_groups == second.num_groups
    assert all(torch.equal(first.gammas[name], second.gammas[name]) for name in first.gammas)


def test_attribute_survives_only_where_a_pass_uses_it():
    toy = by_name("split")
    assert trace(Split().double(), toy.example()).attributes == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "example_inputs .* or passes; got neither"),
        ({"passes": []}, "at least one pass"),
        ({"passes": [lambda model: 3]}, "returned int without tensors"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        trace(by_name("plain").build(), **arguments)
