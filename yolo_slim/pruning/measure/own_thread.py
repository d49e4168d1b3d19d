"""Where a runtime is loaded that changes the thread which loads it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def on_own_thread(function: Callable[[], T]) -> T:
    """Calls a function on a thread that ends with it, and returns what it returns.

    OpenVINO's CPU plugin gives the thread that loads it another stack for signals, in memory that goes with the
    plugin. When the garbage collector frees that on another thread, the next signal, such as Ctrl-C, kills the process.

    Args:
        function: Loads what is loaded there.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()
