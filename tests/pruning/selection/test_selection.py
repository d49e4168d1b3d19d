from __future__ import annotations

import pytest

from yolo_slim.pruning import Selection


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": 1.0}, r"ratio=1.0: expected a fraction in \[0, 1\)"),
        ({"ratio": -0.1}, "ratio=-0.1"),
        ({"ratio": float("nan")}, "ratio=nan"),
        ({"min_channels": 0}, "min_channels=0: expected at least 1"),
        ({"shortcuts": "keep"}, "shortcuts='keep'"),
        ({"ignore": "model.22"}, "expected a list of patterns"),
        ({"ratios": {"a": 0.5, "b": 1.0}}, r"ratios: 'b' has 1.0, expected a fraction in \[0, 1\)"),
        ({"ratios": [("a", -0.1)]}, "ratios: 'a' has -0.1"),
        ({"max_params": 0}, "max_params=0: expected a number above 0"),
        ({"max_flops": -1e6}, "max_flops=-1000000.0"),
        ({"max_latency_ms": float("nan")}, "max_latency_ms=nan"),
        ({"scope": "layer"}, "scope='layer': expected 'global' or 'local'"),
        ({"per": "flop"}, "per='flop': expected 'channel' or 'flops' or 'params'"),
        ({"round_to": 0}, "round_to=0: expected at least 1"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Selection(**values)


def test_ratios_are_a_mapping_or_pairs():
    assert Selection(ratios={"a": 0.1, "b": 0}).ratio_list == [("a", 0.1), ("b", 0)]
    assert Selection(ratios=[("a", 0.1), ("a", 0)]).ratio_list == [("a", 0.1), ("a", 0)]
    assert Selection().ratio_list == []


def test_all_ratios_scale():
    scaled = Selection(0.4, ratios={"a": 0.8}, min_channels=3).scaled(0.5)
    assert (scaled.ratio, scaled.ratio_list, scaled.min_channels) == (0.2, [("a", 0.4)], 3)


def test_budgets_come_nearer_from_what_the_dense_model_costs():
    selection, dense = Selection(max_params=100, max_flops=1e9), {"max_params": 300, "max_flops": 5e8}
    assert selection.scaled(0.25, dense).budgets == {"max_params": 250.0, "max_flops": 1e9}
    assert selection.scaled(1.0, dense).budgets == selection.budgets


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        (Selection(0.25), "25.0% of the channels"),
        (Selection(0.25, scope="local", ratios={"a.*": 0}), "25.0% of the channels of every layer, 0.0% in a.*"),
        (Selection(max_params=1.5e6, max_flops=2e9), "at most 1,500,000 parameters and 2,000,000,000 FLOPs"),
        (Selection(max_latency_ms=2.5, scope="local"), "at most 2.5 ms at one ratio for every layer"),
    ],
)
def test_what_is_asked_in_words(selection, text):
    assert str(selection) == text
