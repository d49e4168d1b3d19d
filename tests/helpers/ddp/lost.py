"""A sparse training as it goes wrong: the penalty is an attribute of a trainer that DDP builds anew in each process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.ddp import variants
from tests.helpers.ddp.launch import ROOT, Process, free_port, run_together
from tests.helpers.toy_module import toy_loader


class HandMade:
    """Trains a toy; with several processes it starts them, and each makes a trainer from the same arguments.

    Args:
        out: Folder in which ``fit`` leaves what each process holds.
        processes: Number of processes.
    """

    #: L1 on the gammas, set from outside, and therefore known in this process only.
    penalty = 0.0

    def __init__(self, out: Path, processes: int) -> None:
        self.out, self.processes = out, processes

    def fit(self) -> list[dict[str, Tensor]]:
        """Trains, and returns what each process has found."""
        if self.processes == 1:
            return [{"attribute": self.train(0)}]
        command = [sys.executable, "-m", "tests.helpers.ddp.lost", str(self.out), str(self.processes)]
        ranks, where = range(self.processes), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        run_together([Process(command, ROOT, self.out / f"{r}.log", LOCAL_RANK=str(r), **where) for r in ranks])
        return [torch.load(self.out / f"rank{rank}.pt") for rank in ranks]

    def train(self, rank: int) -> Tensor:
        """The loop of one process; returns the gammas."""
        torch.manual_seed(1)
        toy = variants.Toy()
        net = toy if self.processes == 1 else DistributedDataParallel(toy)
        images, labels = toy_loader(variants.STEPS * variants.BATCH).dataset.tensors
        optimizer = toy.configure_optimizers()
        toy.on_train_batch_start(None, 0)
        for _ in range(variants.EPOCHS):
            for batch in variants.batches(rank, self.processes, 1, same_half=False):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
                for norm in toy.modules():
                    if isinstance(norm, nn.BatchNorm2d):
                        norm.weight.grad += self.penalty * norm.weight.detach().sign()
                optimizer.step()
        return toy.gammas()


def main(out: Path, processes: int) -> None:
    """What a started process does: that trainer, made from its arguments, and beside it a fit with our callback."""
    torch.set_num_threads(1)
    rank = int(os.environ["LOCAL_RANK"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=processes)
    found = {
        "attribute": HandMade(out, processes).train(rank),
        "callback": variants.fit(processes, "subgradient")["gammas"],
        "none": variants.fit(processes, "none")["gammas"],
    }
    torch.save(found, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
