"""What a pickle in a file asks for, found out without making anything of it."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

from yolo_slim.detection.plain import Inert, inert_class
from yolo_slim.detection.private import PythonUnpickler

#: Ten times the largest pickle of a detector, in bytes: a few bytes of it can stand for large objects.
MAX_PICKLE = 5_000_000


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
_OPCODES = (
    *(pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINFLOAT, pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.SHORT_BINSTRING),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.MARK),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS, pickle.EMPTY_SET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.NEWOBJ, pickle.BUILD, pickle.BINPERSID),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.PROTO, pickle.FRAME, pickle.STOP),
)
_SCALARS = (bool, int, float, str, type(None))


class _Scan(PythonUnpickler):
    """Goes through a pickle without making anything but inert objects.

    What passes is read by torch afterwards, so it also refuses what would make torch take any time or memory, or
    crash: hashing tuples that are nested without end, and calls that copy one large object any number of times.
    """

    dispatch = {opcode[0]: PythonUnpickler.dispatch[opcode[0]] for opcode in _OPCODES}
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
        return _CONTAINERS.get(full) or inert_class(full)

    def persistent_load(self, pid: Any) -> Inert:
        """Refuses a storage of another size than the file has: torch would read what lies behind it in memory."""
        kind, storage, key, _, count = pid
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise pickle.UnpicklingError("no storage")
        if self.sizes.get(key) != count * _item_size(storage):
            raise pickle.UnpicklingError(f"the data of storage {key!r} is missing or of another size")
        return inert_class("storage")()

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

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


_CONTAINERS = {"collections.OrderedDict": OrderedDict, "builtins.set": set}


#: Bytes of an element of each kind of storage.
ITEM_SIZES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


def _item_size(storage: Any) -> int:
    return ITEM_SIZES[storage.wanted.rpartition(".")[2]]
