from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.pruned import compensated, drop_some, images
from tests.helpers.toy_nets import Net, bn, conv, out, randomised
from tests.helpers.toys import TOYS
from yolo_slim.pruning import trace
from yolo_slim.pruning.graph.axes import leaves
from yolo_slim.pruning.repair.compensate import compensate
from yolo_slim.pruning.repair.dead_inputs import find_dead_inputs, leave_constants


def test_the_gammas_alone_become_zero():
    model = randomised(next(toy for toy in TOYS if toy.name == "plain").build())
    graph = trace(model, images())
    before = copy.deepcopy(model.state_dict())
    leave_constants(model, graph, drop_some(graph, {"b1": [1], "b2": [0, 4]}))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"b1.weight", "b2.weight"}
    assert [(model.b1.weight == 0).nonzero().flatten().tolist(), (model.b2.weight == 0).sum()] == [[1], 2]


@torch.no_grad()
def test_the_constants_are_what_the_layers_read():
    model = randomised(next(toy for toy in TOYS if toy.name == "plain").build())
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [1], "b2": [0, 4]})
    (first, second), why = find_dead_inputs(model, graph, dropped, graph.passes[0])
    assert (first.name, second.name, dict(why)) == ("c2", "head", {})
    torch.testing.assert_close(first.constants[0], model.b1.bias * dropped[graph.gammas["b1"]])
    torch.testing.assert_close(second.constants[0], F.silu(model.b2.bias) * dropped[graph.gammas["b2"]])
    assert (first.norms, second.norms) == ([model.b2], [])


def small_net(read: str) -> Net:
    """A convolution without bias, ``raw``, whose output is read by a BatchNorm layer and by others as well."""

    def run(n: Net, x: Tensor) -> Tensor:
        a = F.relu(n.b1(n.c1(x)) + 2)
        y = n.raw(F.relu(n.b1(n.c1(x))))
        z = n.b2(y)
        if read == "sum":
            z = z + y
        elif read == "hidden":
            z = z + _scripted(y)
        elif read == "in place":
            z = n.b2(n.raw(F.relu(n.b1(n.c1(x)))).mul_(2))
        elif read == "two norms":
            z = z * n.b3(y)
        elif read == "two calls, two norms":
            z = z + n.b3(n.raw(F.relu(n.b1(n.c1(x)))))
        elif read == "one norm for two":
            z = z + n.b2(a)
        z = n.head(F.relu(z))
        return (z, y) if read == "output" else z

    layers = {"c1": conv(3, 4), "b1": bn(4), "raw": conv(4, 4, 1), "b2": bn(4), "b3": bn(4), "head": out(4)}
    return randomised(Net(run, **layers))


@torch.jit.script
def _scripted(x):
    return torch.relu(x)


@torch.no_grad()
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("read", "provable"),
    [
        ("norm", True),
        ("two calls, two norms", True),
        ("sum", False),
        ("hidden", False),
        ("in place", False),
        ("two norms", False),
        ("output", False),
        ("one norm for two", False),
    ],
)
def test_a_running_mean_takes_a_constant_only_if_nothing_else_reads_the_convolution(read, provable, exact):
    model = small_net(read)
    graph = trace(model, images())
    model.b1.bias.fill_(0.5)
    dropped = drop_some(graph, {"b1": [1, 2]})
    dense, slim, found = compensated(model, graph, dropped, exact=exact)
    x = images()
    error = max(float((a - b).abs().max()) for a, b in zip(leaves(slim(x)), leaves(dense(x)), strict=True))
    assert ("raw" in found.folded) == provable
    assert ("raw" in found.merged) == (exact and not provable)
    assert found.uncompensated.keys() == (set() if exact or provable else {"raw"})
    assert (error < 1e-10) == (exact or provable)


