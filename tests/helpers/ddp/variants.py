"""Many short fits of a toy classifier in one launch: each of two processes runs them all and saves what it has."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader

from tests.helpers.clocks import count_time, model_ms
from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.pruning import Selection

BATCH = 8  # images of an optimizer step, over all ranks and accumulated batches
STEPS = 5  # per epoch
EPOCHS = 3
STRENGTH = 0.05

OWN = {"optimizer", "accumulate", "unused", "average", "batch_statistics", "other_weights", "same_half"}
#: Ways to train on several ranks: settings of the fit, named above, and arguments of DDP.
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "static graph, bucket view": {"static_graph": True, "gradient_as_bucket_view": True},
    "unused parameters": {"find_unused_parameters": True, "unused": True},
    "momentum": {"optimizer": "momentum"},
    "AdamW, accumulate, bucket view": {"optimizer": "AdamW", "accumulate": 2, "gradient_as_bucket_view": True},
    "average": {"average": True},
    "batch statistics": {"batch_statistics": True},
    "other weights at first": {"other_weights": True},
}
PENALTIES = ("subgradient", "proximal", "growing")
#: What must not give the same result as one process, and why.
CONTROLS: dict[str, dict[str, Any]] = {
    "on one rank": {"penalty": "on one rank"},
    "every backward": {"penalty": "every backward", "accumulate": 2},
    "same half": {"penalty": "subgradient", "same_half": True},
    "none": {"penalty": "none"},
}


class Toy(ToyClassifier):
    """Gammas of both signs, some near zero, and BatchNorm in eval with statistics of its own: a batch may be split."""

    def __init__(self, optimizer: str = "SGD", unused: bool = False, batch_statistics: bool = False) -> None:
        super().__init__()
        self.kind, self.batch_statistics = optimizer, batch_statistics
        self.unused = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12)) if unused else None
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.3, 1.5)
                norm.weight.data[::3] *= -1
                norm.weight.data[1::4] *= 0.01  # within reach of the penalty
                nn.init.uniform_(norm.bias, -0.3, 0.3)
                nn.init.normal_(norm.running_mean, std=0.2)
                nn.init.uniform_(norm.running_var, 0.3, 1.0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.train(self.batch_statistics)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return 16 * super().training_step(batch, batch_idx)  # gradients of the gammas as large as the penalty

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.kind == "AdamW":
            return torch.optim.AdamW(self.parameters(), lr=3e-3, eps=1e-3)
        if self.kind == "momentum":
            return torch.optim.SGD(self.parameters(), lr=2e-3, momentum=0.9)
        return torch.optim.SGD(self.parameters(), lr=2e-2)


def batches(rank: int, ranks: int, accumulate: int, same_half: bool) -> list[list[int]]:
    """The images of each batch of one rank; those of a step are the same for every number of ranks."""
    size = BATCH // (ranks * accumulate)
    first = 0 if same_half else rank * accumulate
    starts = [step * BATCH + (first + part) * size for step in range(STEPS) for part in range(accumulate)]
    return [list(range(start, start + size)) for start in starts]


class OnOneRank(GammaSparsity):
    """Forgets the penalty on the second rank."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_rank == 0:
            super().on_before_optimizer_step(trainer, pl_module, optimizer)


class EveryBackward(GammaSparsity):
    """Adds the penalty to the gradients of every accumulated batch."""

    def on_after_backward(self, trainer, pl_module) -> None:
        super().on_before_optimizer_step(trainer, pl_module, trainer.optimizers[0])

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        pass


class Watch(Callback):
    """Size of the data's gradient of the gammas in each step; before the penalty in the list of callbacks."""

    def __init__(self) -> None:
        self.sizes: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.sizes.append(pl_module.stem[1].weight.grad.abs().mean().item())


def penalty_callbacks(penalty: str) -> list[Callback]:
    """What makes the gammas sparse, or a control that does it wrongly."""
    kinds = {"on one rank": OnOneRank, "every backward": EveryBackward}
    if penalty == "none":
        return []
    if penalty in kinds:
        return [kinds[penalty](strength=STRENGTH)]
    return [GammaSparsity(penalty=penalty, strength=STRENGTH, min_channels=2)]


def fit(ranks: int, penalty: str, **way: Any) -> dict[str, Any]:
    """Trains on one process or on all ranks; to one process, accumulation and what DDP is asked for mean nothing."""
    ddp = {name: value for name, value in way.items() if name not in OWN}
    accumulate = way.get("accumulate", 1) if ranks > 1 else 1
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    torch.manual_seed(1 + (rank if way.get("other_weights") else 0))
    model = Toy(way.get("optimizer", "SGD"), way.get("unused", False), way.get("batch_statistics", False))
    before = model.gammas().clone()
    watch, average = Watch(), WeightEMA(decay=0.9, tau=5)
    with tempfile.TemporaryDirectory() as folder:
        trainer = toy_trainer(
            folder,
            devices=ranks,
            strategy=DDPStrategy(**ddp) if ranks > 1 else "auto",
            max_epochs=EPOCHS,
            accumulate_grad_batches=accumulate,
            use_distributed_sampler=False,  # Lightning's would shuffle
            callbacks=[watch, *penalty_callbacks(penalty), *([average] if way.get("average") else [])],
        )
        indices = batches(rank, ranks, accumulate, way.get("same_half", False))
        trainer.fit(model, DataLoader(toy_loader(STEPS * BATCH).dataset, batch_sampler=indices))
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "gammas": model.gammas().clone(),
        "before": before,
        "steps": trainer.global_step,
        "data gradient": sum(watch.sizes) / len(watch.sizes),
    }


def every_fit() -> dict[str, dict[str, Any]]:
    """Name of each fit and its settings."""
    ways = {f"{p}, {name}": {"penalty": p, **way} for p in PENALTIES for name, way in WAYS.items()}
    return ways | {f"control, {name}": way for name, way in CONTROLS.items()}


def prune_to_milliseconds() -> dict[str, Any]:
    """A sparse phase and a prune towards a latency, which each rank measures differently."""
    rank, model = int(os.environ["LOCAL_RANK"]), Toy()
    selection = Selection(max_latency_ms=0.8 * model_ms(model.eval(), model.example_input_array), min_channels=2)
    images = DataLoader(toy_loader(STEPS * BATCH).dataset, batch_size=BATCH)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("XDG_CACHE_HOME", f"{folder}/cache")
        count_time(patch, factor=1 + rank)
        callbacks = [GammaSparsity("growing", selection=selection), ChannelPruning(selection=selection, dirpath=folder)]
        trainer = toy_trainer(folder, devices=2, strategy="ddp", max_epochs=EPOCHS, callbacks=callbacks)
        trainer.fit(model.train(), images)
    report = callbacks[-1].report
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "structure": getattr(model, "slim_structure", {}),
        "share": report.parameters_after / report.parameters_before,
        "latency_ms": report.latency_ms,
        "limit": selection.max_latency_ms,
        "threshold": report.threshold,
    }


def main(out: Path) -> None:
    """Runs every fit as one of two processes and saves the results in ``rank<N>.pt``."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    found = {name: fit(2, **settings) for name, settings in every_fit().items()}
    found["prune to milliseconds"] = prune_to_milliseconds()
    torch.save(found, out / f"rank{os.environ['LOCAL_RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
