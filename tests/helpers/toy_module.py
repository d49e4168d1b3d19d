"""A LightningModule that knows nothing of yolo_slim, small enough to train in a test."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class ToyClassifier(LightningModule):
    """Three convolutions with BatchNorm, a residual connection and a linear head."""

    def __init__(self, lr: float = 0.05, momentum: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.tail = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 4)
        self.example_input_array = torch.rand(1, 3, 8, 8)
        self.lr, self.momentum = lr, momentum

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.tail(x + self.branch(x))
        return self.head(x.mean((2, 3)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self(images), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)

    def gammas(self) -> Tensor:
        return torch.cat([m.weight.detach() for m in self.modules() if isinstance(m, nn.BatchNorm2d)])


def toy_loader(images: int = 20, batch: int = 4) -> DataLoader[Any]:
    """Five batches of four by default, always in the same order."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.rand(images, 3, 8, 8, generator=generator), torch.randint(0, 4, (images,), generator=generator)
    )
    return DataLoader(data, batch_size=batch)


def toy_trainer(tmp_path: Any, **settings: Any) -> Trainer:
    """A quiet Trainer on the CPU."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(tmp_path),
    }
    return Trainer(**{**defaults, **settings})
