"""Every name of torch's that the engine uses and torch does not promise to keep; nothing else in it uses one.

``tests/pruning/modules/test_torch_private.py`` says what breaks when one of them changes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import FrameType

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.conv import _ConvNd as Convolution
from torch.nn.modules.conv import _ConvTransposeNd as TransposedConvolution
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

__all__ = [
    "BatchNorm",
    "Convolution",
    "DispatchMode",
    "StorageWeakRef",
    "TransposedConvolution",
    "foreach_add_",
    "foreach_clamp_max",
    "foreach_clamp_min_",
    "foreach_mul",
    "foreach_mul_",
    "foreach_sign",
    "foreach_sub_",
    "is_overload",
    "is_transformed",
    "running_module",
    "tensor_tables",
    "tree_map_only",
    "unhidden",
    "unscale_before_step",
    "untransformed",
]

# One kernel for many small tensors, of which a network has hundreds.
foreach_add_ = torch._foreach_add_
foreach_clamp_max = torch._foreach_clamp_max
foreach_clamp_min_ = torch._foreach_clamp_min_
foreach_mul = torch._foreach_mul
foreach_mul_ = torch._foreach_mul_
foreach_sign = torch._foreach_sign
foreach_sub_ = torch._foreach_sub_

#: How torch's fused optimizers tell a ``GradScaler`` that they divide by the loss scale in their step.
_DIVIDES_BY_SCALE = "_step_supports_amp_scaling"


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that does without torch's compiler, whose import at the first use takes over a second."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def unhidden() -> AbstractContextManager[None]:
    """Inside, no dispatch mode sees operations: those that a function mode has seen already are not hidden."""
    return torch._C._DisableTorchDispatch()


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor is one that ``torch.vmap`` or another transform of ``torch.func`` has wrapped."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def untransformed(tensor: Tensor) -> Tensor:
    """What transforms of ``torch.func`` have wrapped; any other tensor as it is."""
    while is_transformed(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def is_overload(function: object) -> bool:
    """Whether a function is one of ``torch.ops``, whose arguments may stand in another order than its namesake's."""
    return isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))


def running_module(names: Mapping[nn.Module, str]) -> str:
    """The name of the innermost of these modules whose code is running; empty if none is.

    It is found by ``self`` on the stack: hooks would slow every module down.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in names:
            return names[owner]
        frame = frame.f_back
    return ""


def tensor_tables(module: nn.Module) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """The tables of a module's own parameters and buffers; what is put into them the module has."""
    return module._parameters, module._buffers  # type: ignore[return-value]


def unscale_before_step(optimizer: Optimizer) -> None:
    """Has a gradient scaler divide by the loss scale before the optimizer's step, and not in it.

    Fused optimizers of torch take scaled gradients and divide in their kernel, so that whoever reads or clips the
    gradients before the step would see them times the loss scale, and the step would be called even where it is
    skipped. Afterwards the scaler treats them like all others: it unscales, looks for infinite gradients, and leaves
    the step out if there are any. The kernel stays the fused one.

    Args:
        optimizer: Of any kind; one that is not fused stays as it is.
    """
    if getattr(optimizer, _DIVIDES_BY_SCALE, False):
        setattr(optimizer, _DIVIDES_BY_SCALE, False)
