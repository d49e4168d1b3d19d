from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.helpers.pruned import PRUNABLE, random_drop
from tests.helpers.toy_nets import randomised
from tests.helpers.toys import TOYS, Split
from tests.helpers.yolo_nets import yolo, yolo_passes
from yolo_slim.pruning import (
    apply_plan,
    apply_structure,
    make_plan,
    restore_structure,
    store_structure,
    structure_of,
    trace,
)
from yolo_slim.pruning.surgery.checkpoint import STRUCTURE_KEY


def pruned(model, passes, ratio=0.5):
    graph = trace(model, passes=passes)
    apply_plan(model, make_plan(graph, random_drop(graph, ratio, 0, min_channels=1)))
    return model, sorted({f"{a.module}:{a.name}" for a in graph.attributes})


def test_structure_is_plain_data():
    model = Split()
    assert structure_of(model, [":c"]) == {
        "": {"c": 4},
        "c1": {"in_channels": 3, "out_channels": 8, "groups": 1},
        "b1": {"num_features": 8},
        "c2": {"in_channels": 4, "out_channels": 4, "groups": 1},
        "b2": {"num_features": 4},
        "head": {"in_channels": 12, "out_channels": 2, "groups": 1},
    }


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_a_detector_is_rebuilt_from_the_dense_one(ratio):
    dense, passes = yolo(), yolo_passes()
    slim, attributes = pruned(copy.deepcopy(dense), passes, ratio)
    structure = json.loads(json.dumps(structure_of(slim, attributes)))
    dense.model[0].conv.weight.requires_grad_(False)
    apply_structure(dense, structure)
    assert not dense.model[0].conv.weight.requires_grad
    assert dense.model[0].conv.weight.dtype == torch.float64
    dense.load_state_dict(slim.state_dict())
    assert structure_of(dense, attributes) == structure
    for run in passes:  # the exporter's needs C2f.c
        assert all(torch.equal(a, b) for a, b in zip(run(dense), run(slim), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("toy", PRUNABLE, ids=lambda toy: toy.name)
def test_a_toy_is_rebuilt_from_the_dense_one(toy):
    dense, example = randomised(toy.build()), toy.example()
    slim, attributes = pruned(copy.deepcopy(dense), [lambda m: m.eval()(example)])
    apply_structure(dense, structure_of(slim, attributes))
    dense.load_state_dict(slim.state_dict())
    assert torch.equal(dense(example), slim(example))
    assert [str(module) for module in dense.modules()] == [str(module) for module in slim.modules()]


def test_new_layers_are_initialised_and_others_untouched():
    model = Split()
    structure = structure_of(model, [":c"])
    same = dict(model.named_parameters())
    apply_structure(model, structure)
    assert all(parameter is same[name] for name, parameter in model.named_parameters())
    apply_structure(model, {"c1": {"out_channels": 6}, "b1": {"num_features": 6}})
    assert model.c1.weight.shape == (6, 3, 3, 3)
    assert model.c1.weight.std() > 0.05
    assert torch.equal(model.b1.weight, torch.ones(6))
    assert model.c2.weight is same["c2.weight"]


def test_a_structure_may_also_grow():
    model = Split()
    apply_structure(model, {"c2": {"out_channels": 7}, "b2": {"num_features": 7}, "head": {"in_channels": 15}})
    assert model(torch.rand(1, 3, 8, 8)).shape == (1, 2, 8, 8)
    assert (model.c2.weight[-1].std(), model.b2.weight[-1]) > (0.05, 0.9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"c9": {"out_channels": 3}}, "no module 'c9'"),
        ({"b2": {"out_channels": 3}}, "b2.out_channels is 'missing', the structure has 3"),
        ({"c2": {"out_channels": 0}}, "c2 has sizes .*positive integers"),
        ({"c2": {"in_channels": 4, "groups": 3}}, "its groups do not divide"),
        ({"": {"d": 3}}, "d is 'missing', the structure has 3"),
        ({"": {"c": "3"}}, "c is 4, the structure has '3'"),
    ],
)
def test_a_structure_that_does_not_fit_touches_nothing(wrong, message):
    model = Split()
    before = dict(model.named_parameters())
    with pytest.raises(ValueError, match=message):
        apply_structure(model, {"c1": {"out_channels": 2}, **wrong})
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert (model.c, model.c1.out_channels) == (4, 8)


def test_a_foreign_module_is_listed_by_its_shapes():
    model = next(toy for toy in TOYS if toy.name == "scale").build()
    assert structure_of(model)["scale"] == {"factor": [4]}
    apply_structure(model, {"scale": {"factor": [3]}})
    assert torch.equal(model.scale.factor, torch.linspace(0.5, 2, 4)[:3])
    with pytest.raises(ValueError, match=r"scale.factor has shape \(3,\), the structure has \[2, 2\]"):
        apply_structure(model, {"scale": {"factor": [2, 2]}})


def test_an_attribute_that_is_not_there():
    with pytest.raises(ValueError, match="':d' is None"):
        structure_of(Split(), [":d"])


class Module(nn.Module):
    """What the functions for checkpoints need of a LightningModule."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Split()
        self.hparams = {"lr": 0.1}

    def on_save_checkpoint(self, checkpoint) -> None:
        checkpoint["own"] = 1


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_a_checkpoint_carries_the_structure(inner, early):
    slim, loaded = Module(), Module()
    example = torch.rand(1, 3, 8, 8)
    small = slim.net if inner else slim
    _, attributes = pruned(small, [(lambda m: m.eval()(example)) if inner else (lambda m: m.eval().net(example))])
    store_structure(slim, structure_of(small, attributes))
    checkpoint = {"hyper_parameters": dict(slim.hparams), "state_dict": slim.state_dict()}
    if early:  # among the arguments of __init__, as it once was
        checkpoint["hyper_parameters"]["structure"] = slim.slim_structure
    else:
        slim.on_save_checkpoint(checkpoint)
        assert checkpoint["own"] == 1
        assert "structure" not in checkpoint["hyper_parameters"]
    restore_structure(loaded, checkpoint, loaded.net if inner else None)
    loaded.load_state_dict(checkpoint["state_dict"])
    assert loaded.hparams == slim.hparams == {"lr": 0.1}
    assert loaded.slim_structure == slim.slim_structure
    assert torch.equal(loaded.net.eval()(example), slim.net.eval()(example))


@pytest.mark.parametrize("checkpoint", [{}, {"hyper_parameters": None}, {"hyper_parameters": {"lr": 0.1}}])
def test_a_checkpoint_without_a_structure_changes_nothing(checkpoint):
    module = Module()
    before = structure_of(module)
    restore_structure(module, checkpoint)
    assert structure_of(module) == before
    assert module.hparams == {"lr": 0.1}


def test_a_structure_needs_a_hook_to_be_saved_by():
    with pytest.raises(ValueError, match="SimpleNamespace has no on_save_checkpoint"):
        store_structure(SimpleNamespace(), {})


def test_a_copy_saves_its_own_structure():
    module = Module()
    store_structure(module, structure_of(module))
    twin = copy.deepcopy(module)
    twin.slim_structure = {"net": {}}
    checkpoint = {}
    twin.on_save_checkpoint(checkpoint)
    assert checkpoint[STRUCTURE_KEY] == {"net": {}}
