"""BatchNorm's running statistics while gammas move fast."""

from __future__ import annotations

from torch import Tensor, nn

from yolo_slim.pruning import BatchNorm


class BatchNormMomentum:
    """Raises the momentum of BatchNorm's running statistics as far as the gammas' pace needs.

    Running statistics average over the last ``1 / momentum`` steps. Where gammas shrink by a share ``drift`` per step,
    the layer behind them is normalised by statistics that are too large by ``drift / momentum``; such errors multiply
    over the depth of a network, and validation sees a dead detector while the training loss is fine. Over a depth of
    some 25 layers a momentum of ``100 * drift`` keeps the scale right within a quarter.

    Args:
        model: Its BatchNorm layers with running statistics are paced; cumulative ones (momentum None) are left alone.
    """

    STEPS = 100
    HIGHEST = 0.5

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
        self._own = [(norm, norm.momentum) for norm in norms if norm.momentum is not None]
        self._gammas = [norm.weight for norm, _ in self._own if norm.weight is not None]
        self._before = [gamma.detach().clone() for gamma in self._gammas]

    def follow(self, steps: int, expected: float = 0.0) -> float:
        """Sets the momentum for the epoch that begins.

        Args:
            steps: Optimizer steps since the last call, at least 0.
            expected: How far a gamma travels per step in this epoch, where it is known.

        Returns:
            The share of all gammas that is moved per step, in the last epoch or expectedly in this one.
        """
        total = sum(gamma.detach().abs().sum().item() for gamma in self._gammas)
        moved = sum((g.detach() - b).abs().sum().item() for g, b in zip(self._gammas, self._before, strict=True))
        self._before = [gamma.detach().clone() for gamma in self._gammas]
        count = sum(gamma.numel() for gamma in self._gammas)
        drift = max(moved / max(steps, 1), expected * count) / total if total else 0.0
        for norm, own in self._own:
            norm.momentum = max(own, min(self.HIGHEST, self.STEPS * drift))
        return drift

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The gammas at the last call of :meth:`follow`."""
        return {"before": self._before}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Takes over what :meth:`state_dict` gave, if it belongs to a model of this shape."""
        if [b.shape for b in state["before"]] == [g.shape for g in self._gammas]:
            self._before = [b.to(g.device) for b, g in zip(state["before"], self._gammas, strict=True)]

    def give_back(self) -> None:
        """Puts the momenta in place that were given."""
        for norm, own in self._own:
            norm.momentum = own
