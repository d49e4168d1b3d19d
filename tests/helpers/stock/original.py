"""Networks as the original YOLOv5 and YOLOv7 files describe them, with layers written for the tests.

While a file is written, the layers can be imported under the names that the original files have; what reads it cannot.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if act is True else act

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1, c2, shortcut=True, hidden=None):
        super().__init__()
        hidden = c2 if hidden is None else hidden
        self.cv1, self.cv2 = Conv(c1, hidden, 1, 1), Conv(hidden, c2, 3, 1)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__()
        half = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, half), Conv(c1, half), Conv(2 * half, c2)
        self.m = nn.Sequential(*(Bottleneck(half, half, shortcut) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    def __init__(self, c1, c2, k=5):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(4 * (c1 // 2), c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Concat(nn.Module):
    def __init__(self, d=1):
        super().__init__()
        self.d = d

    def forward(self, x):
        return torch.cat(x, self.d)


class MP(nn.Module):
    def __init__(self, k=2):
        super().__init__()
        self.m = nn.MaxPool2d(k, k)

    def forward(self, x):
        return self.m(x)


class SP(nn.Module):
    def __init__(self, k=3, s=1):
        super().__init__()
        self.m = nn.MaxPool2d(k, s, k // 2)

    def forward(self, x):
        return self.m(x)


class SPPCSPC(nn.Module):
    def __init__(self, c1, c2):
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.cv4 = Conv(c1, c2), Conv(c1, c2), Conv(c2, c2, 3), Conv(c2, c2)
        self.m = nn.ModuleList([nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13)])
        self.cv5, self.cv6, self.cv7 = Conv(4 * c2, c2), Conv(c2, c2, 3), Conv(2 * c2, c2)

    def forward(self, x):
        first = self.cv4(self.cv3(self.cv1(x)))
        first = self.cv6(self.cv5(torch.cat([first, *(m(first) for m in self.m)], 1)))
        return self.cv7(torch.cat((first, self.cv2(x)), 1))


class RepConv(nn.Module):
    def __init__(self, c1, c2, k=3, s=1):
        super().__init__()
        self.act = nn.SiLU()
        norm = {"eps": 1e-3, "momentum": 0.03}
        self.rbr_identity = nn.BatchNorm2d(c1, **norm) if c1 == c2 and s == 1 else None
        self.rbr_dense = nn.Sequential(nn.Conv2d(c1, c2, k, s, 1, bias=False), nn.BatchNorm2d(c2, **norm))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(c1, c2, 1, s, 0, bias=False), nn.BatchNorm2d(c2, **norm))

    def forward(self, x):
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.act(y if self.rbr_identity is None else y + self.rbr_identity(x))


class ImplicitA(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.implicit = nn.Parameter(torch.zeros(1, c, 1, 1))


class Detect(nn.Module):
    def __init__(self, nc, anchors, ch):
        super().__init__()
        self.nc, self.no = nc, nc + 5
        self.register_buffer("anchors", torch.tensor(anchors).float().view(len(anchors), -1, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * self.no, 1) for c in ch)

    def forward(self, x):
        return [m(feature) for m, feature in zip(self.m, x, strict=True)]


class IDetect(Detect):
    def __init__(self, nc, anchors, ch):
        super().__init__(nc, anchors, ch)
        self.ia = nn.ModuleList(ImplicitA(c) for c in ch)


class Model(nn.Module):
    """Builds the rows of a description; every body row's output can be asked for."""

    def __init__(self, description: dict[str, Any], names: list[str]) -> None:
        super().__init__()
        self.yaml, self.names, self.stride = description, names, torch.tensor([8.0, 16.0, 32.0])
        layers, widths = [], []
        for i, (f, n, kind, arguments) in enumerate(description["backbone"] + description["head"]):
            c1 = 3 if i == 0 else widths[f] if isinstance(f, int) else 0
            args = [_value(a, description) for a in arguments]
            n = max(round(n * description.get("depth_multiple", 1)), 1) if n > 1 else n
            if kind in ("Conv", "C3", "SPPF", "SPPCSPC", "RepConv"):
                c2 = -(-args[0] * description.get("width_multiple", 1.0) // 8) * 8
                args = [c1, int(c2), *args[1:]]
                if kind == "C3":
                    args.insert(2, n)
            c2 = args[1] if kind in ("Conv", "C3", "SPPF", "SPPCSPC", "RepConv") else c1
            if kind == "Concat":
                c2 = sum(widths[j] for j in f)
            if kind.endswith("Detect"):
                args = [args[0], args[1], [widths[j] for j in f]]
            layer = nn.Upsample(*args) if kind == "nn.Upsample" else globals()[kind](*args)
            layer.i, layer.f = i, f
            layers.append(layer)
            widths.append(c2)
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model[-1](self.maps(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """What the head reads."""
        outputs: list[Tensor] = []
        for layer in self.model[:-1]:
            f = layer.f
            taken = x if layer.i == 0 else outputs[f] if isinstance(f, int) else [outputs[j] for j in f]
            outputs.append(layer(taken))
        return [outputs[j] for j in self.model[-1].f]


def _value(argument: Any, description: dict[str, Any]) -> Any:
    if argument in ("nc", "anchors"):
        return description[argument]
    if argument == "None":
        return None
    return nn.LeakyReLU(0.1) if isinstance(argument, str) and "LeakyReLU" in argument else argument


ANCHORS = [[10, 13, 16, 30, 33, 23]] * 3
YOLOV5 = {
    **{"nc": 2, "depth_multiple": 0.33, "width_multiple": 0.25, "anchors": ANCHORS, "ch": 3},
    "backbone": [
        *([-1, 1, "Conv", [64, 6, 2, 2]], [-1, 1, "Conv", [128, 3, 2]], [-1, 3, "C3", [128]]),
        *([-1, 1, "Conv", [256, 3, 2]], [-1, 6, "C3", [256]], [-1, 1, "Conv", [512, 3, 2]], [-1, 9, "C3", [512]]),
        *([-1, 1, "Conv", [1024, 3, 2]], [-1, 3, "C3", [1024]], [-1, 1, "SPPF", [1024, 5]]),
    ],
    "head": [
        *([-1, 1, "Conv", [512, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 6], 1, "Concat", [1]]),
        *([-1, 3, "C3", [512, False]], [-1, 1, "Conv", [256, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]),
        *([[-1, 4], 1, "Concat", [1]], [-1, 3, "C3", [256, False]], [-1, 1, "Conv", [256, 3, 2]]),
        *([[-1, 14], 1, "Concat", [1]], [-1, 3, "C3", [512, False]], [-1, 1, "Conv", [512, 3, 2]]),
        *([[-1, 10], 1, "Concat", [1]], [-1, 3, "C3", [1024, False]], [[17, 20, 23], 1, "Detect", ["nc", "anchors"]]),
    ],
}
_LEAKY = ["None", 1, "nn.LeakyReLU(0.1)"]
#: The kinds of rows of YOLOv7-tiny, in a network of a tenth of its size.
TINY = {
    **{"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": ANCHORS},
    "backbone": [
        *([-1, 1, "Conv", [8, 3, 2, *_LEAKY]], [-1, 1, "Conv", [16, 3, 2, *_LEAKY]]),
        *([-1, 1, "Conv", [8, 1, 1, *_LEAKY]], [-2, 1, "Conv", [8, 1, 1, *_LEAKY]], [[-1, -2], 1, "Concat", [1]]),
        *([-1, 1, "Conv", [16, 1, 1, *_LEAKY]], [-1, 1, "MP", []], [-1, 1, "Conv", [24, 3, 1, *_LEAKY]]),
        *([-1, 1, "MP", []], [-1, 1, "Conv", [32, 3, 1, *_LEAKY]], [-1, 1, "MP", []]),
        [-1, 1, "Conv", [40, 1, 1, *_LEAKY]],
    ],
    "head": [
        *([-1, 1, "Conv", [16, 1, 1, *_LEAKY]], [-2, 1, "Conv", [16, 1, 1, *_LEAKY]], [-1, 1, "SP", [5]]),
        *([-2, 1, "SP", [9]], [-3, 1, "SP", [13]], [[-1, -2, -3, -4], 1, "Concat", [1]]),
        *([-1, 1, "Conv", [16, 1, 1, *_LEAKY]], [[-1, -7], 1, "Concat", [1]], [-1, 1, "Conv", [40, 1, 1, *_LEAKY]]),
        [[7, 9, 20], 1, "IDetect", ["nc", "anchors"]],
    ],
}
#: The kinds of rows of YOLOv7, in a network of a tenth of its size.
YOLOV7 = {
    **{"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": ANCHORS},
    "backbone": [
        *([-1, 1, "Conv", [8, 3, 1]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]),
        *([-1, 1, "MP", []], [-1, 1, "Conv", [16, 1, 1]], [-3, 1, "Conv", [16, 1, 1]], [-1, 1, "Conv", [16, 3, 2]]),
        *([[-1, -3], 1, "Concat", [1]], [-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [48, 3, 2]]),
    ],
    "head": [
        *([-1, 1, "SPPCSPC", [24]], [-1, 1, "Conv", [16, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]),
        *([8, 1, "Conv", [16, 1, 1]], [[-1, -2], 1, "Concat", [1]], [7, 1, "RepConv", [32, 3, 1]]),
        *([-2, 1, "RepConv", [32, 3, 1]], [10, 1, "RepConv", [40, 3, 1]]),
        [[15, 16, 17], 1, "IDetect", ["nc", "anchors"]],
    ],
}


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and gammas as after a training, in numbers that half precision holds exactly enough."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.half().float().eval()


@contextmanager
def importable(**extra: type) -> Iterator[None]:
    """The layers under the names of the original repositories; ``extra`` as ``models__yolo__Name=class``."""
    modules = {name: ModuleType(name) for name in ("models", "models.common", "models.yolo", "models.pruned_common")}
    homes = dict.fromkeys((Conv, Bottleneck, C3, SPPF, Concat, MP, SP, SPPCSPC, RepConv, ImplicitA), "models.common")
    homes |= dict.fromkeys((Detect, IDetect, Model), "models.yolo")
    names = {layer: layer.__name__ for layer in homes}
    for path, layer in extra.items():
        home, _, name = path.replace("__", ".").rpartition(".")
        homes[layer], names[layer] = home, name
    before = {layer: (layer.__module__, layer.__qualname__, layer.__name__) for layer in homes}
    try:
        sys.modules.update(modules)
        for layer, home in homes.items():
            layer.__module__, layer.__qualname__, layer.__name__ = home, names[layer], names[layer]
            setattr(modules[home], names[layer], layer)
        yield
    finally:
        for name in modules:
            sys.modules.pop(name, None)
        for layer, (home, qualified, name) in before.items():
            layer.__module__, layer.__qualname__, layer.__name__ = home, qualified, name


#: The classes of the tool that prunes YOLOv5, for :func:`write`.
PRUNED = {
    "models__yolo__ModelPruned": Model,
    "models__pruned_common__C3Pruned": C3,
    "models__pruned_common__SPPFPruned": SPPF,
    "models__pruned_common__BottleneckPruned": Bottleneck,
}


def write(model: nn.Module, path: Path, average: nn.Module | None = None, **extra: type) -> Path:
    """A checkpoint as the original trainers write them: half precision, an average beside the model if there is one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1).state_dict()
    networks = {"model": model.half(), "ema": None if average is None else average.half()}
    with importable(**extra):
        torch.save({"epoch": 3, "best_fitness": 0.5, **networks, "optimizer": optimizer}, path)
    model.float()
    return path
