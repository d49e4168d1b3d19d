"""The growing penalty: more and more channels fade to exactly zero while the others take over."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.torch_private import foreach_mul_
from yolo_slim.pruning.sparsity.choice import Choice
from yolo_slim.pruning.sparsity.penalty import norm_at


def growing_ratio(epoch: int, epochs: int, ratio: float) -> float:
    """Share of the channels that are under decay in one epoch: a cubic ramp from 0, complete after two fifths.

    The ramp is the one of Zhu & Gupta, "To prune, or not to prune" (2017), equation 1: fast while there is much to
    remove, slow at the end.

    >>> [round(growing_ratio(e, 9, 0.5), 3) for e in (0, 1, 2, 3, 8)]
    [0.0, 0.352, 0.481, 0.5, 0.5]
    """
    progress = min(1.0, epoch / max(1, 2 * epochs // 5))
    return ratio * (1 - (1 - progress) ** 3)


class Growing:
    """Lets a growing set of channels fade to exactly zero while the others adapt, so that the prune costs nothing.

    At the start of an epoch more of the groups that a :class:`Choice` ranks lowest are chosen, with the floors and
    equal halves of the prune, at a ratio, or towards a budget, that is reached after two fifths of the fit. The gammas
    and betas of newly chosen channels shrink geometrically to a thousandth in that epoch and are held at zero from the
    next one on.

    Args:
        model: The module that is made sparse.
        graph: Its channel graph.
        choice: Says which groups go; all ratios of its selection grow, and budgets shrink from what the dense model
            costs.

    Attributes:
        choice: The groups that fade or are at zero.
    """

    #: Newly chosen gammas of which no more is left than this count as faded.
    FADED = 1e-2
    #: What is left of a newly chosen gamma after one epoch of shrinking.
    EPOCH_FACTOR = 1e-3

    def __init__(self, model: nn.Module, graph: ChannelGraph, choice: Choice) -> None:
        self.choice = choice
        self._graph = graph
        self._held, self._held_share = choice.chosen, choice.share  # what is at zero, and its share of the way
        self._left = 0.0
        self._shrink = 1.0
        shortcuts, ignore = choice.selection.shortcuts, choice.selection.ignore
        self._gammas = [g for g in graph.prunable_gammas(shortcuts, ignore) if bool(g.prunable.any())]
        self._norms = [norm_at(model, g.module) for g in self._gammas]
        self._factors: dict[str, Tensor] = {}
        self._fading_of: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def start_epoch(self, epoch: int, epochs: int, steps: int, resting: Collection[str] = ()) -> float:
        """Chooses the channels of this epoch.

        Args:
            epoch: Index of the epoch.
            epochs: Number of epochs of the fit.
            steps: Optimizer steps that this epoch will have, at least 1.
            resting: Names of BatchNorm layers whose channels are left alone, unless they have been chosen before.

        Returns:
            The share of the prunable channels that is chosen, in [0, 1).
        """
        before = self._held = self.choice.chosen
        self._held_share = self.choice.share
        reached = self.choice.advance(growing_ratio(epoch, epochs, 1.0), resting)
        self._left, shrink = 1.0, self.EPOCH_FACTOR ** (1 / max(1, steps))
        self._shrink = shrink
        per_group = torch.ones(len(before))
        per_group[self.choice.chosen] = shrink
        per_group[before] = 0.0
        self._set_factors(per_group)
        return reached

    @torch.no_grad()
    def shrink(self, *models: nn.Module) -> None:
        """After an optimizer step: shrinks the chosen gammas and betas of each of the given copies of the model."""
        self._left *= self._shrink
        for model in models:
            values, factors = self._fading(model)
            if values:
                foreach_mul_(values, factors)

    def finish(self, *models: nn.Module) -> None:
        """At the last step of the fit: everything that is chosen becomes exactly zero."""
        self._set_factors((~self.choice.chosen).float())
        self.shrink(*models)
        self._left = 0.0

    def stop(self, *models: nn.Module) -> None:
        """At the end of a fit that ends early: what has faded becomes exactly zero, the rest is given up.

        Channels that began to fade in the epoch that was cut short keep what they have; the choice is what it was in
        the epoch before then.
        """
        if self._left > self.FADED:
            self.choice.chosen, self.choice.share = self._held, self._held_share
        self.finish(*models)

    def _set_factors(self, per_group: Tensor) -> None:
        self._factors, self._fading_of = {}, {}
        for gamma, norm in zip(self._gammas, self._norms, strict=True):
            factor = per_group[gamma.groups.cpu()]
            factor[~gamma.prunable.cpu()] = 1.0
            if bool((factor != 1).any()):
                self._factors[gamma.module] = factor.to(norm.weight.device, norm.weight.dtype)

    def _fading(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Gammas and betas of one copy of the model that are under decay, and their factors; the same for an epoch."""
        if id(model) not in self._fading_of:
            values: list[Tensor] = []
            factors: list[Tensor] = []
            for name, factor in self._factors.items():
                norm = norm_at(model, name)
                for parameter in (norm.weight, norm.bias):
                    if parameter is not None:
                        values.append(parameter)
                        factors.append(factor.to(parameter.device))
            self._fading_of[id(model)] = values, factors
        return self._fading_of[id(model)]
