from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from benchmarks import architectures, checks
from benchmarks.zoo import ULTRALYTICS, Model, raw
from yolo_slim.pruning import trace
from yolo_slim.pruning.graph.tracing import default_passes

#: BatchNorm channels that may be pruned, of all: a change that fixes more of a model shows here.
PRUNABLE = {
    "yolov3-tiny": (4464, 4464),
    "yolov5n": (5616, 5616),
    "yolov6n": (4688, 4688),
    "yolov8n": (5296, 5296),
    "yolov8n-ghost": (4984, 4984),
    "yolov8n-seg": (5616, 5648),
    "yolov8n-pose": (5506, 5506),
    "yolov8n-obb": (5392, 5392),
    "yolov8n-cls": (3408, 3408),
    "yolov9t": (7984, 7984),
    "yolov9e": (50688, 50688),
    "yolov10n": (10352, 10352),
    "yolo11n": (7832, 7832),
    "yolo12n": (8392, 11464),
    "yolo26n": (9784, 9784),
}
BY_NAME = {entry.name: entry for entry in ULTRALYTICS}


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo11n-cls"])
def test_architectures_of_every_kind_of_output(name):
    row = architectures.examine(BY_NAME[name], ratios=(0.5,))
    assert row.good, row
    assert row.gammas == PRUNABLE.get(name, row.gammas)
    assert row.parameters_after < 0.5 * row.parameters
    assert row.gflops_after < 0.5 * row.gflops


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_architecture(name):
    row = architectures.examine(BY_NAME[name])
    assert row.good, row
    assert row.gammas == PRUNABLE.get(name, row.gammas)
    assert row.parameters_after < 0.6 * row.parameters


def test_raw_outputs_are_neither_decoded_nor_feature_maps():
    decoded, boxes, features = torch.zeros(1), torch.ones(1), torch.ones(2)
    heads = {"one2many": {"boxes": boxes, "feats": features}, "one2one": {"boxes": boxes}}
    expected = {"one2many": {"boxes": boxes}, "one2one": {"boxes": boxes}}
    assert raw((decoded, heads), training=False) == expected
    assert raw(heads, training=True) == expected
    assert raw((decoded, boxes), training=False) is boxes
    assert raw((decoded, boxes), training=True) == (decoded, boxes)  # two outputs of one rank in training


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.SiLU(), nn.Conv2d(12, 4, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def small(build=Small) -> Model:
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    return Model("small", build, lambda *_: default_passes(images), 8, "toys")


def test_a_model_that_fails_becomes_a_row(tmp_path, monkeypatch):
    def broken() -> nn.Module:
        raise RuntimeError("no | weights\nsecond line")

    monkeypatch.setattr(architectures, "architectures", lambda: [small(), small(broken)])
    page = tmp_path / "page.md"
    assert architectures.main(["--output", str(page)]) == 1
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| small")]
    assert [row.split(" | ")[3] for row in rows[:1]] == ["12 / 12"]
    assert rows[1] == "| small | **failed**: RuntimeError: no / weights | | | | | | |"
    with pytest.raises(SystemExit):
        architectures.main(["--only", "large"])


def pieces():
    torch.manual_seed(0)
    entry = small()
    model = entry.build()
    passes = entry.passes(model, 8, torch.float64)
    checks.randomised(model, passes)
    graph = trace(model, passes=passes)
    return model, graph, checks.random_drop(graph, 0.3, 1)


def test_the_checks_see_a_wrong_channel():
    model, graph, dropped = pieces()
    slim = checks.pruned(model, graph, dropped)
    assert checks.error_of(model, slim, graph, dropped) < 1e-14
    wrong = dropped.clone()
    wrong[dropped.nonzero()[0]] = False
    wrong[(~dropped & ~graph.fixed).nonzero()[0]] = True
    assert checks.error_of(model, checks.pruned(model, graph, wrong), graph, dropped) > 1e-3


def test_the_checks_see_outputs_that_are_constant():
    model, graph, dropped = pieces()
    checks.changes_with_the_first_layer(model, graph, dropped)
    with torch.no_grad():
        model.layers[3].weight.zero_()
    with pytest.raises(AssertionError, match="when the first layer does"):
        checks.changes_with_the_first_layer(model, graph, dropped)


def test_the_checks_see_what_does_not_train():
    model, graph, dropped = pieces()
    slim = checks.pruned(model, graph, dropped)

    def loss(model: nn.Module, size: int) -> Tensor:
        return model.train()(torch.rand(2, 3, size, size)).square().sum()

    checks.trains(loss, model, slim, 8)
    frozen = copy.deepcopy(slim)
    frozen.layers[0].weight.requires_grad_(False)
    with pytest.raises(AssertionError, match="1 parameters get a gradient in one model only"):
        checks.trains(loss, model, frozen, 8)
    with pytest.raises(AssertionError, match="is not finite"):
        checks.trains(lambda model, size: loss(model, size) * float("inf"), model, slim, 8)


def test_randomised_models_hide_nothing():
    model, _, _ = pieces()
    assert all(float(p.std()) > 0.05 for p in model.parameters())
    outputs = model(torch.rand(1, 3, 8, 8, dtype=torch.float64))
    assert 0.1 < float(outputs.std()) < 10
