"""Whether a training still has weights that mean anything."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch.nn.utils import get_total_norm

from yolo_slim.detection.network.build import not_finite


class DivergedError(ValueError):
    """The training has no finite weights any more.

    Attributes:
        go_on: How it can go on all the same; empty where it cannot.
    """

    go_on = ""


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
    what = f"{lost[0]} and {len(lost) - 1} more tensors are" if len(lost) > 1 else "the weights are"
    precision = trainer.precision
    remedy = "lower hyp.lr0 or the penalty, or clip the gradients (trainer.gradient_clip_val 10)"
    if precision != "32-true":
        remedy += f"; precision {precision} may be too little: bf16-mixed and 32-true have a wider range"
    raise DivergedError(f"the training has diverged in epoch {trainer.current_epoch + 1}: {what} not finite; {remedy}")
