from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tests.helpers.pruned import PRUNABLE, difference, random_drop, silenced, with_one_wrong_channel
from tests.helpers.toy_nets import Net, bn, conv, randomised
from tests.helpers.toys import TOYS, Split
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import (
    PruningPlan,
    apply_plan,
    apply_structure,
    make_plan,
    structure_of,
    trace,
)

RATIOS = [0.0, 0.3, 0.6, 0.9, 0.99]


@pytest.fixture(scope="module", params=["yolov8n", "yolov8s"])
def detector(request):
    model, passes = yolo(request.param), yolo_passes()
    return model, trace(model, passes=passes)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_pruned_detector_equals_the_dense_one_without_the_dropped_channels(detector, ratio, seed):
    model, graph = detector
    options = {"min_channels": (1, 8, 3)[seed], "shortcuts": "spare" if seed == 2 else "couple"}
    dropped = random_drop(graph, ratio, seed, **options)
    slim = copy.deepcopy(model)
    apply_plan(slim, make_plan(graph, dropped))
    dense = silenced(model, graph, dropped)
    for run in graph.passes:  # eval, train, and the exporter's forward_split
        assert difference(run(slim), run(dense)) < 1e-10
    assert bool(dropped.any()) == (ratio > 0)


@torch.no_grad()
@pytest.mark.parametrize("toy", PRUNABLE, ids=lambda toy: toy.name)
def test_a_pruned_toy_equals_the_dense_one_without_the_dropped_channels(toy):
    model, example = randomised(toy.build()), toy.example()
    passes = [lambda m: m.eval()(example)]
    if toy.name == "split":
        passes.append(lambda m: m.eval().forward_split(example))
    graph = trace(model, passes=passes)
    for seed in range(8):
        dropped = random_drop(graph, RATIOS[1 + seed % 4], seed, min_channels=1)
        slim = copy.deepcopy(model)
        apply_plan(slim, make_plan(graph, dropped))
        for run in passes:
            assert difference(run(slim), run(silenced(model, graph, dropped))) < 1e-10


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["yolov3-tiny", "yolov5n", "yolov6n", "yolov8n-ghost", "yolov9t", "yolo11n", "yolo12n"]
)
def test_other_detectors(name):
    model = yolo(name)
    graph = trace(model, passes=yolo_passes())
    for seed, ratio in enumerate((0.5, 0.99)):
        dropped = random_drop(graph, ratio, seed, min_channels=1)
        slim = copy.deepcopy(model)
        apply_plan(slim, make_plan(graph, dropped))
        dense = silenced(model, graph, dropped)
        assert all(difference(run(slim), run(dense)) < 1e-10 for run in graph.passes)


@torch.no_grad()
@pytest.mark.parametrize("layer", ["model.1.conv", "model.9.cv2.conv", "model.22.cv3.2.2"])
def test_the_oracle_sees_one_wrong_channel(detector, layer):
    model, graph = detector
    dropped = random_drop(graph, 0.3, 0)
    slim = copy.deepcopy(model)
    apply_plan(slim, with_one_wrong_channel(make_plan(graph, dropped), layer))
    run = graph.passes[0]
    assert difference(run(slim), run(silenced(model, graph, dropped))) > 1e-4


def test_layers_stay_of_their_class_and_their_attributes_agree_with_their_tensors(detector):
    model, graph = detector
    slim = copy.deepcopy(model)
    apply_plan(slim, make_plan(graph, random_drop(graph, 0.6, 1, min_channels=1)))
    for (name, module), (_, before) in zip(slim.named_modules(), model.named_modules(), strict=True):
        assert type(module) is type(before), name
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups), name
        elif isinstance(module, nn.BatchNorm2d):
            tensors = (module.weight, module.bias, module.running_mean, module.running_var)
            assert {len(tensor) for tensor in tensors} == {module.num_features}, name
        elif hasattr(module, "forward_split"):
            assert 2 * module.c == module.cv1.conv.out_channels, name


def test_a_pruned_detector_trains_and_takes_another_size(detector):
    model, graph = detector
    slim = copy.deepcopy(model)
    apply_plan(slim, make_plan(graph, random_drop(graph, 0.9, 0)))
    outputs = slim.train()(torch.rand(2, 3, 96, 64, dtype=torch.float64))
    (outputs["boxes"].square().mean() + outputs["scores"].square().mean()).backward()
    trained = [p for p in slim.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.shape == p.shape for p in trained)


@torch.no_grad()
def test_pruning_twice():
    model, passes = yolo(), yolo_passes()
    for seed, ratio in enumerate((0.4, 0.4)):
        graph = trace(model, passes=passes)
        dropped = random_drop(graph, ratio, seed, min_channels=1)
        dense = silenced(model, graph, dropped)
        apply_plan(model, make_plan(graph, dropped))
        assert all(difference(run(model), run(dense)) < 1e-10 for run in passes)
    channels = sum(len(groups) for groups in trace(model, passes=passes).gammas.values())
    assert channels == pytest.approx(0.36 * 5296, rel=0.01)


@torch.no_grad()
def test_a_grouped_layer_that_became_depthwise_is_pruned_again():
    toy = next(toy for toy in TOYS if toy.name == "grouped")
    model, example = randomised(toy.build()), toy.example()
    for seed in range(2):
        graph = trace(model, example)
        dropped = random_drop(graph, 0.6, seed, min_channels=1)
        dense = silenced(model, graph, dropped)
        apply_plan(model, make_plan(graph, dropped))
        assert difference(model(example), dense(example)) < 1e-10
        assert (model.c2.in_channels, model.c2.groups) == [(2, 2), (1, 1)][seed]


