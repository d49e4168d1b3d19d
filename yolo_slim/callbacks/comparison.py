"""A network and its teacher in the same training step, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.callbacks.framework import LightningModule, MisconfigurationException


class Comparison:
    """The hooks of a fit: the teacher sees what the network sees, and the step's loss gets the difference added."""

    def __init__(
        self,
        pl_module: LightningModule,
        student: nn.Module,
        teacher: nn.Module,
        modules: Sequence[str],
        channels: dict[str, dict[str, list[int]]],
        gains: tuple[float, float],
    ) -> None:
        self._pl_module: Any = pl_module
        self._student, self._teacher, self._modules = student, teacher, modules
        self._channels, self._gains = channels, gains
        self._last: dict[str, str] = {}  # of each module, the layer that has run last
        self._handles: list[Any] = []
        self._wrapped: dict[str, dict[str, Any]] = {}  # methods that the module had of its own, by their names
        self._in_step = False
        self._losses: list[Tensor] = []
        self._sums = torch.zeros(2, device=pl_module.device)
        self._count = 0
        self._features: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        #: The method that is wrapped: a module that adds the loss itself says so.
        self._method = "auxiliary_loss" if hasattr(pl_module, "auxiliary_loss") else "training_step"

    def attach(self) -> None:
        """Begins to compare."""
        self._handles = [self._student.register_forward_hook(self._compare, with_kwargs=True)]
        for network, found in zip((self._student, self._teacher), self._features, strict=True):
            for name in self._modules:
                self._handles.append(network.get_submodule(name).register_forward_hook(_noting(found, name)))
        for name in self._modules:
            for layer, module in self._teacher.get_submodule(name).named_modules(prefix=name):
                if any(True for _ in module.parameters(recurse=False)):
                    self._handles.append(module.register_forward_hook(_naming(self._last, name, layer)))
        self._wrap("training_step", self._step)
        if self._method == "auxiliary_loss":
            self._wrap("auxiliary_loss", lambda inner: inner() + self._taken())

    def detach(self) -> None:
        """Leaves network and module alone."""
        for handle in self._handles:
            handle.remove()
        for name, given in self._wrapped.items():
            vars(self._pl_module).pop(name, None)
            vars(self._pl_module).update(given)
        self._handles, self._wrapped = [], {}

    def means(self) -> dict[str, Tensor]:
        """The mean losses since this was asked last."""
        values = self._sums / max(self._count, 1)
        self._sums, self._count = torch.zeros_like(self._sums), 0
        named = {"distillation/outputs": values[0], "distillation/features": values[1]}
        return {name: value for (name, value), gain in zip(named.items(), self._gains, strict=True) if gain}

    def _wrap(self, name: str, around: Callable[..., Any]) -> None:
        inner, own = getattr(self._pl_module, name), vars(self._pl_module)
        self._wrapped[name] = {name: own[name]} if name in own else {}
        vars(self._pl_module)[name] = lambda *args, **kwargs: around(inner, *args, **kwargs)

    def _step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._in_step, self._losses, before = True, [], self._count
        for found in self._features:
            found.clear()
        try:
            result = inner(*args, **kwargs)
        finally:
            self._in_step = False
        if self._count == before and result is not None and torch.is_grad_enabled():
            raise MisconfigurationException(
                f"Distillation: training_step did not call the {type(self._student).__name__} that learns, so that "
                "nothing was compared; give target= the path of the network that it calls"
            )
        if self._method == "auxiliary_loss" or result is None:
            return result
        if isinstance(result, dict):
            return {**result, "loss": result["loss"] + self._taken()}
        return result + self._taken()

    def _taken(self) -> Tensor | float:
        losses, self._losses = self._losses, []
        return torch.stack(losses).sum() if losses else 0.0

    def _compare(self, student: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
        if not self._in_step or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            taught = self._teacher(*args, **kwargs)
        losses = [self._sums.new_zeros(()), self._sums.new_zeros(())]
        if self._gains[0]:
            losses[0] = self._pl_module.distillation_loss(outputs, taught)
        mine, theirs = self._features
        for name in self._modules:
            if name not in mine or name not in theirs:
                raise MisconfigurationException(f"modules: {name!r} is not run in training; leave it out")
            kept = self._channels.get(self._last.get(name, ""), {}).get("out")
            losses[1] = losses[1] + relative_difference(mine.pop(name), theirs.pop(name), kept) / len(self._modules)
        self._sums += torch.stack([loss.detach().float() for loss in losses])
        self._count += 1
        self._losses.append(self._gains[0] * losses[0] + self._gains[1] * losses[1])


def relative_difference(features: Tensor, taught: Tensor, kept: Sequence[int] | None) -> Tensor:
    """Mean squared difference of features (B, C, ...) to those of the teacher, divided by the teacher's variance.

    Args:
        features: Of the network.
        taught: Of the teacher, (B, C', ...).
        kept: C indices, the teacher's channels that the network has; None for all.

    Raises:
        MisconfigurationException: If the two do not fit.
    """
    if kept is not None:
        taught = taught[:, kept]
    if taught.shape != features.shape:
        raise MisconfigurationException(
            f"the network has features of {tuple(features.shape)}, and those of the teacher that stay are of "
            f"{tuple(taught.shape)}: give the plan by which this network was cut from this teacher"
        )
    return nn.functional.mse_loss(features.float(), taught.float()) / taught.float().var().clamp(min=1e-6)


def _noting(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        found[name] = output

    return note


def _naming(last: dict[str, str], name: str, layer: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, output: Any) -> None:
        last[name] = layer

    return note


def expect_modules(student: nn.Module, teacher: nn.Module, names: Sequence[str]) -> None:
    """Refuses names of modules that one of the networks does not have.

    Raises:
        MisconfigurationException: With the names that it has.
    """
    for name in names:
        for whose, network in (("network", student), ("teacher", teacher)):
            if name not in dict(network.named_modules()):
                children = [child for child, _ in network.named_children()]
                raise MisconfigurationException(
                    f"modules: the {whose} has no module {name!r}; it has {children[:10]} and what is below them"
                )
