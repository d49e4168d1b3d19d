"""Blocks of other pruning tools against the stock blocks that they become, and against what cannot become one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules import C2f, C3k2

from yolo_slim.detection.files.foreign import ForeignLayer, ForeignLayers, make_stock, stock_description

EPS = 1e-3
#: How tools say the widths of the two parts: in two convolutions, in a list, or in two numbers.
WAYS = ["C2f_v2", "C2f", "C2fPruned", "C2f_infer"]


class Block:
    """A C2f, or a C3k2 of C3k blocks, as a tool leaves it.

    Args:
        parts: Widths of the two parts of the first convolution.
        inner: For each of the blocks in a row its hidden width and its output width.
        way: The class that the file says.
        add: Whether the blocks add their input; they then have one width.
        c3k: Whether they are C3k.
        fused: Whether BatchNorm is folded into the convolutions.
        half: Whether the file is in half precision.
    """

    def __init__(self, parts, inner, way="C2fPruned", add=False, c3k=False, fused=False, half=False) -> None:
        self.layers: ForeignLayers = {}
        self.parts, self.inner, self.add, self.c3k = parts, inner, add, c3k
        self.fused, self.dtype = fused, torch.float16 if half else torch.float64
        self.generator = torch.Generator().manual_seed(0)
        left, right = parts
        said: dict[str, Any] = {
            "C2fPruned": {"cv1_split_sections": [left, right]},
            "C2f_infer": {"c1": left, "c2": right},
        }
        self.layers["x"] = ForeignLayer(way.replace("C2f", "C3k2") if c3k else way, said.get(way, {}), {})
        if way in said:
            self.conv("x.cv1", 5, left + right)
        else:
            self.conv("x.cv0", 5, left)
            self.conv("x.cv1", 5, right)
        width = right
        for index, (hidden, out) in enumerate(inner):
            out = width if add else out
            (self.add_c3k if c3k else self.bottleneck)(f"x.m.{index}", width, hidden, out, add)
            width = out
            left += out
        self.conv("x.cv2", left + right, 7)

    def conv(self, path: str, inputs: int, outputs: int, kernel: int = 1) -> None:
        def numbers(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=self.generator).to(self.dtype)

        tensors = {"weight": numbers(outputs, inputs, kernel, kernel) - 0.5}
        if self.fused:
            tensors["bias"] = numbers(outputs)
        else:
            keys = ("weight", "bias", "running_mean", "running_var")
            norm = {key: numbers(outputs) + 0.1 for key in keys} | {"num_batches_tracked": torch.tensor(3)}
            self.layers[f"{path}.bn"] = ForeignLayer("BatchNorm2d", {"eps": EPS}, norm)
        self.layers[f"{path}.conv"] = ForeignLayer("Conv2d", {"groups": 1}, tensors)
        self.layers[f"{path}.act"] = ForeignLayer("SiLU", {}, {})
        self.layers[path] = ForeignLayer("Conv", {}, {})

    def bottleneck(self, path: str, inputs: int, hidden: int, outputs: int, add: bool) -> None:
        self.layers[path] = ForeignLayer("Bottleneck", {"add": add}, {})
        self.conv(f"{path}.cv1", inputs, hidden, 3)
        self.conv(f"{path}.cv2", hidden, outputs, 3)

    def add_c3k(self, path: str, inputs: int, hidden: int, outputs: int, add: bool) -> None:
        self.layers[path] = ForeignLayer("C3k", {}, {})
        self.conv(f"{path}.cv1", inputs, hidden)
        self.conv(f"{path}.cv2", inputs, hidden + 1)
        self.conv(f"{path}.cv3", 2 * hidden + 1, outputs)
        self.bottleneck(f"{path}.m.0", hidden, hidden + 2, hidden, add)

    def computed(self, x: Tensor) -> Tensor:
        """What the tool's own code makes of an input, in double precision."""
        layers = {name: {k: t.double() for k, t in layer.tensors.items()} for name, layer in self.layers.items()}

        def conv(path: str, x: Tensor) -> Tensor:
            weight = layers[f"{path}.conv"]["weight"]
            x = F.conv2d(x, weight, layers[f"{path}.conv"].get("bias"), padding=weight.shape[-1] // 2)
            if not self.fused:
                norm = layers[f"{path}.bn"]
                x = F.batch_norm(x, *(norm[k] for k in ("running_mean", "running_var", "weight", "bias")), eps=EPS)
            return F.silu(x)

        def bottleneck(path: str, x: Tensor) -> Tensor:
            y = conv(f"{path}.cv2", conv(f"{path}.cv1", x))
            return x + y if self.add else y

        def c3k(path: str, x: Tensor) -> Tensor:
            y = bottleneck(f"{path}.m.0", conv(f"{path}.cv1", x))
            return conv(f"{path}.cv3", torch.cat((y, conv(f"{path}.cv2", x)), 1))

        two = "x.cv0" in layers
        ys = [conv("x.cv0", x), conv("x.cv1", x)] if two else list(conv("x.cv1", x).split(self.parts, 1))
        for index in range(len(self.inner)):
            ys.append((c3k if self.c3k else bottleneck)(f"x.m.{index}", ys[-1]))
        return conv("x.cv2", torch.cat(ys, 1))

    def stock(self) -> nn.Module:
        """The stock block with the file's tensors, whatever their sizes."""
        n = len(self.inner)
        new = C3k2(5, 7, n, c3k=True, shortcut=self.add) if self.c3k else C2f(5, 7, n, shortcut=self.add)
        new.c = max(self.parts)
        for block in new.m if self.c3k else ():
            block.m = block.m[:1]  # two by default
        for name, module in new.double().eval().named_modules():
            if self.fused and isinstance(module, nn.BatchNorm2d):
                new.get_submodule(name.removesuffix(".bn")).bn = nn.Identity()
                continue
            layer = self.layers[f"x.{name}"] if name and type(module) not in (nn.ModuleList, nn.Sequential) else None
            for key, tensor in layer.tensors.items() if layer else ():
                parameter = isinstance(getattr(module, key, None), nn.Parameter) or key == "bias"
                setattr(module, key, nn.Parameter(tensor.double()) if parameter else tensor.double())
            for key in ("add", "eps"):
                if hasattr(module, key):
                    setattr(module, key, layer.settings[key])
        return new


def expect_same_function(block: Block) -> None:
    x = torch.rand(2, 5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        expected = block.computed(x)
        make_stock(block.layers)
        stock = block.stock()
        for found in (stock(x), stock.forward_split(x)):
            assert (found - expected).abs().max() < 1e-12
    assert block.layers["x.cv1.conv"].tensors["weight"].shape[0] == 2 * max(block.parts)
    assert not any("cv0" in name for name in block.layers)


widths = st.integers(1, 6)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    parts=st.tuples(widths, widths),
    inner=st.lists(st.tuples(widths, widths), min_size=1, max_size=3),
    way=st.sampled_from(WAYS),
    add=st.booleans(),
    c3k=st.booleans(),
    fused=st.booleans(),
    half=st.booleans(),
)
def test_the_stock_block_computes_the_same(parts, inner, way, add, c3k, fused, half):
    # C3k2_infer is no class of any tool's; it leaves C2f alone.
    expect_same_function(Block(parts, inner, way, add, c3k and way in ("C2f", "C2f_v2", "C2fPruned"), fused, half))


@pytest.mark.parametrize(("left", "right"), [(2, 5), (5, 2), (3, 3)])
@pytest.mark.parametrize("add", [False, True])
def test_channels_that_are_added_are_zero(left, right, add):
    block = Block((left, right), [(3, 4), (2, 4)], add=add)
    make_stock(block.layers)
    norm = block.layers["x.cv1.bn"].tensors
    assert int((norm["weight"] == 0).sum()) == abs(left - right)
    assert ((norm["weight"] == 0) == (norm["bias"] == 0)).all()
    assert norm["running_var"][norm["weight"] == 0].tolist() == [1.0] * abs(left - right)
    outputs = [block.layers[f"x.m.{i}.cv2.conv"].tensors["weight"].shape[0] for i in range(2)]
    assert outputs == ([max(left, right)] * 2 if add else [4, 4])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_precision_of_the_file_stays(dtype):
    block = Block((2, 5), [(3, 3)])
    for layer in block.layers.values():
        layer.tensors = {key: tensor.to(dtype) if tensor.dim() else tensor for key, tensor in layer.tensors.items()}
    make_stock(block.layers)
    assert {t.dtype for layer in block.layers.values() for t in layer.tensors.values() if t.dim()} == {dtype}


def test_eps_of_a_convolution_that_was_made_anew():
    """C2f_infer has a first BatchNorm with torch's eps."""
    block, same = Block((2, 5), [(3, 3)], "C2f_infer"), Block((2, 5), [(3, 3)], "C2f_infer")
    block.layers["x.cv1.bn"].settings["eps"] = 1e-5
    old = {key: tensor.clone() for key, tensor in block.layers["x.cv1.bn"].tensors.items()}
    make_stock(block.layers)
    make_stock(same.layers)
    norm = block.layers["x.cv1.bn"]
    kept = norm.tensors["weight"] != 0
    slope = norm.tensors["weight"][kept] / (norm.tensors["running_var"][kept] + EPS).sqrt()
    assert norm.settings["eps"] == EPS
    assert (slope - old["weight"] / (old["running_var"] + 1e-5).sqrt()).abs().max() < 1e-6
    assert block.layers["x.cv2.bn"].tensors["weight"].equal(same.layers["x.cv2.bn"].tensors["weight"])


@pytest.mark.parametrize("sections", [(2, 4), (7,), (7, 0), (-1, 8), (2.0, 5.0), (2, 2, 3), None])
def test_wrong_parts_are_refused(sections):
    block = Block((5, 2), [(3, 3)])
    block.layers["x"].settings["cv1_split_sections"] = sections and list(sections)
    with pytest.raises(ValueError, match="expected two widths that add up to 7"):
        make_stock(block.layers)


def test_groups_are_refused_where_channels_would_be_added():
    block = Block((5, 2), [(3, 3)])
    block.layers["x.m.0.cv1.conv"].settings["groups"] = 2
    with pytest.raises(ValueError, match="x.m.0.cv1.conv has groups"):
        make_stock(block.layers)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("act", lambda layer: setattr(layer, "kind", "ReLU")),
        ("bn", lambda layer: layer.settings.update(eps=1e-5)),
        ("conv", lambda layer: layer.tensors.update(bias=torch.zeros(5))),
        ("conv", lambda layer: layer.settings.update(stride=(2, 2))),
    ],
)
def test_two_convolutions_that_are_not_two_halves_of_one_are_refused(part, change):
    block = Block((5, 2), [(3, 3)], "C2f_v2")
    change(block.layers[f"x.cv0.{part}"])
    with pytest.raises(ValueError, match=f"x.cv0 and x.cv1 differ in their {part}"):
        make_stock(block.layers)


def test_stock_blocks_stay_as_they_are():
    block = Block((3, 3), [(3, 3)])
    block.layers["x"] = ForeignLayer("C2f", {}, {})
    before = {name: dict(layer.tensors) for name, layer in block.layers.items()}
    make_stock(block.layers)
    assert all(layer.tensors[key] is before[name][key] for name, layer in block.layers.items() for key in layer.tensors)


def test_descriptions_name_stock_layers():
    tool = {
        "nc": 3,
        "backbone": [[-1, 1, "ultralytics.nn.modules.conv.Conv", [64, 3, 2]], [-1, 3, "a.b.C2fPruned", [128, True]]],
        "head": [[-1, 1, "torch.nn.modules.upsampling.Upsample", [None, 2, "nearest"]], [[1], 1, "DetectPruned", [3]]],
    }
    assert stock_description(tool) == {
        "nc": 3,
        "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C2f", [128, True]]],
        "head": [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[1], 1, "Detect", [3]]],
    }
