"""BatchNorm statistics that fit the weights of every validation and every end of an epoch."""

from __future__ import annotations

from yolo_slim.callbacks.bn_momentum import BatchNormMomentum, batches_until_used
from yolo_slim.callbacks.framework import Callback, LightningModule, Trainer, callbacks_of
from yolo_slim.callbacks.gamma_sparsity import GammaSparsity


class FreshStatistics(Callback):
    """Has the running statistics of BatchNorm keep up with the weights, in any fit.

    With a momentum of 0.03, as Ultralytics sets it, statistics average over the last 33 steps and more. In the first
    epochs of a fit, after a prune, and where many gammas are small, weights change by more than that allows: the
    training loss is fine, validation sees a broken network, and the best checkpoint is chosen by the wrong figure.

    Over the last batches before each validation, and before the end of each epoch, the statistics become the mean over
    these batches, the last ones counting more where the layer's own momentum is above 1 / their number. This costs
    nothing: no batch is run twice. A checkpoint that is saved among these batches has the mean of those until then.
    Epochs of fewer than 8 batches are left alone. A :class:`GammaSparsity` does the same for the part it acts on, and
    then this callback rests.
    """

    def __init__(self) -> None:
        self._momentum: BatchNormMomentum | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the momenta."""
        alone = not any(isinstance(callback, GammaSparsity) for callback in callbacks_of(trainer))
        self._momentum = BatchNormMomentum(pl_module) if alone else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Sets the momentum of the batch."""
        if self._momentum is not None:
            self._momentum.begin_batch(*batches_until_used(trainer, batch_idx))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the momenta back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the momenta back; ``teardown`` is not called after an exception."""
        self._give_back()

    def _give_back(self) -> None:
        if self._momentum is not None:
            self._momentum.give_back()
        self._momentum = None
