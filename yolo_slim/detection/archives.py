"""Files that torch.save wrote, looked at before anything in them is used: is this one sound, and what does it want?"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

#: More objects than any detector's file has; what a damaged or hostile file may make us look at.
MAX_OBJECTS = 2_000_000


class Inert:
    """What a file says of an object: the name of its class, what it was to be made from, and its state.

    Reading a file makes these in place of objects, so that nothing in the file is imported or called.

    Attributes:
        wanted: Full name of the class or function that the file asks for.
        arguments: What the file would call it with.
        state: What the file would put into it.
    """

    wanted = ""

    def __new__(cls, *arguments: Any) -> Inert:
        self = super().__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        """Takes whatever the file says."""
        self.state = state

    @property
    def class_name(self) -> str:
        """The class without its module."""
        return self.wanted.rpartition(".")[2]


def stand_in(wanted: str) -> type[Inert]:
    """The class of the inert objects that take the place of ``wanted``."""
    return type("Inert", (Inert,), {"wanted": wanted})


def expect_archive(path: Path, remedy: str) -> None:
    """Refuses what torch did not write, and what has changed since: torch itself does not look at the checksums.

    Args:
        path: The file.
        remedy: What to do instead, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, or of another kind.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"weights file {path} {what}; {remedy}")
    if path.stat().st_size == 0:
        raise ValueError(f"weights file {path} is empty; {remedy}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch stores without compressing: anything else could unpack to any size.
            plain = all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1 for entry in entries)
            if not plain or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise ValueError(
                    f"weights file {path} is compressed or packed in a way that torch does not use, it could unpack "
                    f"to any size; {remedy}"
                )
            sound = archive.testzip() is None
            script = any(entry.filename.endswith("/constants.pkl") for entry in entries)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError):
        sound = script = False
    if script:
        raise ValueError(f"weights file {path} is a TorchScript program and cannot be trained or pruned; {remedy}")
    if not sound:
        raise ValueError(f"weights file {path} is damaged, cut off or no checkpoint at all; {remedy}")


def names_wanted(path: Path) -> set[str]:
    """The classes and functions that a file asks for, by their full names; none of them is imported or called.

    Raises:
        pickle.UnpicklingError: If the file's pickle is malformed, or claims more data than the file holds.
    """
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1:
            raise pickle.UnpicklingError(f"{len(pickles)} data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        sizes = {
            entry.filename.removeprefix(f"{folder}data/"): entry.file_size
            for entry in archive.infolist()
            if entry.filename.startswith(f"{folder}data/")
        }
        with archive.open(pickles[0]) as file:
            scan = _Scan(file, encoding="utf-8")
            scan.sizes = sizes
            scan.load()
    return scan.wanted


# The unpickler written in Python: the one in C allocates as much memory as a memo index asks for.
class _Scan(pickle._Unpickler):  # type: ignore[name-defined, misc]
    """Goes through a pickle without making anything but inert objects."""

    sizes: dict[str, int]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.wanted: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # pickle's old protocols say it so
        self.wanted.add(full)
        return _CONTAINERS.get(full) or stand_in(full)

    def persistent_load(self, pid: Any) -> Inert:
        """Refuses a storage of another size than the file has: torch would read what lies behind it in memory."""
        kind, storage, key, _, count = pid
        size = self.sizes.get(key)
        if kind != "storage" or type(count) is not int or size is None or size != count * _item_size(storage):
            raise pickle.UnpicklingError(f"the data of storage {key!r} is missing or of another size")
        return stand_in("storage")()

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("extension codes are not used by torch.save")


_CONTAINERS = {"collections.OrderedDict": OrderedDict, "builtins.set": set}
#: Bytes of an element of each kind of storage.
ITEM_SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


def _item_size(storage: Any) -> int:
    return ITEM_SIZES[storage.wanted.rpartition(".")[2]]


def plain(value: Any) -> Any:
    """A copy of plain data: numbers, strings, None, and lists, tuples, sets and dicts of these.

    Raises:
        ValueError: If there is anything else in it, or more than any detector needs: what comes from a file may hold
            itself, or hold one list any number of times.
    """
    left = MAX_OBJECTS

    def copied(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 50:
            raise ValueError("nested more deeply than any description of a detector")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) in (list, tuple, set):
            return type(value)(copied(item, depth + 1) for item in value)
        if type(value) in (dict, OrderedDict):
            return {copied(key, depth + 1): copied(item, depth + 1) for key, item in value.items()}
        raise ValueError(f"expected plain data, found a {getattr(value, 'wanted', type(value).__name__)}")

    return copied(value, 0)
