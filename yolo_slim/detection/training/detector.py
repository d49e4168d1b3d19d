"""YOLODetector: how an Ultralytics network is trained, validated and used under Lightning."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from yolo_slim.detection.files.checkpoints import adapt_classes, read_record, stamp
from yolo_slim.detection.files.record import NetworkRecord
from yolo_slim.detection.files.training_state import check_training_state
from yolo_slim.detection.files.weights import expect_given, load_network, read_weights
from yolo_slim.detection.network.activation import activation_of, with_activation
from yolo_slim.detection.network.build import build_network, fit_classes, freeze, parameters_by_pair
from yolo_slim.detection.network.classes import match_classes
from yolo_slim.detection.network.deployed import as_deployed
from yolo_slim.detection.network.fresh_head import expect_trained_head, head_is_trained
from yolo_slim.detection.network.layout import lay_weights_out
from yolo_slim.detection.network.limits import DEFAULT_IMGSZ
from yolo_slim.detection.network.loss import DetectionLoss, set_loss_gains
from yolo_slim.detection.network.tracing import trace_network
from yolo_slim.detection.private import trainer_of
from yolo_slim.detection.training.divergence import LossWatch, expect_finite
from yolo_slim.detection.training.hyperparameters import Hyperparameters
from yolo_slim.detection.training.metrics import DetectionScores
from yolo_slim.detection.training.optimizers import make_optimizer, refuse_static_graph
from yolo_slim.detection.training.steps import Steps
from yolo_slim.detection.training.suppression import DEFAULT_SUPPRESSION, Suppression
from yolo_slim.detection.training.ultralytics_scores import UltralyticsScores
from yolo_slim.detection.training.use import DetectorUse
from yolo_slim.pruning import ChannelGraph


class YOLODetector(DetectorUse):
    """An Ultralytics YOLO detector as a LightningModule.

    Training follows Ultralytics' own trainer: its loss, parameter groups, warm-up, schedule and accumulation up to a
    nominal batch. One thing differs: the loss of an optimizer step is normalised once over all its images, so that the
    gradient does not depend on how they are split over ranks and accumulated batches.

    A batch is what Ultralytics' data set collates: ``img`` (B, 3, H, W) in [0, 1], ``cls`` (n, 1), ``bboxes`` (n, 4) as
    normalised centre x, centre y, width, height, ``batch_idx`` (n,).

    Args:
        model: A model YAML by name (``yolov8n.yaml``; sizes n, s, m, l, x), its content, or a ``.pt`` file.
        names: Class names by index.
        weights: Checkpoint or ``.pt`` file to start from; its structure replaces that of ``model``.
        imgsz: Side of the images in pixels, kept in the checkpoint for those who use it; by default that of the file.
        hyp: Optimizer, schedule and loss.
        metric: How precision, recall and mAP are computed: as ``coco`` does, or as ``ultralytics`` does, see
            :class:`UltralyticsScores`.
        channels_last: Whether the channels of a pixel lie side by side in memory; by default where that is faster, on
            CUDA and x86.
        nms: Which of the boxes count.
        activation: Another activation for the whole network: ``nn.SiLU()``, ``nn.ReLU()``, ``nn.ReLU6()``,
            ``nn.LeakyReLU(0.1)`` or ``nn.Hardswish()``. Trained weights need a fit then.

    Raises:
        FileNotFoundError: If ``model`` or ``weights`` does not exist.
        ValueError: If one of them is not a detection model.
    """

    #: The submodule that sparsity and pruning work on.
    pruning_target = "net"

    def __init__(
        self,
        model: str | dict[str, Any] = "yolov8n.yaml",
        names: dict[int, str] | None = None,
        weights: str | None = None,
        imgsz: int | None = None,
        hyp: Hyperparameters | None = None,
        metric: Literal["coco", "ultralytics"] = "coco",
        channels_last: bool | None = None,
        nms: Suppression = DEFAULT_SUPPRESSION,
        activation: str | None = None,
    ) -> None:
        super().__init__()
        if metric not in ("coco", "ultralytics"):
            raise ValueError(f"model.metric={metric!r} is unknown, expected 'coco' or 'ultralytics'.")
        self.hyp, self.channels_last, self.nms = hyp or Hyperparameters(), channels_last, nms
        expect_given(model=model, weights=weights)
        file = weights or (model if isinstance(model, str) and model.endswith(".pt") else None)
        if file:
            self.net, known_imgsz = read_weights(file)
        else:
            self.net, known_imgsz = build_network(model, len(names) if names else 80), DEFAULT_IMGSZ
        if activation is not None:
            self._swap_activation(activation, file)
        self._file, self._names_given = file, names is not None
        self._match = match_classes(dict(self.net.names), names) if file and names else None
        fit_classes(self.net, names or dict(self.net.names))
        # What a checkpoint needs to rebuild the network. How it is trained is left out: that may change on resume.
        self.save_hyperparameters(NetworkRecord.of(self.net, imgsz or known_imgsz).to_hparams())
        self.scores = UltralyticsScores() if metric == "ultralytics" else DetectionScores(nms.max_det)
        self.class_scores = {}
        self._resumed: dict[str, Any] | None = None
        self._adopt_network()

    def _swap_activation(self, activation: str, file: str | None) -> None:
        before = activation_of(self.net)
        swapped = with_activation(self.net, activation)
        if file and swapped is not self.net:
            rank_zero_info(
                f"{file} was trained with {before} and has {activation_of(swapped)} now: it needs a fit before it "
                "finds anything."
            )
        self.net = swapped

    def _adopt_network(self) -> None:
        set_loss_gains(self.net, self.hyp.box, self.hyp.cls, self.hyp.dfl)
        lay_weights_out(self.net, self.channels_last)
        self._still = freeze(self.net, self.hyp.freeze)
        self._loss = DetectionLoss(self.net)

    def setup(self, stage: str) -> None:
        """Says what has become of the classes of the weights; refuses to judge those that have just been drawn."""
        if stage in ("validate", "test", "predict") and self._file:
            expect_trained_head(self.net, f"{stage} of {self._file}")
        if self._match is None or self._match.relation == "equal":
            return
        if stage == "fit":
            rank_zero_info(f"{self._file}: {self._match}.")
        elif stage in ("validate", "test"):
            self._match.indices(str(self._file))
        elif stage == "predict":  # the classes of the data do not matter to what is found
            self.net = load_network(str(self._file))
            self.hparams.update(NetworkRecord.of(self.net, self.hparams["imgsz"]).to_hparams())
            self._adopt_network()

    @property
    def pruning_example(self) -> Tensor:
        """An image batch of the size that the network is used with, for counting operations."""
        side, first = self.hparams["imgsz"], next(self.net.parameters())
        return torch.zeros(1, 3, side, side, device=first.device, dtype=first.dtype)

    def trace_channels(self) -> ChannelGraph:
        """The channel graph of the network, for pruning and sparsity."""
        return trace_network(self.net)

    def deployed_network(self, network: Any) -> Any:
        """What is timed where a latency is asked for; ``network`` is a copy of ``net`` that may be changed."""
        return as_deployed(network)

    def keep_structure(self, structure: dict[str, Any]) -> None:
        """Keeps the sizes of the layers with what else rebuilds the network."""
        self.hparams["structure"] = structure

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *arguments: Any, **keywords: Any) -> Any:
        """Lightning's method, of a file that has been looked through; takes an Ultralytics ``.pt`` as well.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged or holds no detector; see :func:`yolo_slim.load`.
        """
        if str(checkpoint_path).endswith(".pt"):
            own = {key: value for key, value in keywords.items() if key not in ("map_location", "strict")}
            return cls(weights=str(checkpoint_path), **own)
        read_weights(checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *arguments, **keywords)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says which format the checkpoint has."""
        checkpoint["yolo_slim"] = stamp()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuilds the network that the checkpoint holds, so that its weights fit."""
        record = read_record(checkpoint, "the file")
        trainer = trainer_of(self)
        doing = None if trainer is None else trainer.state.fn
        if self._names_given and doing != "predict":
            record = adapt_classes(checkpoint, self.hparams["names"], fitting=doing == "fit")
        self._match = None
        if doing not in (None, "fit"):
            expect_trained_head(record.model, f"{doing} of the checkpoint")
        if doing == "fit":
            check_training_state(checkpoint, trainer)
            self._resumed = checkpoint["optimizer_states"][0]
        described = record.to_hparams()
        del described["imgsz"]  # that of this fit
        if any(value != self.hparams[name] for name, value in described.items()):
            self.net = record.build().to(self.device)
            self.hparams.update(described)
            self._adopt_network()

    # Training

    def configure_optimizers(self) -> Any:
        """Ultralytics' parameter groups and schedule, and what is needed for the warm-up."""
        trainer, hyp, epochs = self.trainer, self.hyp, self._epochs
        trainer.fit_loop.setup_data()
        loader: Any = trainer.train_dataloader
        if loader is None:
            raise MisconfigurationException("there are no batches to train on; set limit_train_batches above 0")
        batch = loader.batch_size * trainer.world_size
        asked = trainer.accumulate_grad_batches
        accumulate = asked if asked > 1 else max(round(hyp.nbs / batch), 1)
        optimizer, bias_rate = make_optimizer(
            self.net,
            hyp,
            decay=hyp.weight_decay * batch * accumulate / hyp.nbs,
            steps=math.ceil(len(loader.dataset) / max(batch, hyp.nbs)) * epochs,
            scaled=trainer.scaler is not None,
            resumed=self._resumed,
        )
        batches = int(trainer.num_training_batches)
        warmup = hyp.warm_up(batches, epochs, min(accumulate, batches), bias_rate)
        refuse_static_graph(trainer, warmup.accumulate, f"set hyp.nbs={batch}")
        self._steps = Steps(trainer, warmup)
        scheduler = LambdaLR(optimizer, lambda epoch: hyp.rate_factor(epoch, epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def planned_steps(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Epoch and parameter groups of every optimizer step to come, the warm-up included."""
        factors = [self.hyp.rate_factor(epoch, self._epochs) for epoch in range(self._epochs)]
        batches, start = int(self.trainer.num_training_batches), self.trainer.current_epoch
        return self._steps.warmup.planned_steps(self.trainer.optimizers[0].param_groups, factors, batches, start)

    def on_train_start(self) -> None:
        """Starts with empty sums, and the weights of the classes."""
        head_is_trained(self.net, self.hparams)
        self._watch = LossWatch()
        self._steps.start(self.device, parameters_by_pair(self.net))
        self._resumed = self._match = None
        self.weigh_classes()
        # Of this fit's schedule: the one that a checkpoint comes from may have been shorter.
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["initial_lr"] * self.hyp.rate_factor(self.trainer.current_epoch, self._epochs)

    def on_train_epoch_start(self) -> None:
        """Tells the data module and the loss which epoch it is: mosaic is closed for the last ones."""
        for norm in self._still:
            norm.eval()
        self._loss.start_epoch(self.trainer.current_epoch, self._epochs)
        notify = getattr(self.trainer.datamodule, "on_epoch_start", None)  # type: ignore[attr-defined]
        if notify is not None:
            notify(self.trainer.current_epoch, self._epochs)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Ramps rate, momentum and accumulation up."""
        epoch = self.trainer.current_epoch
        index = batch_idx + int(self.trainer.num_training_batches) * epoch
        self._steps.begin_batch(self.trainer, index, self.hyp.rate_factor(epoch, self._epochs))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Sum of the losses of the batch's images, not yet divided by the target scores of the step."""
        images = len(batch["img"])
        loss, items, target_scores = self.step_losses(batch)
        losses = {f"train/{name}": value for name, value in items.items()}
        self.log_dict(losses, on_epoch=True, on_step=False, batch_size=images, sync_dist=True)
        return self._steps.summed(self.trainer, loss, target_scores, images)

    def on_after_backward(self) -> None:
        """Before an optimizer step: divides the summed gradient by the target scores of all its images."""
        self._steps.end_backward(self.trainer)

    def on_train_batch_end(self, outputs: object, batch: dict[str, Any], batch_idx: int) -> None:
        """After an optimizer step: clears the gradients, which Lightning leaves where the accumulation changes."""
        self._steps.end_batch(self.trainer)
        if self.trainer.is_last_batch:
            self._watch.look(self.trainer)
            expect_finite(self.trainer, self)

    def on_train_end(self) -> None:
        """Gives the Trainer its accumulation back."""
        self._steps.give_back(self.trainer)

    @property
    def _epochs(self) -> int:
        """Epochs of the fit, which every schedule is laid over."""
        if not self.trainer.max_epochs or self.trainer.max_epochs < 1:
            epochs = self.trainer.max_epochs
            raise MisconfigurationException(f"the schedule needs the number of epochs, got max_epochs={epochs}; set it")
        return self.trainer.max_epochs
