"""What comes from outside, made fit to be shown: on one line, of a bounded length, without control characters."""

from __future__ import annotations

import reprlib
from typing import Any

_LEVELS, _ITEMS = 3, 4


def printable(text: str) -> str:
    r"""Text in which everything that a terminal could obey, or that would hide, is written out as an escape.

    >>> print(printable("a\x1b[31mb\u202ec"))
    a\x1b[31mb\u202ec
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """Like :func:`printable`, for text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def say(text: str) -> None:
    """Prints text in which a path or a name may come from outside."""
    print(printable_lines(text), flush=True)


def brief(value: object, length: int = 80) -> str:
    """The ``repr`` of any value in at most ``length`` characters, however large or deeply nested the value is.

    Only strings, numbers and Python's own containers are looked into; of anything else the class is named.

    >>> brief({"names": ["cat"] * 1000})
    "{'names': ['cat', 'cat', 'cat', 'cat', ...]}"
    """
    shown = printable(_Brief(length).repr(value))
    return shown if len(shown) <= length else shown[: length - 3] + "..."


class _Brief(reprlib.Repr):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.maxlevel = _LEVELS
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = _ITEMS
        self.maxstring = self.maxother = length

    def repr1(self, x: Any, level: int) -> str:
        if type(x) in (int, float, bool, type(None)):
            return self.repr_int(x, level) if type(x) is int else repr(x)
        if type(x) in (str, bytes):
            return repr(x[: self.maxstring]) + ("..." if len(x) > self.maxstring else "")
        if type(x) in (tuple, list, dict, set, frozenset):
            return super().repr1(x, level)
        return f"<{type(x).__name__}>"

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 256 else f"<an integer of {x.bit_length()} bits>"
