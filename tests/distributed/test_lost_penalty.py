"""Why sparse training on several GPUs can have no effect, and that here it has one."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.ddp.lost import HandMade


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    trainer = HandMade(tmp_path_factory.mktemp("lost"), processes=2)
    trainer.penalty = 0.05
    return trainer.fit()


def one_process(tmp_path, penalty: float) -> torch.Tensor:
    trainer = HandMade(tmp_path, processes=1)
    trainer.penalty = penalty
    return trainer.fit()[0]["attribute"]


def test_a_penalty_in_the_parent_process_alone_is_lost(ranks, tmp_path):
    """It works on one process. On two, the gammas are those of a training without a penalty."""
    without, with_penalty = one_process(tmp_path, 0.0), one_process(tmp_path, 0.05)
    assert (with_penalty - without).abs().max() > 5e-3
    for rank in ranks:
        assert (rank["attribute"] - without).abs().max() < 1e-6


def test_the_callback_is_part_of_what_each_process_builds(ranks):
    """Started in the same way, by the same processes."""
    assert torch.equal(ranks[0]["callback"], ranks[1]["callback"])
    for rank in ranks:
        assert (rank["callback"] - rank["none"]).abs().max() > 5e-3
        assert rank["callback"].abs().sum() < rank["none"].abs().sum() - 0.1
