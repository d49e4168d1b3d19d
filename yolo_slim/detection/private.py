"""Every name of torch's, Lightning's and the standard library's that this folder uses and that may change.

What Ultralytics keeps to itself is in ``data/guards.py`` and ``export/undisturbed.py``, each in place of one of its
habits. ``tests/detection/test_private.py`` says what breaks when one of these names changes.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = [
    "PythonUnpickler",
    "TorchDispatchMode",
    "flop_registry",
    "foreach_mul_",
    "has_static_graph",
    "overload_packet",
    "trainer_of",
]

#: The unpickler written in Python: the one in C allocates as much memory as a memo index asks for.
PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]

# One kernel for many small tensors.
foreach_mul_ = torch._foreach_mul_


def overload_packet(function: Any) -> Any:
    """The operation of ``torch.ops`` that one of its overloads belongs to, as the keys of ``flop_registry`` are."""
    return function._overloadpacket


def trainer_of(module: LightningModule) -> Trainer | None:
    """The Trainer that a module is attached to; its property ``trainer`` raises where there is none."""
    return module._trainer


def has_static_graph(trainer: Trainer) -> bool:
    """Whether a Trainer's DDP has been told that the graph stays the same."""
    return bool(getattr(trainer.strategy, "_ddp_kwargs", {}).get("static_graph"))