def test_tensors_keep_requires_grad_dtype_and_kind():
    model = randomised(next(toy for toy in TOYS if toy.name == "residual").build()).float()
    model.c2.weight.requires_grad_(False)
    graph = trace(model, torch.rand(1, 3, 8, 8))
    apply_plan(model, make_plan(graph, random_drop(graph, 0.5, 0, min_channels=1)))
    assert type(model.c2.weight) is nn.Parameter
    assert type(model.b2.running_mean) is Tensor
    assert (model.c2.weight.requires_grad, model.c3.weight.requires_grad) == (False, True)
    assert model.c2.weight.dtype == torch.float32
    assert len(model.state_dict()) == len(list(model.parameters())) + len(list(model.buffers()))


@torch.no_grad()
def test_shared_parameters_stay_shared():
    layers = {"c1": conv(3, 4), "b1": bn(4), "left": conv(4, 4), "right": conv(4, 4), "b2": bn(4), "head": conv(4, 2)}
    model = Net(lambda n, x: n.head(n.b2(n.left(n.b1(n.c1(x))) + n.right(n.b1(n.c1(x))))), **layers)
    model.right.weight = model.left.weight
    model = randomised(model)
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    graph = trace(model, example)
    dropped = random_drop(graph, 0.5, 0, min_channels=1)
    dense = silenced(model, graph, dropped)
    apply_plan(model, make_plan(graph, dropped))
    assert model.right.weight is model.left.weight
    assert model.right.out_channels == model.left.out_channels == len(model.left.weight)
    assert difference(model(example), dense(example)) < 1e-10


def plan(entries=None, sizes=None, attributes=None) -> PruningPlan:
    return PruningPlan(entries or {}, sizes or {}, attributes or {})


MISFITS = {
    "size": (
        plan({"c2": {"in": [0, 1]}}, {"c2": {"in": 5}}),
        r"c2.weight has shape \(4, 4, 3, 3\).*expects 5 at axis 1",
    ),
    "module": (plan({"c9": {"out": [0]}}, {"c9": {"out": 4}}), "no module 'c9'"),
    "side": (plan({"c2": {"gain.0": [0]}}, {"c2": {"gain.0": 4}}), r"c2.gain has shape \(\)"),
    "no layer": (plan({"": {"out": [0]}}, {"": {"out": 4}}), r"\(Split\) has no side 'out'"),
    "attribute": (plan(attributes={"": {"d": 3}}), "Split.d is None, expected an integer"),
    "list attribute": (plan(attributes={"": {"c.0": 3}}), "Split.c is 4, expected a list"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_plan_that_does_not_fit_touches_nothing(misfit):
    model = Split()
    wrong, message = MISFITS[misfit]
    fitting = plan({"c1": {"out": [0, 1]}}, {"c1": {"out": 8}}, {"": {"c": 1}})
    mixed = PruningPlan(
        {**fitting.entries, **wrong.entries},
        {**fitting.sizes, **wrong.sizes},
        {key: {**fitting.attributes.get(key, {}), **wrong.attributes.get(key, {})} for key in ("",)},
    )
    before = {name: (id(t), t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    with pytest.raises(ValueError, match=message):
        apply_plan(model, mixed)
    after = model.state_dict(keep_vars=True)
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
    assert (model.c, model.c1.out_channels) == (4, 8)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_a_depthwise_transposed_convolution_is_cut_along_its_one_axis(bias):
    up = nn.ConvTranspose2d(6, 6, 2, 2, groups=6, bias=bias)
    layers = {"c": conv(3, 6), "b": bn(6), "up": up, "b2": bn(6), "head": conv(6, 2)}
    model = randomised(Net(lambda n, x: n.head(n.b2(n.up(n.b(n.c(x)))).relu()), **layers))
    x = torch.rand(1, 3, 8, 8).double()
    graph = trace(model, x)
    dropped = random_drop(graph, 0.5, 0, min_channels=1)
    slim = copy.deepcopy(model)
    apply_plan(slim, make_plan(graph, dropped))
    assert (slim.up.in_channels, slim.up.out_channels, slim.up.groups) == (3, 3, 3)
    assert difference(slim(x), silenced(model, graph, dropped)(x)) < 1e-10
    rebuilt = copy.deepcopy(model)
    apply_structure(rebuilt, structure_of(slim))
    rebuilt.load_state_dict(slim.state_dict())
    assert torch.equal(rebuilt(x), slim(x))


@torch.no_grad()
def test_frozen_batch_norm_without_epsilon_is_silenced_without_a_division_by_zero():
    layers = {"c": conv(3, 6), "b": FrozenBatchNorm2d(6, eps=0.0), "head": conv(6, 2)}
    model = randomised(Net(lambda n, x: n.head(n.b(n.c(x)).relu()), **layers))
    x = torch.rand(1, 3, 8, 8).double()
    graph = trace(model, x)
    dropped = torch.zeros(graph.num_groups, dtype=torch.bool)
    dropped[graph.layers["c"][:3]] = True
    slim = copy.deepcopy(model)
    apply_plan(slim, make_plan(graph, dropped))
    assert [tuple(buffer.shape) for buffer in slim.b.buffers()] == [(3,)] * 4
    assert difference(slim(x), silenced(model, graph, dropped)(x)) < 1e-10
