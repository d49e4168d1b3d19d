"""Run by tests in a process of its own: two gloo processes average the weights of a small classifier."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import WeightEMA


def copied(module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


class Watch(Callback):
    """Notes the average at its start, in training, in validation and after the fit."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, torch.Tensor]] = {}

    def setup(self, trainer, pl_module, stage) -> None:
        self.seen["built"] = copied(pl_module)

    def on_train_start(self, trainer, pl_module) -> None:
        self.seen["first"] = copied(trainer.callbacks[0].average_model)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen["trained"] = copied(pl_module)
        average = trainer.callbacks[0].average_model
        self.seen["statistics"] = {n: b.clone() for n, b in average.named_buffers() if n.endswith("running_mean")}

    def on_validation_start(self, trainer, pl_module) -> None:
        self.seen.pop("validation", None)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        # Before the first forward, at which DDP would copy the statistics of rank 0 by itself.
        self.seen.setdefault("validation", copied(pl_module))


def main() -> None:
    """Writes ``rank<N>.pt``."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    out, found = Path(sys.argv[1]), {}
    for loader in ("validated", "unvalidated"):
        watch, saver = Watch(), ModelCheckpoint(dirpath=out / loader, save_last=True)
        trainer = toy_trainer(
            out,
            devices=2,
            strategy="ddp",
            enable_checkpointing=True,
            callbacks=[WeightEMA(0.9, 5.0), watch, saver],
            num_sanity_val_steps=0,
        )
        torch.manual_seed(trainer.global_rank)
        module = ToyClassifier()
        trainer.fit(module, toy_loader(), toy_loader() if loader == "validated" else None)
        saved = torch.load(out / loader / "last.ckpt", weights_only=True)["state_dict"]
        found[loader] = {**watch.seen, "after": copied(module), "saved": saved}
    torch.save(found, out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
