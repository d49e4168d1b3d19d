"""Boxes that are found and boxes that are labelled, for what counts them."""

from __future__ import annotations

import torch
from torch import Tensor

#: Labels are of the first three; the fourth is found and never there.
CLASSES = 4


def crowd(seed: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Images with none, some and many of both; scores fall within an image, and no two are equal."""
    generator = torch.Generator().manual_seed(seed)
    found, labelled = [], []
    for objects, more in ((0, 0), (0, 5), (4, 0), (12, 40), (3, 9)):
        corners = torch.rand(objects, 2, generator=generator) * 300
        boxes = torch.cat((corners, corners + 10 + 60 * torch.rand(objects, 2, generator=generator)), 1)
        labels = torch.randint(CLASSES - 1, (objects,), generator=generator)
        labelled.append({"boxes": boxes, "labels": labels})
        which = torch.arange(objects + more) % max(objects, 1)
        near = boxes[which] if objects else torch.rand(more, 4, generator=generator) + 5
        moved = near + 6 * torch.randn(near.shape, generator=generator)
        scores = torch.rand(len(near), generator=generator).sort(descending=True).values
        other = torch.randint(CLASSES, (len(near),), generator=generator)
        right = torch.rand(len(near), generator=generator) < 0.5
        kinds = torch.where(right, labels[which], other) if objects else other
        found.append({"boxes": moved, "scores": scores, "labels": kinds})
    return found, labelled
