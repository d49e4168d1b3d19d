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
        ({"round_to": 0}, "round_to=0: expected 'auto' or a number of at least 1"),
        ({"round_to": "8"}, "round_to='8': expected 'auto'"),
        ({"max_flops": "half"}, "max_flops='half': expected a number above 0, or a share of the model as it is"),
        ({"max_flops": "120%"}, "max_flops='120%'"),
        ({"max_flops": 0.5}, "max_flops=0.5 is less than one; a share is written 50%"),
        ({"max_params": "0.25"}, "max_params=0.25 is less than one; a share is written 25%"),
        ({"max_params": "0%"}, "max_params='0%'"),
        ({"max_latency": "60"}, "max_latency='60': expected a share of the model as it is, e.g. 60%, or e.g. 8ms"),
        ({"max_latency": "-1ms"}, "max_latency='-1'"),
        ({"max_latency": "60%", "max_latency_ms": 3.0}, "max_latency=60% beside max_latency_ms=3.0: give one"),
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
    scaled = selection.scaled(0.25, dense)
    assert (scaled.max_params, scaled.max_flops) == (250.0, 1e9)
    assert selection.scaled(1.0, dense).limits == selection.limits


def test_shares_become_numbers_and_come_nearer():
    selection = Selection(max_params="50 %", max_flops="2.5e9", max_latency="60%")
    assert (selection.max_params, selection.max_flops, selection.max_latency) == ("50%", 2.5e9, "60%")
    dense = {"max_params": 200.0, "max_flops": 5e9, "max_latency_ms": 10.0}
    numbers = selection.in_numbers(dense)
    assert (numbers.max_params, numbers.max_latency_ms, numbers.max_latency) == (100.0, 6.0, None)
    assert selection.scaled(0.5, dense).max_params == 150.0
    assert Selection(max_latency="8ms") == Selection(max_latency_ms=8.0)
    with pytest.raises(ValueError, match="60% of a cost needs the cost of the model"):
        selection.in_numbers({"max_params": 200.0})


def test_what_widths_a_layer_may_keep():
    auto = Selection().widths
    assert [widths.multiple for widths in auto] == [16, 8, 1]
    kept = (1, 8, 9, 16, 17, 33)
    assert [auto[0].rounded(n, 40) for n in kept] == [16, 16, 16, 16, 32, 40]
    assert [auto[0].rounded(n, 15) for n in kept[:3]] == [1, 8, 9]
    assert [auto[1].rounded(n, 40) for n in kept] == [8, 8, 16, 16, 24, 40]
    (fours,) = Selection(round_to=4).widths
    assert [fours.rounded(n, 34) for n in kept] == [4, 8, 12, 16, 20, 34]


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        (Selection(0.25), "25.0% of the channels"),
        (Selection(0.25, scope="local", ratios={"a.*": 0}), "25.0% of the channels of every layer, 0.0% in a.*"),
        (Selection(max_params=1.5e6, max_flops=2e9), "at most 1,500,000 parameters and 2,000,000,000 FLOPs"),
        (Selection(max_latency_ms=2.5, scope="local"), "at most 2.5 ms at one ratio for every layer"),
        (Selection(max_flops="50%", max_latency="60%"), "at most 50% of the FLOPs and 60% of the latency"),
    ],
)
def test_what_is_asked_in_words(selection, text):
    assert str(selection) == text
