"""What the loss would change by without a channel, from the gradients of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from yolo_slim.pruning.graph.graph import ChannelGraph
from yolo_slim.pruning.modules.torch_private import BatchNorm, foreach_mul
from yolo_slim.pruning.scores.values import Filters, Values, combined, filters_of, rows


class Taylor:
    """First-order Taylor importance (Molchanov et al., CVPR 2019, equation 8), the mean over the observed batches.

    The loss changes by about ``gamma dL/dgamma + beta dL/dbeta`` when a channel becomes zero; its square is the
    importance. Channels that gammas do not silence take ``sum(w dL/dw) + b dL/db`` over the filter that makes them.

        taylor = Taylor(model, graph)
        for batch in batches:
            model.zero_grad()
            loss(model, batch).backward()
            taylor.observe()
        scores = taylor.scores()

    Gradients are read as they are: unscale those of mixed precision first.

    Args:
        model: The model the graph was traced on; its own gradients are read.
        graph: Its channel graph.

    Attributes:
        batches: Number of batches whose gradients were finite.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        self.batches = 0
        self._graph = graph
        norms = [(model.get_submodule(name), groups) for name, groups in graph.gammas.items()]
        self._norms = [(norm, groups) for norm, groups in norms if isinstance(norm, BatchNorm)]
        self._filters = [filters for filters in filters_of(model, graph) if not graph.gated[filters.groups].all()]
        self._sums: dict[int, Tensor] = {}

    @torch.no_grad()
    def observe(self) -> None:
        """Adds the term of the gradients that a backward has just left in the model, if all of them are finite.

        Raises:
            ValueError: If no layer has a gradient.
        """
        norms = [(i, norm) for i, (norm, _) in enumerate(self._norms) if _has_gradient(norm)]
        terms = dict(zip((i for i, _ in norms), gamma_terms([norm for _, norm in norms]), strict=True))
        for i, filters in enumerate(self._filters, start=len(self._norms)):
            if _has_gradient(filters.layer):
                terms[i] = _filter_terms(filters)
        if not terms:
            raise ValueError("no layer has a gradient: call observe() after loss.backward(), before zero_grad()")
        if not torch.stack([squares.isfinite().all().cpu() for squares in terms.values()]).all():
            return
        for i, squares in terms.items():
            squares = squares.double()
            self._sums[i] = self._sums[i] + squares if i in self._sums else squares
        self.batches += 1

    def scores(self, reduction: str = "mean", normalise: str = "none") -> Tensor:
        """The score of every group.

        Args:
            reduction: "mean", "sum", "max" or "norm" (L2) over the members of a group.
            normalise: "none", or divides each layer's values by their "max", "mean" or L2 "norm" first.

        Returns:
            float64 (num_groups,), +inf for groups of which no gradient was seen.

        Raises:
            ValueError: If nothing was observed, or an argument is unknown.
        """
        if not self.batches:
            raise ValueError("Taylor has observed no finite gradients: call observe() after each backward")
        return combined(self._graph, self._values(), reduction, normalise)

    def _values(self) -> Iterator[Values]:
        gated = self._graph.gated
        layers = [(groups, gated[groups]) for _, groups in self._norms]
        layers += [(filters.groups, ~gated[filters.groups]) for filters in self._filters]
        for i, total in self._sums.items():
            groups, counted = layers[i]
            yield Values(groups[counted], total.cpu()[counted] / self.batches)


@torch.no_grad()
def gamma_terms(norms: Sequence[BatchNorm]) -> list[Tensor]:
    """(gamma dL/dgamma + beta dL/dbeta)^2 of each layer, of shape (C,); what has no gradient adds nothing."""
    terms = [torch.zeros_like(norm.weight) for norm in norms]
    for term, norm in zip(terms, norms, strict=True):
        for parameter in (norm.weight, norm.bias):
            if parameter is not None and parameter.grad is not None:
                term.addcmul_(parameter, parameter.grad)
    return list(foreach_mul(terms, terms)) if terms else []


def _filter_terms(filters: Filters) -> Tensor:
    """(sum over the filter of w dL/dw, + b dL/db)^2 of each channel, float64 (C,)."""
    weight, bias = filters.layer.weight, filters.layer.bias
    terms = torch.zeros(len(filters.groups), dtype=torch.float64)
    if isinstance(weight, Tensor) and weight.grad is not None:
        terms += rows(filters, weight * weight.grad).sum(1)
    if isinstance(bias, Tensor) and bias.grad is not None:
        terms += (bias * bias.grad).to("cpu", torch.float64)
    return terms.square()


def _has_gradient(layer: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in layer.parameters(recurse=False))
