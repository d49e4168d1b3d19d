"""What the loss would change by without a channel, from the gradients of training."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

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
        gammas_only: Leaves out channels that gammas do not silence, so that a GPU is never waited for.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, gammas_only: bool = False) -> None:
        self._finite = torch.zeros((), dtype=torch.long)  # counts on the device of the gradients
        self._graph = graph
        norms = [(model.get_submodule(name), groups) for name, groups in graph.gammas.items()]
        self._norms = [(norm, groups) for norm, groups in norms if isinstance(norm, BatchNorm)]
        self._filters = [
            filters
            for filters in (() if gammas_only else filters_of(model, graph))
            if not graph.gated[filters.groups].all()
        ]
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, Tensor | int] = {}  # batches of each layer: optimizers may take turns

    @property
    def batches(self) -> int:
        """Number of batches whose gradients were finite."""
        return int(self._finite)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those whose gradients are read."""
        layers = [norm for norm, _ in self._norms] + [filters.layer for filters in self._filters]
        return [parameter for layer in layers for parameter in layer.parameters(recurse=False)]

    @torch.no_grad()
    def observe(self, owned: Collection[int] | None = None) -> None:
        """Adds the term of the gradients that a backward has just left in the model, if all of them are finite.

        Args:
            owned: ``id()`` of the parameters whose layers are read; by default all. A layer counts when one of its
                parameters does.

        Raises:
            ValueError: If no layer has a gradient.
        """
        norms = [(i, norm) for i, (norm, _) in enumerate(self._norms) if _has_gradient(norm, owned)]
        terms = dict(zip((i for i, _ in norms), gamma_terms([norm for _, norm in norms]), strict=True))
        for i, filters in enumerate(self._filters, start=len(self._norms)):
            if _has_gradient(filters.layer, owned):
                terms[i] = _filter_terms(filters)
        if not terms:
            raise ValueError("no layer has a gradient: call observe() after loss.backward(), before zero_grad()")
        place = next(iter(terms.values())).device
        finite = torch.stack([squares.isfinite().all().to(place) for squares in terms.values()]).all()
        for i, squares in terms.items():
            counted = torch.where(finite.to(squares.device), squares.double(), 0.0)
            self._sums[i] = self._sums[i] + counted if i in self._sums else counted
            self._counts[i] = self._counts.get(i, 0) + finite
        self._finite = self._finite.to(place) + finite

    def observe_losses(self, losses: Iterable[Tensor]) -> None:
        """Adds the terms of the gradients of some losses, past those of the parameters, which stay as they are.

        Args:
            losses: Scalars that the model has given, each with what its backward pass needs.
        """
        parameters = [parameter for parameter in self.parameters if parameter.requires_grad]
        before = [parameter.grad for parameter in parameters]
        try:
            for loss in losses:
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                self.observe()
        finally:
            for parameter, kept in zip(parameters, before, strict=True):
                parameter.grad = kept

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
            if int(self._counts[i]):
                yield Values(groups[counted], total.cpu()[counted] / int(self._counts[i]))


@torch.no_grad()
def gamma_terms(norms: Sequence[BatchNorm]) -> list[Tensor]:
    """(gamma dL/dgamma + beta dL/dbeta)^2 of each layer, of shape (C,); what has no gradient adds nothing."""
    # In 16 bits small products would all be zero, and larger ones infinite.
    wide = [torch.promote_types(norm.weight.dtype, torch.float32) for norm in norms]
    terms = [torch.zeros_like(norm.weight, dtype=kind) for norm, kind in zip(norms, wide, strict=True)]
    for term, norm in zip(terms, norms, strict=True):
        for parameter in (norm.weight, norm.bias):
            if parameter is not None and parameter.grad is not None:
                term.addcmul_(parameter.to(term.dtype), parameter.grad.to(term.dtype))
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


def _has_gradient(layer: nn.Module, owned: Collection[int] | None) -> bool:
    parameters = layer.parameters(recurse=False)
    return any(p.grad is not None and (owned is None or id(p) in owned) for p in parameters)
