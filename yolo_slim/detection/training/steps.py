"""The optimizer steps of a fit: how many batches make one, and one normalisation of the loss over all its images."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from yolo_slim.detection.private import foreach_mul_
from yolo_slim.detection.training.hyperparameters import WarmUp


class Steps:
    """Keeps the steps of one fit, however its images are split over batches and ranks.

    Ultralytics divides the loss of a batch by the target scores in it. Here the sum over the images is kept through
    accumulation and ranks, and the gradient of a step is divided once, by the target scores of all its images. The
    Trainer is handed in each time: what a LightningModule keeps is copied with it, and a Trainer cannot be.

    Args:
        trainer: The Trainer of the fit; its accumulation is changed in the warm-up, and given back.
        warmup: The ramp of rates, momentum and accumulation.
    """

    def __init__(self, trainer: Trainer, warmup: WarmUp) -> None:
        self._asked = trainer.accumulate_grad_batches
        self.warmup = warmup
        trainer.accumulate_grad_batches = warmup.accumulate
        self._pending = False  # a group of batches has begun

    def start(self, device: torch.device, parameters: list[list[nn.Parameter]]) -> None:
        """Starts with empty sums.

        Args:
            device: Where the losses are.
            parameters: Those that have their gradients from each of the losses with target scores of its own.
        """
        self._parameters = parameters
        # Target scores per loss, and images, since the last step.
        self._sums = torch.zeros(len(parameters) + 1, device=device)
        self._pending = False

    def begin_batch(self, trainer: Trainer, index: int, rate_factor: float) -> None:
        """Ramps rate, momentum and accumulation up.

        Args:
            trainer: The Trainer of the fit.
            index: Index of the batch, counted over the whole fit.
            rate_factor: Share of the initial rate that holds in this epoch.
        """
        accumulate = self.warmup.apply(trainer.optimizers[0].param_groups, index, rate_factor)
        if not self._pending:  # a group of batches that has begun is finished as it began
            trainer.accumulate_grad_batches = accumulate

    def summed(self, trainer: Trainer, loss: Tensor, target_scores: Tensor, images: int) -> Tensor:
        """The sum of the losses of a batch's images, from what Ultralytics has divided by their target scores.

        Undone here are that division, Lightning's by the accumulated batches, and DDP's by the ranks. What is left is a
        plain sum over images, whatever the split.

        Args:
            trainer: The Trainer of the fit.
            loss: Ultralytics' losses times the images, (losses, n).
            target_scores: The sums by which they have been divided, (losses,).
            images: Number of images.
        """
        self._sums += torch.cat((target_scores, target_scores.new_tensor([float(images)])))
        undone = target_scores.clamp(min=1) / images * trainer.accumulate_grad_batches * trainer.world_size
        return (loss.sum(1) * undone).sum()

    def end_backward(self, trainer: Trainer) -> None:
        """Before an optimizer step: divides the summed gradients by the target scores of all its images."""
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self._pending = not (trainer.is_last_batch or ready % trainer.accumulate_grad_batches == 0)
        if self._pending:
            return
        *target_scores, images = trainer.strategy.reduce(self._sums, reduce_op="sum")
        for own, scores in zip(self._parameters, target_scores, strict=True):
            foreach_mul_([p.grad for p in own if p.grad is not None], images / scores.clamp(min=1))
        self._sums.zero_()

    def end_batch(self, trainer: Trainer) -> None:
        """After an optimizer step: clears the gradients, which Lightning leaves where the accumulation changes."""
        if not self._pending:
            trainer.optimizers[0].zero_grad()

    def give_back(self, trainer: Trainer) -> None:
        """Gives the Trainer its accumulation back."""
        trainer.accumulate_grad_batches = self._asked
