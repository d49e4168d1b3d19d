from __future__ import annotations

import pytest
import torch

from tests.pruning.test_plan import toy
from yolo_slim.pruning import gamma_importance, reduce_to_groups


def test_the_score_of_a_group_is_the_mean_of_its_gammas():
    model, graph = toy("residual")
    model.b1.weight.data = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64)
    model.b3.weight.data = torch.tensor([3.0, 2.0, -5.0, 0.0], dtype=torch.float64)
    scores = gamma_importance(model, graph)
    assert scores.dtype == torch.float64
    assert scores[graph.gammas["b1"]].tolist() == [2.0, 2.0, 4.0, 2.0]
    assert torch.equal(scores[graph.gammas["b2"]], model.b2.weight.abs())
    members = torch.cat(list(graph.gammas.values())).unique()
    assert int(scores.isinf().sum()) == graph.num_groups - len(members)


def test_channels_of_one_layer_in_the_same_group_all_count():
    _, graph = toy("grouped")  # b1 is abab
    values = {"b1": torch.tensor([1.0, 2.0, 5.0, 8.0])}
    assert reduce_to_groups(graph, values)[graph.gammas["b1"]].tolist() == [3.0, 5.0, 3.0, 5.0]
    assert reduce_to_groups(graph, values, "sum")[graph.gammas["b1"]].tolist() == [6.0, 10.0, 6.0, 10.0]
    assert reduce_to_groups(graph, values)[graph.gammas["b2"]].isinf().all()


def test_bad_values():
    _, graph = toy("plain")
    with pytest.raises(ValueError, match="'c1' is no BatchNorm layer of the graph; its layers are b1, b2"):
        reduce_to_groups(graph, {"c1": torch.ones(4)})
    with pytest.raises(ValueError, match=r"b1: got values of shape \(5,\) for 4 gammas"):
        reduce_to_groups(graph, {"b1": torch.ones(5)})
    with pytest.raises(ValueError, match="reduction='max'"):
        reduce_to_groups(graph, {}, "max")
