"""Watching every operation that a model runs, those of compiled code too."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that does without torch's compiler, whose import at the first use takes over a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
