"""Operations that no function mode sees."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from yolo_slim.pruning.tracer import Tracer


class HiddenOperations(TorchDispatchMode):
    """Fixes what is touched by operations that no function mode sees, such as those of a scripted function."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler at the first use, which takes over a second

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.tracer.operation = str(func)
        self.tracer.fix_tensors((args, kwargs), "no rule for this operation")
        return func(*args, **(kwargs or {}))
