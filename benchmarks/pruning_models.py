"""The models that :mod:`benchmarks.pruning` prunes."""

from __future__ import annotations

import copy

import torch
import torchvision
from torch import Tensor, nn
from ultralytics.nn.modules import C2f
from ultralytics.nn.tasks import DetectionModel

from yolo_slim.detection import TRACE_SIZE, head_of, raw_outputs
from yolo_slim.pruning import BatchNorm

YOLO = ["yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x"]
CLASSIFIERS = ["resnet50", "densenet121"]


class SplitC2f(nn.Module):
    """C2f with a convolution for each half of its first one, so that nothing is chunked."""

    def __init__(self, block: C2f) -> None:
        super().__init__()
        self.halves = nn.ModuleList(copy.deepcopy(block.cv1) for _ in range(2))
        self.cv2, self.m = block.cv2, block.m
        for half, rows in zip(self.halves, (slice(0, block.c), slice(block.c, None)), strict=True):
            half.conv.weight = nn.Parameter(half.conv.weight[rows].detach().clone())
            half.conv.out_channels = half.bn.num_features = block.c
            for key in ("weight", "bias"):
                setattr(half.bn, key, nn.Parameter(getattr(half.bn, key)[rows].detach().clone()))
            for key in ("running_mean", "running_var"):
                setattr(half.bn, key, getattr(half.bn, key)[rows].clone())
        self.i, self.f, self.type = block.i, block.f, block.type  # Ultralytics reads them to run the layers in order

    def forward(self, x: Tensor) -> Tensor:
        """The block's forward."""
        maps = [half(x) for half in self.halves]
        for block in self.m:
            maps.append(block(maps[-1]))
        return self.cv2(torch.cat(maps, 1))


class Chain(nn.Module):
    """Convolution, BatchNorm, ReLU, ``depth`` times; ``dense``: each reads all maps before it, as in DenseNet."""

    def __init__(self, depth: int, width: int, dense: bool = False) -> None:
        super().__init__()
        reads = [3] + [width * (i if dense else 1) for i in range(1, depth)]
        self.convs = nn.ModuleList(nn.Conv2d(n, width, 3, padding=1, bias=False) for n in reads)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in reads)
        self.fc, self.dense = nn.Linear(width, 10), dense

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10)."""
        maps = [x]
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            read = torch.cat(maps[1:], 1) if self.dense and index else maps[-1]
            maps.append(norm(conv(read)).relu())
        return self.fc(maps[-1].mean((2, 3)))


def images(size: int) -> Tensor:
    """The example input that every tool gets."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(name: str) -> nn.Module:
    """A model with random weights, and gammas that differ, in float32."""
    torch.manual_seed(0)
    model = DetectionModel(f"{name}.yaml", verbose=False) if name in YOLO else getattr(torchvision.models, name)()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def split_chunks(model: nn.Module) -> None:
    """Makes every C2f a :class:`SplitC2f`."""
    for name, module in list(model.named_modules()):
        if isinstance(module, C2f):
            parent, _, key = name.rpartition(".")
            setattr(model.get_submodule(parent), key, SplitC2f(module))


def output_layers(net: nn.Module) -> list[nn.Module]:
    """The layers of a detector whose channels are its outputs."""
    head = head_of(net)
    return [*(branch[-1] for branch in (*head.cv2, *head.cv3)), head.dfl]


def without_chunks(model: nn.Module) -> nn.Module:
    """A copy in which every C2f is split; checked to compute the same."""
    changed = copy.deepcopy(model)
    split_chunks(changed)
    if isinstance(model, DetectionModel):
        x = images(TRACE_SIZE)
        with torch.no_grad():
            pairs = zip(raw_outputs(model.eval(), x), raw_outputs(changed.eval(), x), strict=True)
            for expected, found in pairs:
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    return changed
