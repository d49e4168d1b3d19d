"""Run by tests in processes of its own: trains a small detector on one or two gloo processes and saves the result."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn

from yolo_slim.callbacks import ChannelPruning, Distillation, GammaSparsity, WeightEMA
from yolo_slim.detection.data.augmentation import Augmentation
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.training.hyperparameters import Hyperparameters


class Watch(Callback):
    """BatchNorm in eval, where it does not matter how a batch is split; gradients and precision of every step."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.clip: set[float | None] = set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.clip.add(trainer.gradient_clip_val)
        found = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(found).clone())


def main() -> None:
    """Trains, optionally prunes and trains again, and writes ``rank<N>.pt``."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data")
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--devices", type=int, default=1)
    arguments.add_argument("--accumulate", type=int, default=1)
    arguments.add_argument("--penalty", default="none")
    arguments.add_argument("--choose", default="none")
    arguments.add_argument("--teach", action="store_true")
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--prune", action="store_true")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, workers=True, verbose=False)

    batch = 12 // given.devices // given.accumulate
    plain = Augmentation(mosaic=0, close_mosaic=0)
    data = YOLODataModule(given.data, imgsz=64, batch=batch, workers=0, augment=plain)
    hyp = Hyperparameters(optimizer="SGD", lr0=1e-3, momentum=0.9, warmup_epochs=0, nbs=12)
    detector = YOLODetector(names=data.names, imgsz=64, hyp=hyp)
    watch = Watch()

    def fit(*callbacks: Callback, epochs: int) -> Trainer:
        trainer = Trainer(
            accelerator="cpu",
            devices=given.devices,
            strategy="ddp" if given.devices > 1 else "auto",
            max_epochs=epochs,
            gradient_clip_val=10.0,
            callbacks=[WeightEMA(), *callbacks, watch],  # sees gradients with the penalty in them
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=str(given.out),
        )
        trainer.fit(detector, data)
        return trainer

    extra: list[Callback] = []
    if given.penalty != "none":
        extra.append(GammaSparsity(penalty=given.penalty, strength=0.5, ratio=0.5, choose=given.choose))
    if given.teach:
        torch.manual_seed(1)
        teacher = YOLODetector(names=data.names, imgsz=64)
        for branch in teacher.net.model[-1].cv3:  # sure of an object at an anchor in eight
            nn.init.constant_(branch[-1].bias, -2.0)
        extra.append(Distillation(teacher, 1.0, 1.0, ["model.9", "model.15"]))
        torch.manual_seed(0)
    if given.prune:
        extra.append(ChannelPruning(ratio=0.5))
    trainer = fit(*extra, epochs=given.epochs)
    score = float(trainer.callback_metrics["val/map"])
    if given.prune:
        trainer = fit(epochs=1)
    result = {
        "parameters": {k: v.detach().cpu() for k, v in detector.named_parameters()},
        "gammas": {k: m.weight.detach().cpu() for k, m in detector.named_modules() if isinstance(m, nn.BatchNorm2d)},
        "gradients": watch.gradients,
        "clip": sorted(watch.clip, key=str),
        "clip_after": trainer.gradient_clip_val,
        "score": score,
    }
    torch.save(result, given.out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
