"""The table of operations the tracer can follow; an operation that is missing here fixes what it touches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from yolo_slim.pruning.graph.axes import Call, words
from yolo_slim.pruning.graph.ledger import Ledger
from yolo_slim.pruning.graph.rules.arithmetic import ARITHMETIC
from yolo_slim.pruning.graph.rules.axes import AXES
from yolo_slim.pruning.graph.rules.layers import LAYERS
from yolo_slim.pruning.graph.rules.regions import NEW_TENSORS, REGIONS
from yolo_slim.pruning.graph.rules.shape import SHAPES
from yolo_slim.pruning.modules.torch_private import is_overload

Rule = Callable[[Ledger, Call], None]

RULES: dict[str, Rule] = {**LAYERS, **ARITHMETIC, **AXES, **SHAPES, **REGIONS}

# They may take a size from channels without taking a tensor.
SIZED = frozenset(NEW_TENSORS)

# Questions to a tensor whose answer does not depend on its channels.
NEUTRAL = frozenset(
    words(
        """
        dim ndim ndimension dtype device layout names grad grad_fn is_leaf requires_grad set_requires_grad
        get_device is_cuda is_cpu is_mps is_xpu is_xla is_mtia is_maia is_ipu is_vulkan is_mkldnn is_meta is_quantized
        is_sparse is_sparse_csr is_nested is_complex is_conj is_neg is_floating_point is_signed is_inference is_shared
        is_pinned is_contiguous element_size itemsize hash repr format _version
        """
    )
)


@cache
def operation_name(func: Callable[..., Any]) -> str:
    """One name for the spellings of an operation: ``add``, ``add_``, ``__add__``, ``__iadd__``, ``__radd__``."""
    if is_overload(func) or not hasattr(func, "__name__"):
        return str(func)  # other argument orders than the functions of the same name
    name: str = func.__name__
    if name == "__get__":
        return getattr(func, "__self__").__name__  # noqa: B009
    if name == "__set__":
        return "set_" + getattr(func, "__self__").__name__  # noqa: B009
    if name.startswith("__"):
        name = name.strip("_")
        return name[1:] if name in ("iadd", "isub", "imul", "itruediv", "radd", "rmul") else name
    return name.removesuffix("_")
