from __future__ import annotations

import re

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.callbacks.target import Target, make_selection
from yolo_slim.pruning import Selection


class LikeADetector(ToyClassifier):
    """Wants labels in train mode and returns as many rows as it finds in eval mode, as torchvision's detectors do."""

    def forward(self, images, labels=None):
        logits = super().forward(images)
        if not self.training:
            return logits[logits > logits.median()]
        if labels is None:
            raise AssertionError("labels should not be none")
        return nn.functional.cross_entropy(logits, labels)

    def training_step(self, batch, batch_idx):
        return self(*batch)


class Raw(LikeADetector):
    def pruning_forward(self, images, labels=None):
        return ToyClassifier.forward(self, images)


def test_a_module_that_needs_labels_is_told_what_to_offer():
    with pytest.raises(MisconfigurationException, match="labels should not be none.*pruning_forward"):
        _ = Target(LikeADetector()).graph


def test_raw_outputs_that_cannot_be_had_are_reported():
    module = Raw()
    module.example_input_array = ([torch.rand(3, 8, 8)],)
    with pytest.raises(MisconfigurationException, match="Raw could not be traced with its example_input_array"):
        _ = Target(module).graph


@pytest.mark.parametrize("compensation", ["none", "fold", "exact"])
def test_raw_outputs_are_traced_compensated_and_compared(tmp_path, compensation):
    module = Raw(momentum=0.9)
    callbacks = [
        WeightEMA(),
        GammaSparsity(penalty="growing", ratio=0.5, min_channels=2),
        ChannelPruning(ratio=0.5, min_channels=2, compensation=compensation),
    ]
    toy_trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(module, toy_loader())
    assert callbacks[-1].report.reached == pytest.approx(0.5, abs=0.05)
    assert callbacks[-1].report.error < 1e-5
    assert callbacks[-1].report.compensation is None or not callbacks[-1].report.compensation.uncompensated
    assert "forward" not in vars(module)
    assert module.eval()(torch.rand(2, 3, 8, 8)).shape == (4,)


def test_the_raw_graph_is_that_of_the_network():
    raw, plain = (Target(module).graph.prunable_gammas() for module in (Raw(), ToyClassifier()))
    assert [(g.module, g.prunable.tolist()) for g in raw] == [(g.module, g.prunable.tolist()) for g in plain]


def test_a_target_has_raw_outputs_of_its_own():
    class Project(ToyClassifier):
        def __init__(self):
            super().__init__()
            self.detector = Raw()

    graph = Target(Project(), "detector").graph
    assert [g.module for g in graph.prunable_gammas()] == ["stem.1", "branch.1", "tail.1"]
    project = Project()
    project.detector = LikeADetector()
    with pytest.raises(MisconfigurationException, match="pruning_forward"):
        _ = Target(project, "detector").graph


@pytest.mark.parametrize("callback", [GammaSparsity, ChannelPruning])
@pytest.mark.parametrize(
    "argument", [{"ratio": 0.3}, {"min_channels": 8}, {"shortcuts": "couple"}, {"ignore": ["head"]}, {"ignore": []}]
)
def test_a_selection_beside_what_it_replaces_is_refused(callback, argument):
    ((name, value),) = argument.items()
    with pytest.raises(MisconfigurationException, match=re.escape(f"{name}={value!r} beside selection=Selection(")):
        callback(selection=Selection(0.5), **argument)
    assert callback(**argument).selection == make_selection(None, **{**NOTHING, **argument})
    assert callback(selection=Selection(0.5, min_channels=3)).selection == Selection(0.5, min_channels=3)
    assert callback().selection == Selection()


@pytest.mark.parametrize("callback", [GammaSparsity, ChannelPruning])
def test_the_configuration_of_an_earlier_fit_starts_again(callback):
    """Version 0.1.0 wrote its defaults beside a selection."""
    defaults = {"ratio": 0.5, "min_channels": 8, "shortcuts": "couple", "ignore": []}
    assert callback(selection=Selection(0.7), **defaults).selection == Selection(0.7)
    with pytest.raises(MisconfigurationException, match="beside selection"):
        callback(selection=Selection(0.7), **{**defaults, "ratio": 0.4})


NOTHING = {"ratio": None, "min_channels": None, "shortcuts": None, "ignore": None}
