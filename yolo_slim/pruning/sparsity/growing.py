"""The growing penalty: more and more channels become exactly zero while the others take over."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.torch_private import foreach_mul_
from yolo_slim.pruning.sparsity.choice import Choice
from yolo_slim.pruning.sparsity.penalty import norm_at


def growing_share(progress: float) -> float:
    """Share of the way to the selection at a point of the growth: a cubic ramp from 0 to 1.

    The ramp is the one of Zhu & Gupta, "To prune, or not to prune" (2017), equation 1: fast while there is much to
    remove, slow at the end.

    Args:
        progress: 0 when the growth begins, 1 when it is complete, and more afterwards.

    >>> [round(growing_share(p), 3) for p in (0, 0.25, 0.5, 1, 2)]
    [0.0, 0.578, 0.875, 1.0, 1.0]
    """
    return 1.0 - (1 - min(1.0, progress)) ** 3


class Growing:
    """Makes a growing set of channels zero while the others adapt, so that the prune costs nothing.

    A caller ranks the :class:`Choice` anew between two calls of :meth:`advance`: what is still there has taken over
    from what is gone, and its importance has changed with that (iterative pruning, Molchanov et al., CVPR 2019).

    Args:
        model: The module that is made sparse.
        graph: Its channel graph.
        choice: Says which groups go; all ratios of its selection grow, and budgets shrink from what the dense model
            costs.

    Attributes:
        choice: The groups that are zero.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, choice: Choice) -> None:
        self.choice = choice
        shortcuts, ignore = choice.selection.shortcuts, choice.selection.ignore
        self._gammas = [g for g in graph.prunable_gammas(shortcuts, ignore) if bool(g.prunable.any())]
        self._norms = [norm_at(model, g.module) for g in self._gammas]
        self._held = torch.zeros_like(choice.chosen)  # the groups that the factors below are made for
        self._factors: dict[str, Tensor] = {}
        self._vectors: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def advance(self, progress: float, resting: Collection[str] = ()) -> float:
        """Chooses as many channels as a point of the growth asks for; nothing before the choice has been ranked.

        Args:
            progress: See :func:`growing_share`.
            resting: Names of BatchNorm layers whose channels are left alone, unless they have been chosen before.

        Returns:
            The share of the prunable channels that is chosen, in [0, 1).
        """
        return self.choice.advance(growing_share(progress), resting)

    @torch.no_grad()
    def hold(self, *models: nn.Module) -> None:
        """After an optimizer step: keeps gammas and betas of what is chosen at zero, in each of the given copies."""
        if not torch.equal(self._held, self.choice.chosen):
            self._held = self.choice.chosen.clone()
            self._set_factors()
        for model in models:
            values, factors = self._to_hold(model)
            if values:
                foreach_mul_(values, factors)

    def _set_factors(self) -> None:
        self._factors, self._vectors = {}, {}
        for gamma, norm in zip(self._gammas, self._norms, strict=True):
            gone = self._held[gamma.groups.cpu()] & gamma.prunable.cpu()
            if bool(gone.any()):
                self._factors[gamma.module] = (~gone).to(norm.weight.device, norm.weight.dtype)

    def _to_hold(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Gammas and betas of one copy of the model with channels at zero, and their factors."""
        if id(model) not in self._vectors:
            values: list[Tensor] = []
            factors: list[Tensor] = []
            for name, factor in self._factors.items():
                norm = norm_at(model, name)
                for parameter in (norm.weight, norm.bias):
                    if parameter is not None:
                        values.append(parameter)
                        factors.append(factor.to(parameter.device))
            self._vectors[id(model)] = values, factors
        return self._vectors[id(model)]
