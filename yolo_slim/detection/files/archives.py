"""Files that torch.save wrote, looked at before anything in them is used: is this one sound, and what does it want?"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

#: More objects than any detector's file has; what a damaged or hostile file may make us look at.
MAX_OBJECTS = 2_000_000
#: Ten times the largest pickle of a detector, in bytes: a few bytes of it can stand for large objects.
MAX_PICKLE = 5_000_000
#: How files begin that torch wrote before version 1.6: a pickled number.
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


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
        """Takes whatever the file says."""
        self = super().__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        """Takes whatever the file says."""
        self.state = state

    def __call__(self, *arguments: Any) -> Inert:
        """What a file says that it would call next is as inert."""
        return stand_in(f"{self.wanted}()")(*arguments)


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
        what = "is a folder" if path.is_dir() else "is not an ordinary file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"weights file {path} {what}; {remedy}")
    if path.stat().st_size == 0:
        raise ValueError(f"weights file {path} is empty; {remedy}")
    with path.open("rb") as file:
        if file.read(len(_OLD_FORMAT)) == _OLD_FORMAT:
            raise ValueError(
                f"weights file {path} is in the format that torch wrote before version 1.6; save it again with the "
                f"Ultralytics that wrote it, or {remedy}"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            script = any(entry.filename.endswith("/constants.pkl") for entry in entries)
            # torch stores without compressing: anything else could unpack to any size.
            plain = all(
                entry.compress_type == zipfile.ZIP_STORED
                and entry.compress_size == entry.file_size
                and not entry.flag_bits & 1
                for entry in entries
            )
            if not script and (not plain or sum(entry.file_size for entry in entries) > path.stat().st_size):
                raise ValueError(
                    f"weights file {path} is compressed or packed in a way that torch does not use, it could unpack "
                    f"to any size; {remedy}"
                )
            names = [entry.filename for entry in entries]
            sound = not script and archive.testzip() is None and _reads_alike(path, names)
    # zipfile fails in many ways on what is damaged; NotImplementedError is a RuntimeError.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, UnicodeError, OSError):
        sound = script = False
    if script:
        raise ValueError(f"weights file {path} is a TorchScript program and cannot be trained or pruned; {remedy}")
    if not sound:
        raise ValueError(f"weights file {path} is damaged, cut off or no checkpoint at all; {remedy}")


def _reads_alike(path: Path, names: list[str]) -> bool:
    """Whether torch, which reads archives in its own way, finds the entries that Python's zipfile finds.

    torch takes names in upper and lower case for the same, reads the folder of the first entry, and does not look for
    a directory in other places than the end of the file.
    """
    if len({name.lower() for name in names}) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        return False
    with path.open("rb") as file:
        end = file.seek(0, 2) - 22
        file.seek(max(end - 76, 0))
        tail = file.read()
    signature, *_, size, offset, comment = struct.unpack("<4s4H2LH", tail[-22:])
    if len(tail) == 98 and tail[56:60] == b"PK\6\7":  # a second record for large files, and where it is
        end -= 76
        (place,) = struct.unpack("<Q", tail[64:72])
        size, offset = struct.unpack("<2Q", tail[40:56])
        if tail[:4] != b"PK\6\6" or place != end:
            return False
    return bool(signature == b"PK\5\6" and comment == 0 and offset + size == end)


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
        if archive.getinfo(pickles[0]).file_size > MAX_PICKLE:
            raise pickle.UnpicklingError("larger than the pickle of any detector")
        with archive.open(pickles[0]) as file:
            scan = _Scan(file, encoding="utf-8")
            scan.sizes = sizes
            scan.load()
    return scan.wanted


#: What torch's restricted unpickler knows, and how later protocols say names, for a message about these.
_OPCODES = b"NcRb\x81easu(t\x85\x86\x87}])\x8f\x88\x89QJKMGXUhjqr\x8a\x80." + b"\x93\x94\x8c\x95"
_SCALARS = (bool, int, float, str, type(None))


# The unpickler written in Python: the one in C allocates as much memory as a memo index asks for.
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Scan(_Unpickler):
    """Goes through a pickle without making anything but inert objects.

    What passes is read by torch afterwards, so it also refuses what would make torch take any time or memory, or
    crash: hashing tuples that are nested without end, and calls that copy one large object any number of times.
    """

    dispatch = {opcode: _Unpickler.dispatch[opcode] for opcode in _OPCODES}
    sizes: dict[str, int]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.wanted: set[str] = set()
        self.copied = 0

    def find_class(self, module: str, name: str) -> Any:
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"  # pickle's old protocols say it so
        if not full.isprintable() or len(full) > 200:
            raise pickle.UnpicklingError("a name that is none")
        self.wanted.add(full)
        return _CONTAINERS.get(full) or stand_in(full)

    def persistent_load(self, pid: Any) -> Inert:
        """Refuses a storage of another size than the file has: torch would read what lies behind it in memory."""
        kind, storage, key, _, count = pid
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise pickle.UnpicklingError("no storage")
        if self.sizes.get(key) != count * _item_size(storage):
            raise pickle.UnpicklingError(f"the data of storage {key!r} is missing or of another size")
        return stand_in("storage")()

    def call(self) -> None:
        """What comes before a call: refuses what would copy more than a detector's file holds."""
        function, arguments = self.stack[-2:]
        if type(arguments) is not tuple:
            raise pickle.UnpicklingError("a call without arguments")
        wanted = getattr(function, "wanted", "")
        self.copied += len(arguments) + sum(len(a) for a in arguments if isinstance(a, (str, list, tuple, dict)))
        if self.copied > MAX_PICKLE:
            raise pickle.UnpicklingError("calls that copy too much")
        if wanted == "_codecs.encode" and (len(arguments) != 2 or arguments[1] not in ("latin1", "latin-1")):
            raise pickle.UnpicklingError("bytes in another encoding than pickles have them")
        for items in arguments if function is set else ():
            self.expect_keys(items)
        if function is OrderedDict and arguments:
            raise pickle.UnpicklingError("a dict that is filled in a way that torch.save does not use")

    def expect_keys(self, keys: Any) -> None:
        for key in keys:
            if isinstance(key, tuple) and not all(type(item) in _SCALARS for item in key):
                raise pickle.UnpicklingError("a key that is nested")

    def load_reduce(self) -> None:
        self.call()
        super().load_reduce()

    def load_newobj(self) -> None:
        self.call()
        super().load_newobj()

    def load_build(self) -> None:
        made = self.stack[-2]
        if isinstance(made, Inert) and made.wanted.startswith("torch._"):
            raise pickle.UnpicklingError("a tensor that is changed after it was made")
        super().load_build()

    def load_setitem(self) -> None:
        self.expect_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        self.expect_keys(self.stack[::2])
        super().load_setitems()

    own = (load_reduce, load_newobj, load_build, load_setitem, load_setitems)
    dispatch |= dict(zip(b"R\x81bsu", own, strict=True))


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

    A class that stands in place of its name becomes that name.

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
        if isinstance(value, type) and issubclass(value, Inert):  # some tools leave classes in place of their names
            return value.wanted
        raise ValueError(f"expected plain data, found a {getattr(value, 'wanted', type(value).__name__)}")

    return copied(value, 0)
