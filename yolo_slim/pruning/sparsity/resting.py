"""BatchNorm layers that a fit leaves as they are, and whose channels a sparse phase therefore leaves alone."""

from __future__ import annotations

import glob
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import nn

from yolo_slim.pruning.modules.torch_private import BatchNorm
from yolo_slim.pruning.selection.selection import Selection


class Resting:
    """Finds out which BatchNorm layers of a model take no part in a fit.

    A layer rests while its gamma or beta is frozen (``requires_grad`` is False), while it is in eval mode and another
    one trains, and as long as none of the observed steps has given its gamma a gradient. Importance that is read from
    gradients is zero there, and a penalty would change what nothing can adapt.

    Args:
        model: Its BatchNorm layers with affine parameters are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        norms = {name: m for name, m in model.named_modules() if isinstance(m, BatchNorm) and m.weight is not None}
        self._norms = norms
        self._used: set[str] = set()
        self._observed = False
        self._still = self._in_eval_mode()

    def observe(self) -> None:
        """Looks at the gradients and modes of a step, after its backward."""
        self._observed = True
        self._used |= {name for name, norm in self._norms.items() if norm.weight.grad is not None}
        self._still = self._in_eval_mode()

    def names(self) -> tuple[str, ...]:
        """The layers that rest, by their names in the model."""
        frozen = {
            name
            for name, norm in self._norms.items()
            if not norm.weight.requires_grad or (norm.bias is not None and not norm.bias.requires_grad)
        }
        unused = set(self._norms) - self._used if self._observed else set()
        return tuple(sorted(frozen | self._still | unused))

    def state_dict(self) -> dict[str, list[str] | bool]:
        """What the steps so far have shown, as plain data."""
        return {"used": sorted(self._used), "observed": self._observed, "still": sorted(self._still)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` gave; layers that this model does not have are left out."""
        self._used, self._still = (set(map(str, state[key])) & set(self._norms) for key in ("used", "still"))
        self._observed = bool(state["observed"])

    def _in_eval_mode(self) -> set[str]:
        still = {name for name, norm in self._norms.items() if not norm.training}
        return still if len(still) < len(self._norms) else set()


def without(selection: Selection, modules: Collection[str]) -> Selection:
    """The same selection that also leaves the output channels of some modules, given by their names, alone."""
    return replace(selection, ignore=(*selection.ignore, *map(glob.escape, modules))) if modules else selection
