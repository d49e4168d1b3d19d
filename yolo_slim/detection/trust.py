"""Whether files may be opened that could run code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusted(trust: bool = True) -> Iterator[None]:
    """Opens ``.pt`` files with Python's own unpickler, which runs whatever a file says.

    Args:
        trust: False changes nothing.

    Examples:
        >>> with trusted():
        ...     detector = YOLODetector(weights="from_a_friend.pt")  # doctest: +SKIP
    """
    token = _trusted.set(trust or _trusted.get())
    try:
        yield
    finally:
        _trusted.reset(token)


def is_trusted() -> bool:
    """Whether this is inside of :func:`trusted`."""
    return _trusted.get()
