"""Training images whose order and augmentation depend on the seed and the number of the epoch alone.

A fit that is interrupted and resumed then sees what a straight one sees, with any number of workers.
"""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from ultralytics.data.augment import Mosaic
from ultralytics.data.dataset import YOLODataset


class SeededDataset(Dataset[dict[str, Any]]):
    """Draws the augmentation of each image from (seed, epoch, index) alone.

    Which epoch it is and whether mosaic is closed lies in memory that the loading processes share, so that they can
    live as long as the fit.

    Args:
        dataset: Training images of Ultralytics, as it builds them.
        seed: Seed of all epochs, not negative.
        settings: Ultralytics' settings, for the images without mosaic.
    """

    def __init__(self, dataset: YOLODataset, seed: int, settings: Any = None) -> None:
        self.dataset, self.seed, self._settings = dataset, seed, settings
        self._now = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, whether mosaic is closed
        self._closed_here = False
        for mosaic in _mosaics(dataset.transforms):
            mosaic.buffer_enabled = False  # any image may join a mosaic, not the ones that this worker loaded last

    @property
    def epoch(self) -> int:
        """The epoch whose augmentation is drawn, set before the epoch's first image is loaded."""
        return int(self._now[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._now[0] = epoch

    @property
    def mosaic_closed(self) -> bool:
        """Whether images come without mosaic, mixup, cutmix and copy_paste."""
        return bool(self._now[1])

    def close_mosaic(self) -> None:
        """Leaves these out from the next image on, in all processes."""
        self._now[1] = 1

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.mosaic_closed and not self._closed_here:
            self.dataset.close_mosaic(copy.copy(self._settings))
            self._closed_here = True
        # Ultralytics draws from these two generators, with workers=0 they belong to the training process.
        python_state, numpy_state = random.getstate(), np.random.get_state()
        seed = int(np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.dataset[index]
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def _mosaics(transform: object) -> Iterator[Mosaic]:
    if isinstance(transform, Mosaic):
        yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _mosaics(part)


class EpochSampler(DistributedSampler):
    """Draws the order of a ``SeededDataset`` from (seed, epoch), one share of it for each process."""

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes; Lightning calls it before each one, and the images learn it from here."""
        super().set_epoch(epoch)
        self.dataset.epoch = epoch  # type: ignore[attr-defined]


class WholeBatches(DistributedSampler):
    """Gives each process whole batches in turn, for images whose shape is that of their batch; none comes twice.

    Args:
        dataset: The images, in the order of their batches.
        num_replicas: Number of processes.
        rank: Index of this process.
        batch: Images in a batch.
    """

    def __init__(self, dataset: Dataset[Any], num_replicas: int, rank: int, batch: int) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        images, size = range(len(self.dataset)), num_replicas * batch  # type: ignore[arg-type]
        self._own = [index for first in images[rank * batch :: size] for index in images[first : first + batch]]

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class LateLoader(DataLoader):
    """A DataLoader that starts its workers when the first batch is asked for.

    Lightning makes the iterator of the first epoch, also that of a resumed fit, before it says which epoch it is.
    Workers started then would draw that epoch's order and augmentation as if it were epoch 0.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def affordable_workers(asked: int, processes: int) -> int:
    """How many loading processes each training process of this machine has: no more than there are cores for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked, max(1, cores // processes))
