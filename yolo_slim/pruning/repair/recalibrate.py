"""BatchNorm statistics measured anew, after the channels that they were measured with have gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from yolo_slim.pruning.modules.torch_private import BatchNorm


def recalibrate(model: nn.Module, batches: Iterable[Any], to_inputs: Callable[[Any], Tensor] | None = None) -> int:
    """Measures the statistics of all BatchNorm layers as the average over some batches, in place.

    The forwards run in train mode, so dropout is at work. BatchNorm layers that are held in eval mode or do not
    require gradients are measured too; layers that keep affine and statistics as constants of another class, such as
    torchvision's ``FrozenBatchNorm2d``, are not. Modes and momentum come back as they were, weights do not change. In
    a distributed run every process measures on the batches it is given.

    Args:
        model: The model; it is called with one tensor.
        batches: Tensors, or tuples or lists that begin with one; a handful of training batches, without augmentation
            that validation images do not have.
        to_inputs: Turns a batch of any other kind into the tensor that the model takes, for example
            ``lambda batch: batch["img"].float() / 255``.

    Returns:
        The number of batches.

    Raises:
        ValueError: If there are no batches, or they are of another kind. After this or any other exception the
            statistics are what they were.

    Example:
        >>> recalibrate(net, [torch.rand(2, 3, 9, 9), torch.rand(2, 3, 9, 9)])
        2
    """
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    momenta = [norm.momentum for norm in norms]
    modes = [(module, module.training) for module in model.modules()]
    count = 0

    def inputs(items: Iterable[Any]) -> Iterator[Any]:
        nonlocal count
        for batch in items:
            count += 1
            images = batch if to_inputs is None else to_inputs(batch)
            if not isinstance(images, (Tensor, list, tuple)):
                kind = type(images).__name__
                raise ValueError(
                    f"a batch is a {kind}, expected a tensor or a tuple; give to_inputs to turn it into one"
                )
            yield images

    try:
        items = iter(batches)
        try:
            first = next(items)
        except StopIteration:
            raise ValueError("recalibrate got no batches; give it at least one, such as [images]") from None
        update_bn(inputs(chain([first], items)), model, device=next(model.parameters()).device)
    except BaseException:
        with torch.no_grad():
            for buffer, values in before:
                buffer.copy_(values)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return count
