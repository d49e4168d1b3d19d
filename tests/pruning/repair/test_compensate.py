from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.tasks import SegmentationModel

from tests.helpers.blocks.random_nets import RandomNet
from tests.helpers.pruned import PRUNABLE, compensated, difference, drop_some, images, random_drop
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from tests.helpers.toys import TOYS, Split
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import apply_plan, make_plan, trace
from yolo_slim.pruning.repair.compensate import compensate

# Who reads what is no constant: it is multiplied with something, read in two calls, or missing in some images.
VARYING = {"gate": {"head"}, "spatial mask": {"head"}, "shared": {"both.0"}, "regions": {"head"}}


@torch.no_grad()
@pytest.mark.parametrize("toy", PRUNABLE, ids=lambda toy: toy.name)
def test_exact_compensation_keeps_the_constants_of_a_toy(toy):
    model = randomised(toy.build())
    graph = trace(model, toy.example())
    taken = 0
    for seed in range(8):
        dropped = random_drop(graph, (0.3, 0.6, 0.9)[seed % 3], seed, min_channels=1) & graph.gated
        dense, slim, found = compensated(model, graph, dropped)
        example = toy.example()
        assert set(found.uncompensated) <= VARYING.get(toy.name, set())
        assert not bool(found.dropped[~dropped].any())
        assert found.kept_dead == int(dropped.sum() - found.dropped.sum())
        if not found.uncompensated:
            assert difference(slim(example), dense(example)) < 1e-10
        taken += len(found.folded) + len(found.merged)
    assert taken or toy.name in VARYING


@torch.no_grad()
@pytest.mark.parametrize("start", range(0, 120, 30))
def test_exact_compensation_keeps_the_constants_of_random_nets(start):
    exact = 0
    for seed in range(start, start + 30):
        model = randomised(RandomNet(seed), seed)
        graph = trace(model, images(2, 3, 8, 8))
        if model.random or not any(layer.prunable.any() for layer in graph.prunable_layers()):
            continue
        dense, slim, found = compensated(model, graph, random_drop(graph, 0.5, seed, min_channels=1))
        if not found.uncompensated:
            x = images(2, 3, 8, 8)
            assert difference(slim(x), dense(x)) < 1e-9, f"seed {seed}: {model.kinds}, {model.sources}"
            exact += bool(found.folded or found.merged)
    assert exact > 5


def detector(name: str) -> tuple[nn.Module, list]:
    if not name.endswith("-seg"):
        return yolo(name), yolo_passes()
    torch.manual_seed(0)

    def run(model: nn.Module) -> list[Tensor]:
        raw = model.eval()(x)[1]
        return [raw[key] for key in ("boxes", "scores", "mask_coefficient", "proto")]

    x = images(1, 3, 64, 64)
    return randomised(SegmentationModel(f"{name}.yaml", verbose=False)), [run]


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    ["yolov8n", *(pytest.param(n, marks=pytest.mark.slow) for n in ("yolov5nu", "yolo11n", "yolov9t", "yolov8n-seg"))],
)
def test_exact_compensation_keeps_the_constants_of_a_detector(name):
    model, passes = detector(name)
    graph = trace(model, passes=passes)
    for seed, ratio in enumerate((0.1, 0.3, 0.5)):
        dense, slim, found = compensated(model, graph, random_drop(graph, ratio, seed) & graph.gated)
        assert found.uncompensated == {}
        assert found.kept_dead > 10
        assert [type(t) for t in slim.state_dict().values()] == [type(t) for t in model.state_dict().values()]
        for run in passes:
            assert difference(tuple(run(slim)), tuple(run(dense))) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_the_fold_takes_most_of_the_error_away_from_a_detector(ratio):
    model = yolo()
    graph = trace(model, passes=yolo_passes())
    run = yolo_passes(320)[0]
    dropped = random_drop(graph, ratio, 0) & graph.gated
    dense, slim, found = compensated(model, graph, dropped, exact=False)
    bare = copy.deepcopy(model)
    apply_plan(bare, make_plan(graph, dropped))
    assert (found.merged, found.uncompensated, found.kept_dead) == ([], {}, 0)
    assert len(found.folded) > 50
    for with_fold, without, expected in zip(run(slim), run(bare), run(dense), strict=True):
        assert (with_fold - expected).norm() * 5 < (without - expected).norm()


@torch.no_grad()
def test_the_fold_is_exact_away_from_the_border():
    model = randomised(next(toy for toy in TOYS if toy.name == "plain").build())
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [0, 2], "b2": [1]})
    dense, slim, found = compensated(model, graph, dropped, exact=False)
    x = images(2, 3, 32, 32)
    error = (slim(x) - dense(x)).abs()
    assert error[..., 2:-2, 2:-2].max() < 1e-10
    assert error.max() > 1e-3
    assert found.folded == ["c2", "head"]


@torch.no_grad()
@pytest.mark.parametrize("exact", [False, True])
def test_gammas_that_are_nearly_zero_cost_what_they_let_through(exact):
    model = randomised(next(toy for toy in TOYS if toy.name == "plain").build())
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [0, 2], "b2": [1, 3]})
    for name, groups in graph.gammas.items():
        model.get_submodule(name).weight[dropped[groups]] = 1e-6
    _, slim, _ = compensated(model, graph, dropped, exact=exact)
    x = images(1, 3, 32, 32)
    assert 0 < (slim(x) - model(x)).abs()[..., 3:-3, 3:-3].max() < 1e-4


