"""Training images whose order and augmentation depend on the seed and the number of the epoch alone.

A fit that is interrupted and resumed then sees what a straight one sees, with any number of workers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from ultralytics.data.augment import Mosaic
from ultralytics.data.dataset import YOLODataset


class SeededDataset(Dataset[dict[str, Any]]):
    """Draws the augmentation of each image from (seed, epoch, index) alone.

    Args:
        dataset: Training images of Ultralytics, as it builds them.
        seed: Seed of all epochs, not negative.

    Attributes:
        epoch: The epoch whose augmentation is drawn, set before the epoch's first image is loaded.
    """

    def __init__(self, dataset: YOLODataset, seed: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, 0
        for mosaic in _mosaics(dataset.transforms):
            mosaic.buffer_enabled = False  # any image may join a mosaic, not the ones that this worker loaded last

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
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


class LateLoader(DataLoader):
    """A DataLoader that starts its workers when the first batch is asked for.

    Lightning makes the iterator of the first epoch, also that of a resumed fit, before it says which epoch it is.
    Workers started then would draw that epoch's order and augmentation as if it were epoch 0.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()
