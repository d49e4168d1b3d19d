"""On which memory a thread handles signals."""

from __future__ import annotations

import ctypes
import sys


class _Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int]:
    """Address and size of this thread's stack for signals, as Linux has them; the same value on other systems."""
    stack = _Stack()
    if sys.platform == "linux":
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.place, stack.size
