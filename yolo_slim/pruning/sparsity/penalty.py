"""L1 penalties of the sparse phase: what pulls gammas towards zero, and how hard.

The classes work on plain modules and know nothing of a trainer: a caller tells them that the gradients of a step are
complete, or that a step was taken.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.torch_private import (
    BatchNorm,
    foreach_add_,
    foreach_clamp_max,
    foreach_clamp_min_,
    foreach_sign,
    foreach_sub_,
)
from yolo_slim.pruning.selection.selection import Selection

#: Below this a gamma counts as small: its channel can go.
SMALL_GAMMA = 1e-2


def strength_at(epoch: int, epochs: int, strength: float, final_fraction: float = 0.1) -> float:
    """Strength of the L1 term in one epoch: a linear decay from ``strength`` to about ``final_fraction`` of it.

    Args:
        epoch: Index of the epoch, 0 to ``epochs - 1``.
        epochs: Number of epochs of the fit.
        strength: Lambda of Network Slimming (Liu et al., ICCV 2017, equation 1), at least 0.
        final_fraction: Share of ``strength`` that the line would reach at ``epoch == epochs``, in [0, 1].

    >>> [round(strength_at(e, 4, 1.0), 3) for e in range(4)]
    [1.0, 0.775, 0.55, 0.325]
    """
    return strength * (1 - (1 - final_fraction) * epoch / epochs)


def gamma_magnitudes(model: nn.Module) -> Tensor:
    """|gamma| of all BatchNorm layers of a model in one vector, of shape (channels,)."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.weight is not None]
    return torch.cat([n.weight.detach().abs().float() for n in norms]) if norms else torch.zeros(0)


def small_share(magnitudes: Tensor, limit: float = SMALL_GAMMA) -> float:
    """Share of the entries of ``magnitudes`` that are below ``limit``, in [0, 1]; 0 where there are none."""
    return (magnitudes < limit).float().mean().item() if magnitudes.numel() else 0.0


class PenalisedGammas:
    """The gammas and betas that an L1 penalty acts on.

    Args:
        model: The module whose gammas are penalised.
        graph: Its channel graph.
        selection: Says which gammas are prunable (``shortcuts``, ``ignore``); the same object should rank them later.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, selection: Selection) -> None:
        self._model, self._graph = model, graph
        self.follow(selection)

    def follow(self, selection: Selection, chosen: Tensor | None = None) -> None:
        """Acts on the gammas that this selection ranks from here on, or on some of them.

        Args:
            selection: Says which gammas are prunable.
            chosen: Bool (num_groups,), the groups whose gammas count; by default all.
        """
        self._names: list[str] = []
        self._gammas: list[tuple[nn.Parameter, Tensor | None]] = []
        self._betas: list[tuple[nn.Parameter, Tensor | None]] = []
        for gamma in self._graph.prunable_gammas(selection.shortcuts, selection.ignore):
            norm = norm_at(self._model, gamma.module)
            acted_on = gamma.prunable if chosen is None else gamma.prunable & chosen[gamma.groups]
            if not bool(acted_on.any()):
                continue
            mask = None if bool(acted_on.all()) else acted_on.to(norm.weight.device, norm.weight.dtype)
            self._names.append(gamma.module)
            self._gammas.append((norm.weight, mask))
            if norm.bias is not None:
                self._betas.append((norm.bias, mask))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The gammas, one parameter per BatchNorm layer; some of their channels may be left alone."""
        return [weight for weight, _ in self._gammas]

    def magnitudes(self) -> Tensor:
        """|gamma| of every channel that is penalised, float32 (channels,)."""
        magnitudes = [
            w.detach().abs().float() if m is None else w.detach().abs().float()[m > 0] for w, m in self._gammas
        ]
        return torch.cat(magnitudes) if magnitudes else torch.zeros(0)

    @torch.no_grad()
    def copy_zeros(self, *models: nn.Module) -> None:
        """Makes gammas that have become exactly zero so in copies of the model, whose averages would lag behind."""
        for name, (gamma, _) in zip(self._names, self._gammas, strict=True):
            for model in models:
                norm_at(model, name).weight.masked_fill_(gamma == 0, 0.0)

    def _due(self, owned: Collection[int], beta: bool = False) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Values and gradients of what an optimizer is about to update or has updated; indices of masks with them."""
        values, gradients, masks = [], [], []
        for parameter, mask in self._betas if beta else self._gammas:
            if id(parameter) in owned and parameter.requires_grad and parameter.grad is not None:
                values.append(parameter.detach())
                gradients.append(parameter.grad)
                masks.append(mask)
        return values, gradients, cast(list[Tensor], masks)


def _masked(changes: list[Tensor], masks: list[Tensor]) -> None:
    for change, mask in zip(changes, masks, strict=True):
        if mask is not None:
            change.mul_(mask)


class Subgradient(PenalisedGammas):
    """The L1 subgradient of Network Slimming: ``grad(gamma) += strength * sign(gamma)``."""

    @torch.no_grad()
    def add_to_gradients(self, strength: float, owned: Collection[int], beta_strength: float = 0.0) -> int:
        """Adds the term to the complete gradients of one optimizer step.

        Args:
            strength: Strength of this epoch.
            owned: ``id()`` of the parameters that the optimizer is about to update. Gammas of other optimizers, frozen
                gammas and gammas that took no part in the loss are left alone.
            beta_strength: The same for the betas of these channels.

        Returns:
            The number of BatchNorm layers that were penalised.
        """
        layers = self._add(strength, owned, beta=False)
        if beta_strength:
            self._add(beta_strength, owned, beta=True)
        return layers

    def _add(self, strength: float, owned: Collection[int], beta: bool) -> int:
        values, gradients, masks = self._due(owned, beta)
        if values:
            signs = list(foreach_sign(values))
            _masked(signs, masks)
            foreach_add_(gradients, signs, alpha=strength)
        return len(values)


class Proximal(PenalisedGammas):
    """The proximal operator of the L1 norm: gammas move towards zero by rate x strength, and stop at exactly zero.

    Applied after the optimizer's step (forward-backward splitting, Duchi & Singer, JMLR 2009, equation 19), so that
    neither the momentum nor Adam's scaling nor the clipping of gradients has a part in it.
    """

    @torch.no_grad()
    def shrink(self, optimizer: Optimizer, strength: float, beta_strength: float = 0.0) -> int:
        """Applies the operator to what one optimizer has just updated.

        Args:
            optimizer: Its parameter groups say the rate of the step.
            strength: Strength of this epoch.
            beta_strength: The same for the betas of these channels.

        Returns:
            The number of BatchNorm layers that were penalised.
        """
        layers = 0
        for group in optimizer.param_groups:
            owned = {id(p) for p in group["params"]}
            layers += self._soften(float(group["lr"]) * strength, owned, beta=False)
            if beta_strength:
                self._soften(float(group["lr"]) * beta_strength, owned, beta=True)
        return layers

    def _soften(self, threshold: float, owned: Collection[int], beta: bool) -> int:
        values, _, masks = self._due(owned, beta)
        if values and threshold:
            # w - clamp(w, -t, t) is sign(w) * max(|w| - t, 0), and exactly zero inside.
            inside = list(foreach_clamp_max(values, threshold))
            foreach_clamp_min_(inside, -threshold)
            _masked(inside, masks)
            foreach_sub_(values, inside)
        return len(values)


def norm_at(model: nn.Module, name: str) -> BatchNorm:
    """The BatchNorm layer of that name."""
    return cast(BatchNorm, model.get_submodule(name))