@pytest.mark.parametrize("why", ["training", "no statistics"])
def test_a_norm_without_a_running_mean_in_use_takes_nothing(why):
    def run(model: nn.Module) -> Tensor:
        model.eval()
        if why == "training":
            model.b2.train()
        return model(images())

    model = small_net("norm")
    if why == "no statistics":
        model.b2 = nn.BatchNorm2d(4, track_running_stats=False).double()
    graph = trace(model, images())
    model.b1.bias.data.fill_(0.5)
    found = compensate(model, graph, drop_some(graph, {"b1": [1]}), run)
    assert (found.folded, list(found.uncompensated)) == ([], ["raw"])


def test_what_varies_is_named_and_the_rest_compensated():
    def run(n: Net, x: Tensor) -> Tensor:
        a, b = F.relu(n.b1(n.c1(x))), F.relu(n.b2(n.c2(x)))
        return n.head(
            torch.cat([a * a.mean((2, 3), keepdim=True).sigmoid(), F.pad(b[..., 1:-1, 1:-1], (1, 1, 1, 1))], 1)
        )

    layers = {"c1": conv(3, 4), "b1": bn(4), "c2": conv(3, 4), "b2": bn(4), "head": out(8)}
    model = randomised(Net(run, **layers))
    graph = trace(model, images(1, 3, 9, 9))
    model.b1.bias.data.fill_(0.5)
    model.b2.bias.data.fill_(0.5)
    found = compensate(model, graph, drop_some(graph, {"b1": [0], "b2": [1, 2]}))
    assert found.uncompensated == {
        "head": "2 of its 3 dropped input channels vary with the position, the input or the call"
    }
    assert found.folded == ["head"]


def test_a_gate_is_seen_to_vary_though_the_pass_has_one_input():
    torch.manual_seed(0)
    toy = next(toy for toy in TOYS if toy.name == "gate")
    model = randomised(toy.build())
    graph = trace(model, images(1, 3, 8, 8))
    model.b1.bias.data.fill_(0.5)
    found = compensate(model, graph, drop_some(graph, {"b1": [0]}))
    assert list(found.uncompensated) == ["head"]
    assert found.uncompensated["head"].startswith("1 of its 1 dropped")


def test_calls_with_other_constants_and_shared_parameters_are_named():
    toy = next(toy for toy in TOYS if toy.name == "shared")
    model = randomised(toy.build())
    graph = trace(model, images())
    dropped = drop_some(graph, {"b1": [0]})
    model.b1.bias.data[0], model.b2.bias.data[0] = 1, 2
    found = compensate(copy.deepcopy(model), graph, dropped)
    assert found.uncompensated.keys() == {"both.0"}
    model.b2.bias.data[0] = 1
    assert compensate(model, graph, dropped).folded == ["both.0"]

    layers = {"c1": conv(3, 4), "b1": bn(4), "left": conv(4, 4), "right": conv(4, 4), "b2": bn(4), "head": out(4)}
    model = Net(lambda n, x: n.head(n.b2(n.left(n.b1(n.c1(x))) + n.right(n.b1(n.c1(x))))), **layers)
    model.right.weight = model.left.weight
    model = randomised(model)
    graph = trace(model, images())
    found = compensate(model, graph, drop_some(graph, {"b1": [0]}))
    assert found.uncompensated == dict.fromkeys(("left", "right"), "shares its parameters with another layer")


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_layers_of_other_classes_and_layers_that_do_not_run_are_named():
    def run(n: Net, x: Tensor) -> Tensor:
        x = F.relu(n.b1(n.c1(x)))
        own = F.conv2d(x, n.weight) + n.doubled(x)
        return n.head(own + n.extra(x)) if n.training else n.head(own)

    model = Net(run, c1=conv(3, 4), b1=bn(4), doubled=Doubled(4, 4, 1), extra=nn.Conv2d(4, 4, 1), head=out(4))
    model.weight = nn.Parameter(torch.rand(4, 4, 1, 1))
    model = randomised(model)
    graph = trace(model, images())
    model.b1.bias.data.fill_(0.5)
    found = compensate(model, graph, drop_some(graph, {"b1": [0]}))
    assert found.uncompensated == {
        "": "Net uses weight in a way of its own",
        "doubled": "Doubled uses weight in a way of its own",
        "extra": "is not run by the pass",
    }
