"""Sparse training on two processes does what it does on one, whatever DDP is asked for; a toy, so that all are tried.

Each step sees the same images however they are split, and the data's gradient of the gammas is as large as the penalty.
"""

from __future__ import annotations

import sys
from functools import cache

import pytest
import torch

from tests.helpers.ddp import variants as ddp_variants
from tests.helpers.ddp.launch import ROOT, Process, free_port, run_together
from tests.helpers.ddp.variants import CONTROLS, PENALTIES, WAYS

pytestmark = pytest.mark.filterwarnings("ignore:GammaSparsity")
ROUNDING = 2e-6
#: Every rank normalises its share of a batch by itself, so that one process is no reference.
SPLIT_MATTERS = {"batch statistics"}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What the two processes hold after every fit."""
    out = tmp_path_factory.mktemp("variants")
    command = [sys.executable, "-m", "tests.helpers.ddp.variants", str(out)]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    run_together([Process(command, ROOT, out / f"{rank}.log", LOCAL_RANK=str(rank), **where) for rank in range(2)])
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


@cache
def one_process(penalty: str, **settings) -> dict:
    return ddp_variants.fit(1, penalty, **settings)


def reference(penalty: str, way: dict) -> dict:
    """The same fit on this process alone."""
    return one_process(penalty, **{k: v for k, v in way.items() if k in ("optimizer", "unused", "average")})


def difference(one: dict, other: dict) -> float:
    return max((one["parameters"][k] - other["parameters"][k]).abs().max().item() for k in one["parameters"])


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(one["parameters"][k], other["parameters"][k]) for k in one["parameters"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_ranks_are_bitwise_equal_and_follow_one_process(ranks, penalty, way):
    first, second = (rank[f"{penalty}, {way}"] for rank in ranks)
    assert equal(first, second)
    assert first["steps"] == ddp_variants.STEPS * ddp_variants.EPOCHS
    if way not in SPLIT_MATTERS:
        single = reference(penalty, WAYS[way])
        assert single["steps"] == first["steps"]
        assert (first["gammas"] - single["gammas"]).abs().max() < ROUNDING
        assert difference(first, single) < ROUNDING


@pytest.mark.parametrize(("penalty", "least"), [("proximal", 3), ("growing", 20)])
def test_exact_zeros_are_the_same_channels(ranks, penalty, least):
    zeros = [result["gammas"] == 0 for result in (*(r[f"{penalty}, plain"] for r in ranks), reference(penalty, {}))]
    assert zeros[0].sum() >= least
    assert torch.equal(zeros[0], zeros[1])
    assert torch.equal(zeros[0], zeros[2])


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_penalty_moves_gammas_and_so_does_the_data(ranks, penalty):
    """Else two processes and one would agree for want of a difference."""
    penalised, plain = ranks[0][f"{penalty}, plain"], ranks[0]["control, none"]
    assert (penalised["gammas"] - plain["gammas"]).abs().max() > 1000 * ROUNDING
    assert penalised["gammas"].abs().sum() < plain["gammas"].abs().sum()
    assert (plain["gammas"] - plain["before"]).abs().max() > 1000 * ROUNDING
    assert plain["data gradient"] > ddp_variants.STRENGTH


def test_other_weights_at_first_are_those_of_rank_0(ranks):
    first, second = (rank["subgradient, other weights at first"] for rank in ranks)
    assert not torch.equal(first["before"], second["before"])
    assert torch.equal(first["gammas"], second["gammas"])


@pytest.mark.parametrize("control", CONTROLS)
def test_a_wrong_penalty_would_be_seen(ranks, control):
    """The tests above fail for a penalty on one rank only, one per backward, equal images on both ranks, or none."""
    single = reference("subgradient", {})
    first, second = (rank[f"control, {control}"] for rank in ranks)
    assert equal(first, second) == (control != "on one rank")
    off = max((rank["gammas"] - single["gammas"]).abs().max() for rank in (first, second))
    assert off > 1000 * ROUNDING


def test_a_prune_to_milliseconds_is_that_of_rank_0(ranks):
    """The second process measures twice the time of the first, and would drop more in both phases."""
    first, second = (rank["prune to milliseconds"] for rank in ranks)
    assert 0.7 * first["limit"] < first["latency_ms"] <= first["limit"]
    assert first["threshold"] == second["threshold"] == 0
    assert first["share"] < 1
    assert equal(first, second)
    assert first["structure"] == second["structure"] != {}
