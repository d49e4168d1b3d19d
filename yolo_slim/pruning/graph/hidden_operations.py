"""Operations that no function mode sees."""

from __future__ import annotations

from typing import Any

from yolo_slim.pruning.graph.tracer import Tracer
from yolo_slim.pruning.modules.torch_private import DispatchMode


class HiddenOperations(DispatchMode):
    """Fixes what is touched by operations that no function mode sees, such as those of a scripted function."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.tracer.operation = str(func)
        self.tracer.fix_tensors((args, kwargs), "no rule for this operation")
        return func(*args, **(kwargs or {}))
