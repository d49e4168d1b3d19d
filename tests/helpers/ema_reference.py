"""The textbook formula of an exponential moving average."""

from __future__ import annotations

import copy
import math

from lightning.pytorch.callbacks import Callback


class Reference(Callback):
    """The textbook formula with Ultralytics' ramp, computed beside the callback."""

    def __init__(self, decay, tau):
        self.decay, self.tau, self.n = decay, tau, 0

    def on_train_start(self, trainer, pl_module):
        self.average, self.start = copy.deepcopy(pl_module.state_dict()), trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step - self.start == self.n:  # the batch is only a part of a step
            return
        self.n += 1
        d = self.decay * (1 - math.exp(-self.n / self.tau))
        for key, value in pl_module.state_dict().items():
            self.average[key] = d * self.average[key] + (1 - d) * value if value.is_floating_point() else value.clone()
