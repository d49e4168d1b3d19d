"""Whether a training still has losses and weights that mean anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm

from yolo_slim.detection.network.build import not_finite


class DivergedError(ValueError):
    """The training has no finite weights any more.

    Attributes:
        go_on: How it can go on all the same; empty where it cannot.
    """

    go_on = ""


class LossWatch:
    """Ends a fit at the first batch whose loss is not finite, and says which images it holds.

    On a CPU before the step is taken. A GPU would have to be waited for: there the loss of a batch is looked at once
    that of the next one has been asked for.
    """

    def __init__(self) -> None:
        self._unseen: tuple[Tensor, Sequence[str], list[str], str] | None = None

    def see(self, trainer: Trainer, losses: Tensor, names: Sequence[str], batch: Mapping[str, Any]) -> None:
        """Looks at the losses of a batch.

        Args:
            trainer: The Trainer of the fit.
            losses: The terms of the loss, (pairs of branches, terms).
            names: Names of the terms; further ones are what callbacks have added.
            batch: The batch; ``im_file`` are its images.

        Raises:
            DivergedError: If a term is not finite.
        """
        self.look(trainer)
        place = f"epoch {trainer.current_epoch + 1}, batch {trainer.fit_loop.epoch_loop.batch_progress.current.ready}"
        self._unseen = losses.detach(), names, list(batch.get("im_file", ())), place
        if self._at_once(losses.device):
            self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Looks at what has not been looked at.

        Raises:
            DivergedError: If a term is not finite.
        """
        unseen, self._unseen = self._unseen, None
        if unseen is None or bool(unseen[0].isfinite().all()):
            return
        losses, names, files, place = unseen
        weights = not_finite(dict(trainer.lightning_module.named_parameters()))
        if weights and self._at_once(losses.device):  # before the step: then no batch would do
            what = f"{_listed(weights)} not finite"
        else:
            lost = (~losses.isfinite()).any(0).tolist()
            terms = [names[k] if k < len(names) else "what callbacks add" for k, bad in enumerate(lost) if bad]
            more = f" and {len(files) - 4} more" if len(files) > 4 else ""
            of = f" of {', '.join(files[:4])}{more}" if files else ""
            what = f"{', '.join(terms)}{of} not finite"
        raise DivergedError(f"the training has diverged in {place}: {what}; {_remedy(trainer)}")

    @staticmethod
    def _at_once(device: torch.device) -> bool:
        return device.type == "cpu"


def expect_finite(trainer: Trainer, module: LightningModule) -> None:
    """Ends a fit whose weights or BatchNorm statistics are not finite, before they are validated or saved.

    All ranks agree; it costs one synchronisation with the device.

    Raises:
        DivergedError: With what is not finite, and what to do.
    """
    tensors = {name: t for name, t in module.state_dict().items() if t.is_floating_point() and t.numel()}
    norm = get_total_norm(list(tensors.values())).float()
    suspect = trainer.strategy.reduce((~norm.isfinite()).float(), reduce_op="sum")
    if not bool(suspect):
        return
    lost = not_finite(tensors)
    if not bool(trainer.strategy.reduce(norm.new_tensor(float(len(lost))), reduce_op="sum")):
        return  # large numbers, whose squares are not
    place = f"epoch {trainer.current_epoch + 1}"
    raise DivergedError(f"the training has diverged in {place}: {_listed(lost)} not finite; {_remedy(trainer)}")


def _listed(lost: Sequence[str]) -> str:
    return f"{lost[0]} and {len(lost) - 1} more tensors are" if len(lost) > 1 else f"{lost[0]} is"


def _remedy(trainer: Trainer) -> str:
    precision = trainer.precision
    remedy = "lower hyp.lr0 or the penalty, or clip the gradients (trainer.gradient_clip_val 10)"
    if precision != "32-true":
        remedy += f"; precision {precision} may be too little: bf16-mixed and 32-true have a wider range"
    return remedy
