from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest

from yolo_slim.detection.data.epochs import EpochSampler, LateLoader, SeededDataset


class Draws:
    """Stands for a data set: each item is what the two generators give."""

    transforms = ()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, float, float]:
        if index == 7:
            raise OSError("gone")
        return index, random.random(), float(np.random.rand())


def seeded(seed: int = 0, epoch: int = 0) -> Any:
    dataset = SeededDataset(Draws(), seed)  # type: ignore[arg-type]
    dataset.epoch = epoch
    return dataset


def test_an_item_depends_on_seed_epoch_and_index() -> None:
    assert seeded(1, 2)[3] == seeded(1, 2)[3]
    assert len({seeded(*key)[index][1:] for key in ((1, 2), (2, 1), (1, 1)) for index in (3, 4)}) == 6


@pytest.mark.parametrize("index", [0, 7])
def test_generators_come_back_also_after_an_error(index: int) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    try:
        seeded()[index]
    except OSError:
        assert index == 7
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_order_is_new_each_epoch_and_shared_by_the_processes() -> None:
    def order(epoch: int, seed: int = 0) -> list[int]:
        shares = []
        for rank in range(2):
            sampler = EpochSampler(dataset := seeded(), num_replicas=2, rank=rank, seed=seed)
            sampler.set_epoch(epoch)
            assert dataset.epoch == epoch
            shares.append(list(sampler))
        assert sorted(shares[0] + shares[1]) == list(range(8))
        return shares[0] + shares[1]

    assert order(3) == order(3)
    assert len({tuple(order(epoch, seed)) for epoch, seed in ((0, 0), (1, 0), (0, 7))}) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_epoch_may_be_set_after_the_iterator_is_made(workers: int) -> None:
    def items(early: bool) -> list[Any]:
        dataset = seeded()
        sampler = EpochSampler(dataset, num_replicas=1, rank=0, seed=0)
        loader = LateLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers)
        if early:
            sampler.set_epoch(5)
        iterator = iter(loader)
        sampler.set_epoch(5)
        return [next(iterator) for _ in range(2)]

    assert items(early=False) == items(early=True)


class Images(Draws):
    """Says with each item whether mosaic is closed, and which process gives it."""

    closed = False

    def __getitem__(self, index: int) -> Any:
        return self.closed, random.random(), os.getpid()

    def close_mosaic(self, settings: object) -> None:
        self.closed = True


def test_workers_live_as_long_as_the_fit_and_learn_of_epochs_and_mosaic() -> None:
    def epochs(workers: int) -> tuple[list[Any], set[int]]:
        dataset = SeededDataset(Images(), 0)  # type: ignore[arg-type]
        sampler = EpochSampler(dataset, num_replicas=1, rank=0, seed=0)
        keywords = {"persistent_workers": True} if workers else {}
        loader = LateLoader(dataset, batch_size=None, sampler=sampler, num_workers=workers, **keywords)
        seen, processes = [], set()
        for epoch in range(3):
            sampler.set_epoch(epoch)
            if epoch == 2:
                dataset.close_mosaic()
            items = list(loader)
            seen.append([(closed, drawn) for closed, drawn, _ in items])
            processes |= {process for *_, process in items}
        return seen, processes

    straight, with_workers = epochs(0), epochs(2)
    assert with_workers[0] == straight[0]
    assert [{closed for closed, _ in epoch} for epoch in straight[0]] == [{False}, {False}, {True}]
    assert len({drawn for epoch in straight[0] for _, drawn in epoch}) == 24
    assert len(with_workers[1]) == 2
