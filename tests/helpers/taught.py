"""A toy that can learn from a teacher."""

from __future__ import annotations

import torch
from torch import nn

from tests.helpers.toy_module import ToyClassifier


class Student(ToyClassifier):
    """Compares logits; without labels there is nothing but the teacher to learn from."""

    def __init__(self, labels=True, as_dict=False, **settings):
        super().__init__(**settings)
        self.labels, self.as_dict = labels, as_dict

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) * float(self.labels)
        return {"loss": loss, "kept": 1} if self.as_dict else loss

    def distillation_loss(self, outputs, taught):
        return nn.functional.mse_loss(outputs, taught)


def student(seed=0, **settings):
    torch.manual_seed(seed)
    return Student(**settings)
