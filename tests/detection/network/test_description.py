"""Model YAMLs from elsewhere: Ultralytics runs some of what they say, so all that is not a layer is refused."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultralytics.nn.modules import Conv

from tests.helpers.hostile.pickles import TINY
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.weights import read_weights
from yolo_slim.detection.network.build import build_network
from yolo_slim.detection.network.description import check_description

MKDIR = "__import__('os').mkdir('ran')"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield
    assert not os.listdir(folder)
    assert type(Conv.default_act).__name__ == "SiLU"


def row(*values: Any, at: int = 1) -> Any:
    """Replaces a row of the backbone."""
    return lambda d: d["backbone"].__setitem__(at, list(values))


def laughs(d: dict[str, Any]) -> None:
    value: Any = [1]
    for _ in range(50):
        value = [value, value]
    d["backbone"][1][3] = [value]


def itself(d: dict[str, Any]) -> None:
    d["backbone"][1][3].append(d["backbone"][1][3])


def networks_in_networks(d: dict[str, Any]) -> None:
    d["backbone"][0] = [-1, 1, "DetectionModel", [{**copy.deepcopy(TINY), "activation": MKDIR}]]


NAMES = [
    *("torch_safe_load", "attempt_download_asset", "parse_model", "eval", "exec", "load_checkpoint", "torch", "os"),
    *("DetectionModel", "SegmentationModel", "WorldModel", "BaseModel", "Ensemble", "TorchVision", "Path", ""),
    *("nn.Module.__init__", "nn.modules.container.os", "nn.init.zeros_", "nn.functional", "nn.Parameter", "nn."),
    *("torchvision.ops.nms", "torchvision.ops.boxes", "torchvision.models.resnet18", "torchvision.ops.nn.x", "locals"),
    *("__import__", "__builtins__", "ast.literal_eval", MKDIR, "Conv\n", " Conv", "conv", "x" * 10_000),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_layer(name):
    description = copy.deepcopy(TINY)
    row(-1, 1, name, [8])(description)
    with pytest.raises(ValueError, match="m.yaml names .*, which is no layer of Ultralytics") as error:
        check_description(description, "m.yaml")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "activation",
    [
        MKDIR,
        "nn.SiLU() if not __import__('os').mkdir('ran') else 0",
        "nn.SiLU(inplace=__import__('os').mkdir('ran'))",
        "nn.SiLU(*[__import__('os').mkdir('ran')])",
        "nn.SiLU(**{'inplace': __import__('os').mkdir('ran')})",
        "nn.Module.__class__('x', (), {})",
        "nn.SiLU().__class__.__init__.__globals__['os'].mkdir('ran')",
        "nn.modules.container.os.mkdir('ran')",
        "nn.init.zeros_()",
        "(lambda: nn.SiLU())()",
        "[nn.SiLU()][0]",
        "nn.SiLU(); import os",
        "import os",
        "torch.hub.load('a', 'b')",
        "torch.load('x')",
        "os.system('mkdir ran')",
        "open('ran', 'w')",
        "DetectionModel()",
        "nn.SiLU",
        "SiLU()",
        "nn." + "SiLU()." * 50 + "x()",
        "nn.SiLU(" + "(" * 5000 + ")" * 5000 + ")",
        "nn.SiLU(\x00)",
        ["nn.SiLU()"],
        {"a": "b"},
        5,
        True,
        1.5,
    ],
)
def test_activations_that_are_more_than_a_layer(activation):
    with pytest.raises(
        ValueError, match=r"m.yaml has the activation .*; expected a layer with literal arguments"
    ) as error:
        check_description({**TINY, "activation": activation}, "m.yaml")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("activation", ["nn.ReLU()", "torch.nn.LeakyReLU(0.1)", " nn.SiLU(inplace=True) ", None, ""])
def test_activations_that_are_layers(activation):
    net = build_network({**TINY, "activation": activation}, nc=2)
    expected = (activation or "nn.SiLU").strip().removeprefix("torch.").removeprefix("nn.").partition("(")[0]
    assert type(net.model[0].act).__name__ == expected
    assert type(build_network(TINY, nc=2).model[0].act).__name__ == "SiLU"  # the next one has its own


def test_a_refused_description_leaves_no_activation_behind():
    """Ultralytics sets it for the whole process and takes it back only if all rows can be built."""
    description = copy.deepcopy({**TINY, "activation": "nn.Tanh()"})
    row(-1, 1, "Conv", ["a", "b"])(description)
    with pytest.raises(ValueError, match="is not a model YAML"):
        check_description(description, "m.yaml")
    assert type(build_network(TINY, nc=2).model[0].act).__name__ == "SiLU"


LARGE = {
    "repeats": row(-1, 10**9, "Conv", [8]),
    "repeats that cancel out": lambda d: d["backbone"].extend(
        [[-1, 60_000, "nn.SiLU", []], [-1, -60_000, "nn.SiLU", []]]
    ),
    "channels": row(-1, 1, "Conv", [10**9, 3, 2]),
    "channels twice": lambda d: (row(-1, 1, "Conv", [65_000, 3, 2])(d), row(-1, 1, "Conv", [65_000, 3, 2], at=2)(d)),
    "kernel": row(-1, 1, "Conv", [8, 60_001]),
    "padding": row(-1, 1, "Conv", [8, 3, 2, 60_000]),
    "upsampling": row(-1, 1, "nn.Upsample", [None, 60_000, "nearest"]),
    "upsampling thrice": lambda d: [row(-1, 1, "nn.Upsample", [None, 100, "nearest"], at=i)(d) for i in (1, 2, 3)],
    "wide at full size": row(-1, 1, "Conv", [60_000, 1, 1], at=0),
    "layers in layers": row(-1, 1, "nn.Transformer", [8, 2, 60_000, 60_000]),
    "depth": lambda d: d.update(depth_multiple=10**9),
    "depth that is infinite": lambda d: d.update(depth_multiple=float("inf")),
    "depth by scale": lambda d: d.update(scales={"n": [10**9, 1, 64]}, scale="n"),
    "width": lambda d: d.update(width_multiple=10**9),
    "classes": lambda d: d.update(nc=10**9),
    "bins": lambda d: d.update(reg_max=10**8),
    "activation": lambda d: d.update(activation="nn.Bilinear(60000, 60000, 60000)"),
    "NaN": row(-1, 1, "Conv", [float("nan")]),
    "more than 64 bits": row(-1, 1, "Conv", [8, 10**40]),
}


@pytest.mark.parametrize("what", LARGE)
def test_networks_far_larger_than_any(what):
    description = copy.deepcopy(TINY)
    LARGE[what](description)
    with pytest.raises(ValueError, match="m.yaml (describes a network far larger|is not a model YAML)") as error:
        check_description(description, "m.yaml")
    assert str(error.value).isprintable()


MALFORMED = {
    "strings for numbers": row("x", "y", "Conv", ["z"]),
    "a row of a string": lambda d: d["backbone"].__setitem__(1, "Conv"),
    "a row of one": lambda d: d["backbone"].__setitem__(1, [1]),
    "rows of a string": lambda d: d.update(backbone="abcd"),
    "rows of a number": lambda d: d.update(head=7),
    "no head": lambda d: d.pop("head"),
    "no rows": lambda d: d.update(backbone=[], head=[]),
    "no classes": lambda d: d.pop("nc"),
    "classes of a string": lambda d: d.update(nc=MKDIR),
    "classes of a list": lambda d: d.update(nc=[1]),
    "classes below zero": lambda d: d.update(nc=-5),
    "from nowhere": row(99, 1, "Conv", [8, 3, 2]),
    "from a string": row("0", 1, "Conv", [8, 3, 2]),
    "from itself": row(1, 1, "Conv", [8, 3, 2]),
    "arguments of a string": row(-1, 1, "Conv", MKDIR),
    "arguments of a dict": row(-1, 1, "Conv", {"a": 1}),
    "an argument that is evaluated": row(-1, 1, "Conv", [MKDIR]),
    "an argument that names a variable": row(-1, 1, "Conv", ["args", "m", "d"]),
    "a variable of the parser": row(-1, 1, "nn.Conv2d", ["layers", "ast", "m"]),
    "a layer that is a list": row(-1, 1, ["Conv"], [8]),
    "a layer that is missing": row(-1, 1, None, [8]),
    "scales of a number": lambda d: d.update(scales=5),
    "scales of nothing": lambda d: d.update(scales={"n": []}),
    "an unknown scale": lambda d: d.update(scales={"n": [1, 1, 64]}, scale="z"),
    "depth of a string": lambda d: d.update(depth_multiple="x"),
    "depth of a list": lambda d: d.update(depth_multiple=[1]),
    "width of a string": lambda d: d.update(width_multiple="x"),
    "bins of a string": lambda d: d.update(reg_max="x"),
    "sizes that do not fit": row(-1, 1, "nn.Linear", [3, 3]),
    "bytes": lambda d: d["backbone"][1].__setitem__(3, [b"x"]),
    "laughs": laughs,
    "itself": itself,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(what):
    description = copy.deepcopy(TINY)
    MALFORMED[what](description)
    with pytest.raises(ValueError, match="^m.yaml ") as error:
        check_description(description, "m.yaml")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    "content", ["a: &a [*a]", "- 1", "backbone: 2020-01-01", "x", "backbone: !!python/object:os.x"]
)
def test_yaml_files(tmp_path, content):
    (tmp_path / "m.yaml").write_text(content)
    with pytest.raises(ValueError, match="m.yaml"):
        build_network(str(tmp_path / "m.yaml"), nc=2)


@pytest.mark.parametrize("change", [laughs, itself, networks_in_networks, lambda d: d.update(activation=MKDIR)])
def test_the_same_in_a_yaml_file_and_in_a_checkpoint(tmp_path, change):
    import torch

    description = copy.deepcopy(TINY)
    change(description)
    file = tmp_path / "m.yaml"
    file.write_text(yaml.safe_dump(description))
    with pytest.raises(ValueError, match=r"m.yaml"):
        build_network(str(file), nc=2)
    net = build_network(TINY, nc=2)
    save_weights(net, tmp_path / "x.ckpt", imgsz=64)
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    content["hyper_parameters"]["model"] = description
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x.ckpt") as error:
        read_weights(tmp_path / "x.ckpt")
    assert str(error.value).isprintable()


def test_the_descriptions_of_ultralytics_are_small_and_sound():
    import ultralytics

    folder = Path(ultralytics.__file__).parent / "cfg" / "models"
    for name in ("v8/yolov8.yaml", "11/yolo11.yaml", "v9/yolov9t.yaml", "v5/yolov5.yaml"):
        description = yaml.safe_load((folder / name).read_text())
        for scale in description.get("scales") or [""]:
            check_description({**description, "scale": scale}, name)


def test_the_description_stays_as_it_is():
    description = copy.deepcopy(TINY)
    check_description(description, "m.yaml")
    assert description == TINY
