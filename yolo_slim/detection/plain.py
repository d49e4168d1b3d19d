"""What files from outside say, as data: plain values, and inert objects in place of all others."""

from __future__ import annotations

from collections import OrderedDict
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
        """Takes whatever the file says."""
        self = super().__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __init__(self, *arguments: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: object) -> None:
        """Takes whatever the file says."""
        self.state = state

    def __call__(self, *arguments: Any) -> Inert:
        """What a file says that it would call next is as inert."""
        return inert_class(f"{self.wanted}()")(*arguments)


def inert_class(wanted: str) -> type[Inert]:
    """The class of the inert objects that take the place of ``wanted``."""
    return type("Inert", (Inert,), {"wanted": wanted})


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
