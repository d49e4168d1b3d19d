"""BatchNorm's running statistics while weights move."""

from __future__ import annotations

from torch import Tensor, nn

from yolo_slim.callbacks.framework import Trainer
from yolo_slim.pruning import BatchNorm


class BatchNormMomentum:
    """Sets the momentum of BatchNorm's running statistics so that they fit the weights they are used with.

    Before the weights are validated, and before an epoch ends, the statistics become the mean over the last batches:
    the momentum of the k-th of them is 1 / k, or the layer's own where that is more. The usual momentum reaches back
    over 1 / momentum steps, which in short epochs is to weights of epochs ago.

    Between that it is raised as far as the gammas' pace needs. Running statistics average over the last ``1 /
    momentum`` steps. Where gammas shrink by a share ``drift`` per step, the layer behind them is normalised by
    statistics that are too large by ``drift / momentum``; such errors multiply over the depth of a network, and
    validation sees a dead detector while the training loss is fine. Over a depth of some 25 layers a momentum of ``100
    * drift`` keeps the scale right within a quarter.

    Args:
        model: Its BatchNorm layers with running statistics are paced; cumulative ones (momentum None) are left alone.
    """

    STEPS = 100
    HIGHEST = 0.5
    #: Batches that the statistics are a mean of when they are used: half of an epoch, not more than WIDEST, and nothing
    #: is changed where that would be less than NARROWEST.
    WIDEST, NARROWEST = 16, 4

    def __init__(self, model: nn.Module) -> None:
        norms = [m for m in model.modules() if isinstance(m, BatchNorm) and m.track_running_stats]
        self._own = [(norm, norm.momentum) for norm in norms if norm.momentum is not None]
        self._gammas = [norm.weight for norm, _ in self._own if norm.weight is not None]
        self._before = [gamma.detach().clone() for gamma in self._gammas]
        self._paced = 0.0

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
        self._paced = min(self.HIGHEST, self.STEPS * drift)
        self._set(0.0)
        return drift

    def begin_batch(self, left: float, of: float) -> None:
        """Sets the momentum for the batch that begins.

        Args:
            left: Batches until the weights are used, this one included; infinite where that is not known.
            of: Batches between two such uses.
        """
        window = int(min(of / 2, self.WIDEST))
        self._set(1 / (window - left + 1) if left <= window >= self.NARROWEST else 0.0)

    def _set(self, least: float) -> None:
        for norm, own in self._own:
            norm.momentum = max(own, self._paced, least)

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


def batches_until_used(trainer: Trainer, batch_idx: int) -> tuple[float, float]:
    """How many batches of an epoch are left before its weights are validated or saved, and how many there are between.

    Args:
        trainer: A Trainer in training.
        batch_idx: Index of the batch that begins, which is counted too.
    """
    batches, between = float(trainer.num_training_batches), float(trainer.val_check_batch or 0)
    # Counted over epochs, or no validation within one: the end of the epoch is what is known.
    between = batches if trainer.check_val_every_n_epoch is None or not 1 <= between < batches else between
    left = batches - batch_idx
    if between < batches:
        left = min(left, between - batch_idx % between)
    return left, between
