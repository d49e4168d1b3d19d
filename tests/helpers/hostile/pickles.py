"""Files that torch.save would never write: pickles that name and call anything, in archives of any shape."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


class Name:
    """A class or function by its module and name, whether there is one or not."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """What ``function`` returns for ``arguments``; then ``state`` is put into it."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None, new: bool = False) -> None:
        self.function, self.arguments, self.state, self.new = function, arguments, state, new


class Stored:
    """A storage: what torch.save keeps beside the pickle."""

    def __init__(self, key: Any, count: Any, kind: Any = None) -> None:
        self.key, self.count, self.kind = key, count, kind or Name("torch", "FloatStorage")


class Raw:
    """Opcodes as they are; they must leave one object on the stack."""

    def __init__(self, opcodes: bytes) -> None:
        self.opcodes = opcodes


class _Pickler(pickle._Pickler):
    """Python's own pickler, which also writes the above."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_name(self, what: Name) -> None:
        if self.proto >= 4:
            self.save(what.module)
            self.save(what.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{what.module}\n{what.name}\n".encode())

    def save_call(self, what: Call) -> None:
        self.save(what.function)
        self.save(tuple(what.arguments))
        self.write(pickle.NEWOBJ if what.new else pickle.REDUCE)
        if what.state is not None:
            self.save(what.state)
            self.write(pickle.BUILD)

    def save_stored(self, what: Stored) -> None:
        self.save(("storage", what.kind, what.key, "cpu", what.count))
        self.write(pickle.BINPERSID)

    def save_raw(self, what: Raw) -> None:
        self.write(what.opcodes)

    dispatch |= {Name: save_name, Call: save_call, Stored: save_stored, Raw: save_raw}


def pickled(content: Any, protocol: int = 2) -> bytes:
    """The pickle of ``content``, with names, calls, storages and raw opcodes anywhere in it."""
    file = io.BytesIO()
    pickler = _Pickler(file, protocol)
    pickler.fast = protocol < 4 and not isinstance(content, (list, dict))  # no memo where nothing is shared
    pickler.dump(content)
    return file.getvalue()


def tensor(stored: Stored, offset: Any = 0, size: Any = (1,), stride: Any = (1,), *more: Any) -> Call:
    """A tensor that looks at a storage."""
    empty = Call(Name("collections", "OrderedDict"))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), stored, offset, size, stride, False, empty, *more)


def layer(name: str, **state: Any) -> Call:
    """An object of a class given by its full name, with attributes."""
    module, _, kind = name.rpartition(".")
    return Call(Name(module, kind), state=state, new=True)


def write_archive(
    path: Path,
    content: Any,
    storages: Mapping[str, bytes] | None = None,
    extra: Mapping[str, bytes] | None = None,
    protocol: int = 2,
) -> Path:
    """Writes an archive as torch.save lays it out.

    Args:
        path: The file.
        content: What to pickle, or the bytes of the pickle.
        storages: Raw data by key.
        extra: Further entries by their full names.
        protocol: Of the pickle.
    """
    data = content if isinstance(content, bytes) else pickled(content, protocol)
    entries = {"archive/data.pkl": data, "archive/.format_version": b"1", "archive/byteorder": b"little"}
    entries |= {f"archive/data/{key}": value for key, value in (storages or {}).items()}
    entries |= {"archive/version": b"3\n", **(extra or {})}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in entries.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return path


def read_entries(path: Path) -> dict[str, bytes]:
    """The entries of an archive."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path: Path, entries: Mapping[str, bytes]) -> Path:
    """An archive of these entries, with sound checksums."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in entries.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return path


def floats(*values: float) -> bytes:
    """Raw data of a FloatStorage."""
    return struct.pack(f"<{len(values)}f", *values)


#: A detector of 20 thousand parameters, as a model YAML's content.
TINY: dict[str, Any] = {
    "nc": 2,
    "reg_max": 4,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "C2f", [8, True]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "SPPF", [16, 5]],
    ],
    "head": [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 3], 1, "Concat", [1]], [[7, 5], 1, "Detect", ["nc"]]],
}


def write_small(folder: Path) -> Path:
    """Writes ``small.yaml``, a description of four times the width of ``TINY``, of which enough can be pruned."""
    backbone = [[a, n, kind, [4 * size, *more]] for a, n, kind, (size, *more) in TINY["backbone"]]
    (folder / "small.yaml").write_text(yaml.safe_dump({**TINY, "backbone": backbone}))
    return folder / "small.yaml"


def write_tiny(folder: Path, names: Sequence[str] = ("car", "bus")) -> dict[str, Path]:
    """Writes a sound ``tiny.pt`` and ``tiny.ckpt`` of these classes into a folder; returns them by their endings."""
    import torch

    from yolo_slim.detection.files.checkpoints import save_weights
    from yolo_slim.detection.files.stock import save_ultralytics
    from yolo_slim.detection.network.build import build_network

    torch.manual_seed(0)
    net = build_network(TINY, nc=len(names))
    net.names = dict(enumerate(names))
    files = {kind: folder / f"tiny.{kind}" for kind in ("pt", "ckpt")}
    save_ultralytics(net, files["pt"], imgsz=64)
    save_weights(net, files["ckpt"], imgsz=64)
    return files
