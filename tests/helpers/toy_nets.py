"""A shelf of small nets whose groups are known by hand.

Each net comes with one string per BatchNorm layer, one letter per channel: channels with the same letter are in the
same group, a capital letter says that the group is fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)


def out(inputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, 2, 3, padding=1)


class Net(nn.Module):
    """Layers by name; the forward is the toy's own function."""

    def __init__(self, run: Callable[[Net, Tensor], Tensor], **layers: nn.Module | int | list[int]) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random gammas, betas and statistics, and weights that keep the signal's size: initial ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -1.0, 1.0),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model.double().eval()


def bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)
