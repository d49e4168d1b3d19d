"""What the files of detectors may consist of."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn
from ultralytics.nn import modules, tasks

from yolo_slim.detection.files import foreign, original
from yolo_slim.detection.files.scan import ITEM_SIZES

#: Layers of earlier versions, by what they are called today.
RENAMED_LAYERS = {"Silence": "Identity", "YOLOv10DetectionModel": "DetectionModel"}


#: What torch itself puts into files of plain data and tensors.
TENSORS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.Size",
    "torch.device",
    "builtins.set",
    *(f"torch.{storage}" for storage in ITEM_SIZES),
    *("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.int64", "torch.int32", "torch.uint8"),
}


#: What training leaves beside the network; it is looked at as data and not used.
_LEFT_OVERS = {
    "ultralytics.utils.IterableSimpleNamespace",
    "ultralytics.yolo.utils.IterableSimpleNamespace",
    "types.SimpleNamespace",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "numpy.dtype",
    "numpy.ndarray",
    "_codecs.encode",
    "builtins.getattr",  # how a fused layer says which of its methods is its forward
    "typing.Any",
    "collections.defaultdict",
    *(f"builtins.{name}" for name in ("dict", "list", "int", "float", "str", "bool", "bytes")),
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
}


#: Losses and what assigns targets, which networks of some versions hold; the module's name differs between versions.
_LEFT_OVER_MODULES = (
    *("ultralytics.utils.loss.", "ultralytics.utils.tal.", "ultralytics.yolo.utils.", "ultralytics.yolo.v8."),
    "omegaconf.",  # settings of the very first versions
)


def layer_class(wanted: str) -> str | None:
    """The class of today that a name in a file stands for, without its module; None if it is no layer or network.

    Args:
        wanted: Full name as the file has it, such as ``ultralytics.nn.modules.conv.Conv``.
    """
    module, _, name = wanted.rpartition(".")
    if wanted in original.NAMES:
        return original.NAMES[wanted]
    if name in foreign.NETWORKS:
        return foreign.NETWORKS[name]
    if name in foreign.LAYERS:  # their tools define them wherever they like
        return name
    name = RENAMED_LAYERS.get(name, name)
    if module.startswith("torch.nn.modules."):
        places: list[Any] = [nn, sys.modules.get(module)]
    elif module.startswith(("ultralytics.nn.modules", "ultralytics.nn.tasks")):
        places = [modules, modules.block, modules.conv, modules.head, modules.transformer, tasks, nn]
    else:
        return None
    for place in filter(None, places):
        value = vars(place).get(name)
        if isinstance(value, type) and issubclass(value, nn.Module):
            return name
    return None


def is_left_over(name: str) -> bool:
    """Whether a name in a file is one of what training leaves beside the network."""
    return name in _LEFT_OVERS or name.startswith(_LEFT_OVER_MODULES)