@torch.no_grad()
def test_dead_channels_stay_dead_and_parts_stay_equal():
    model = randomised(Split())
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [0, 1, 4, 6]})
    _, slim, found = compensated(model, graph, dropped)
    assert (slim.c1.out_channels, found.kept_dead) == (6, 2)
    assert int((slim.b1.weight == 0).sum()) == 2
    assert found.merged == ["c2", "head"]


def one_reader(layer: nn.Module, **more: nn.Module) -> Net:
    return randomised(Net(lambda n, x: n.reader(F.relu(n.b1(n.c1(x)))), c1=conv(3, 6), b1=bn(6), reader=layer, **more))


LAYERS = {
    "1x1": (nn.Conv2d(6, 4, 1), "folded"),
    "unpadded": (nn.Conv2d(6, 4, 3, stride=2), "folded"),
    "mirrored": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), "folded"),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), "folded"),
    "same": (nn.Conv2d(6, 4, 3, padding="same", dilation=2), "merged"),
    "padded": (nn.Conv2d(6, 4, 3, padding=(0, 1)), "merged"),
    "grouped": (nn.Conv2d(6, 4, 3, padding=1, groups=2), "merged"),
    "grouped 1x1": (nn.Conv2d(6, 4, 1, groups=2), "folded"),
    "without bias": (nn.Conv2d(6, 4, 1, bias=False), "merged"),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1), "merged"),
    "channels last": (nn.Conv2d(6, 4, 3, padding=1).to(memory_format=torch.channels_last), "merged"),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_is_compensated(kind):
    layer, how = LAYERS[kind]
    model = one_reader(copy.deepcopy(layer))
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [0, 2]}) | drop_some(graph, {"b1": [3, 5] if "grouped" in kind else [0]})
    model.b1.bias[[0, 2, 3, 5]] = torch.tensor([0.5, 0.75, 1.0, 0.25], dtype=torch.float64)
    dense, slim, found = compensated(model, graph, dropped)
    x = images()
    assert difference(slim(x), dense(x)) < 1e-10
    assert (found.folded, found.merged) == ((["reader"], []) if how == "folded" else ([], ["reader"]))
    assert found.kept_dead == (how == "merged")


@torch.no_grad()
def test_a_transposed_convolution_is_folded_on_average():
    model = one_reader(nn.ConvTranspose2d(6, 4, 2, stride=2))
    graph = trace(model, images())
    model.b1.bias[:2] = 1
    dense, slim, _ = compensated(model, graph, drop_some(graph, {"b1": [0, 1]}), exact=False)
    x = images()
    assert (slim(x) - dense(x)).abs().max() > 1e-2
    assert (slim(x) - dense(x)).mean((0, 2, 3)).abs().max() < 1e-10


@torch.no_grad()
def test_a_constant_of_zero_needs_nothing():
    model = one_reader(nn.Conv2d(6, 4, 3, padding=1))
    graph = trace(model, images())
    model.b1.bias[:2] = -1
    dense, slim, found = compensated(model, graph, drop_some(graph, {"b1": [0, 1]}))
    x = images()
    assert (found.folded, found.merged, found.kept_dead, found.uncompensated) == ([], [], 0, {})
    assert difference(slim(x), dense(x)) < 1e-10


@torch.no_grad()
def test_channels_without_a_gamma_pass_no_constant_on():
    layers = {"c1": conv(3, 4), "b1": bn(4), "raw": nn.Conv2d(4, 5, 1), "head": out(5)}
    model = randomised(Net(lambda n, x: n.head(F.relu(n.raw(F.relu(n.b1(n.c1(x)))))), **layers))
    graph = trace(model, images())
    dense, slim, found = compensated(model, graph, drop_some(graph, {"raw": [0, 3]}))
    x = images()
    assert (found.folded, found.merged, found.kept_dead) == ([], [], 0)
    assert difference(slim(x), dense(x)) < 1e-10


@torch.no_grad()
def test_no_constant_in_one_group_of_a_convolution():
    model = one_reader(nn.Conv2d(6, 4, 3, padding=1, groups=2))
    graph = trace(model, images())
    model.b1.bias[[0, 1, 3, 4]] = torch.tensor([0.5, -1, -1, 0.5], dtype=torch.float64)
    dropped = drop_some(graph, {"b1": [0, 1]})
    found = compensate(copy.deepcopy(model), graph, dropped, exact=True)
    assert found.uncompensated == {"reader": "has a group without a constant to merge the others into"}
    assert compensate(model, graph, dropped).folded == ["reader"]


@pytest.mark.parametrize("wrong", ["fixed", "pass"])
def test_an_error_leaves_the_model_untouched(wrong):
    model = randomised(next(toy for toy in TOYS if toy.name == "plain").build()).train()
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [0]})
    before = copy.deepcopy(model.state_dict())
    if wrong == "fixed":
        with pytest.raises(ValueError, match="without fixed groups"):
            compensate(model, graph, graph.fixed)
    else:
        with pytest.raises(ValueError, match="does not call the model itself"):
            compensate(model, graph, dropped, lambda m: m.run(m.eval(), images()))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_inputs_may_be_given_and_nothing_else_changes():
    model = randomised(next(toy for toy in TOYS if toy.name == "residual").build()).train()
    graph = trace(model, images())
    dropped, other = drop_some(graph, {"b2": [0]}), copy.deepcopy(model)
    state = torch.get_rng_state()
    found = compensate(model, graph, dropped, images())
    torch.set_rng_state(state)
    found_by_tuple = compensate(other, graph, dropped, (images(),))
    assert found.folded == found_by_tuple.folded
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for (name, tensor), same in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(tensor, same), name
