"""The four phases of any project: train, sparse-train, prune, finetune; the two callbacks are all that is added."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning as L
from parts import Table, check_equal, trainer

from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA


def four_phases(module: L.LightningModule, options: argparse.Namespace, data: Any, folder: Path, table: Table) -> None:
    """Takes a module through all phases, and writes the table of its states to ``results.md``.

    Args:
        module: Of a class that rebuilds a smaller network in ``on_load_checkpoint``.
        options: Epochs of the phases, and the ratio of the prune.
        data: Loaders of training and validation images.
        folder: Where the files go.
        table: Measures the states.
    """
    dense = trainer(folder, options.epochs[0], [WeightEMA()])
    dense.fit(module, *data)
    table.add("baseline", module, dense)

    sparsity = GammaSparsity(penalty="growing", ratio=options.ratio)
    pruning = ChannelPruning(ratio=options.ratio, dirpath=str(folder))  # prunes when the fit has ended
    sparse = trainer(folder, options.epochs[1], [WeightEMA(), sparsity, pruning])
    sparse.fit(module, *data)
    table.add("sparse", None, sparse)

    slim = type(module).load_from_checkpoint(folder / "slim.ckpt", weights=None)
    check_equal(slim, module, table.inputs)
    check = trainer(folder)
    check.validate(slim, data[1])
    table.add("slim", slim, check)

    finetune = trainer(folder, options.epochs[2], [WeightEMA()])
    finetune.fit(slim, *data)
    table.add("finetuned", slim, finetune)
    results = table.markdown()
    (folder / "results.md").write_text(results)
    print(f"\n{results}\nsaved in {folder}")
