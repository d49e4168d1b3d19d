"""Contracts: what the engine takes from torch without a promise. A failing test says what breaks with this torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from yolo_slim.pruning.modules import torch_private as private


def test_base_classes_of_layers_are_those_of_all_dimensions():
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(issubclass(kind, private.BatchNorm) for kind in norms)
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    assert all(issubclass(kind, private.Convolution) for kind in convolutions)
    assert [issubclass(kind, private.TransposedConvolution) for kind in convolutions] == [False] * 3 + [True] * 3
    assert not issubclass(nn.InstanceNorm2d, private.BatchNorm)


def test_foreach_functions_do_what_their_names_say():
    first, second = [torch.tensor([1.0, -2.0]), torch.tensor([3.0])], [torch.tensor([2.0, 2.0]), torch.tensor([-1.0])]
    assert [t.tolist() for t in private.foreach_sign(first)] == [[1.0, -1.0], [1.0]]
    assert [t.tolist() for t in private.foreach_mul(first, second)] == [[2.0, -4.0], [-3.0]]
    limited = list(private.foreach_clamp_max(first, 2.0))
    private.foreach_clamp_min_(limited, -1.0)
    assert [t.tolist() for t in limited] == [[1.0, -1.0], [2.0]]
    changed = copy.deepcopy(first)
    private.foreach_add_(changed, second, alpha=10)
    private.foreach_sub_(changed, second)
    private.foreach_mul_(changed, second)
    assert [t.tolist() for t in changed] == [[38.0, 32.0], [6.0]]


def test_a_dispatch_mode_sees_every_operation_unless_it_is_hidden():
    seen = []

    class Watch(private.DispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.rand(2, 3)
    with Watch():
        x.relu()
        with private.unhidden():
            x.sigmoid()
    assert seen == ["aten.relu.default"]


def test_tensors_under_transforms_are_known_and_unwrapped():
    found = []

    def look(row):
        found.append((private.is_transformed(row), private.untransformed(row).shape))
        return row

    x = torch.rand(2, 3)
    torch.vmap(look)(x)
    assert found == [(True, x.shape)]
    assert not private.is_transformed(x)
    assert private.untransformed(x) is x


def test_overloads_are_told_from_functions():
    assert private.is_overload(torch.ops.aten.add.Tensor)
    assert private.is_overload(torch.ops.aten.add)
    assert not private.is_overload(torch.add)


def test_the_innermost_running_module_is_found_on_the_stack():
    found = []

    class Inner(nn.Module):
        def forward(self, x):
            found.append(private.running_module(names))
            return helper(x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            found.append(private.running_module(names))
            return self.inner(x)

    def helper(x):
        found.append(private.running_module(names))
        return x

    outer = Outer()
    names = {module: name for name, module in outer.named_modules()}
    outer(torch.rand(1))
    assert found == ["", "inner", "inner"]
    assert private.running_module(names) == ""
    assert private.running_module({}) == ""


def test_what_is_put_into_the_tables_of_a_module_it_has():
    norm = nn.BatchNorm2d(3)
    parameters, buffers = private.tensor_tables(norm)
    assert parameters.keys() == {"weight", "bias"}
    assert buffers.keys() == {"running_mean", "running_var", "num_batches_tracked"}
    parameters["weight"] = nn.Parameter(torch.zeros(2))
    buffers["running_mean"] = torch.ones(2)
    assert norm.weight.shape == norm.running_mean.shape == (2,)
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]


def test_the_memory_of_tensors_is_told_apart_and_expires():
    first, second = torch.rand(3), torch.rand(3)
    reference = private.StorageWeakRef(first.untyped_storage())
    assert reference == private.StorageWeakRef(first[:2].untyped_storage())
    assert reference != private.StorageWeakRef(second.untyped_storage())
    assert not reference.expired()
    del first
    assert reference.expired()


def test_nests_are_mapped():
    nest = {"a": [torch.ones(1), 2], "b": (torch.ones(2),)}
    doubled = private.tree_map_only(torch.Tensor, lambda t: 2 * t, nest)
    assert doubled["a"][0].item() == 2
    assert doubled["a"][1] == 2
    assert doubled["b"][0].tolist() == [2, 2]


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_fused_optimizers_say_that_they_divide_and_can_be_told_not_to(kind):
    parameter = nn.Parameter(torch.zeros(2))
    fused, plain = kind([parameter], lr=0.1, fused=True), kind([parameter], lr=0.1)
    name = private._DIVIDES_BY_SCALE
    assert getattr(fused, name, False), "a GradScaler would not let a fused optimizer divide"
    assert not getattr(plain, name, False)
    for optimizer in (fused, plain):
        private.unscale_before_step(optimizer)
        assert not getattr(optimizer, name, False)
