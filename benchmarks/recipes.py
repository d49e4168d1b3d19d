"""Recipes side by side, at equal epochs after one shared baseline: what is left of the mAP when a budget is met.

python -m benchmarks.recipes --data PATH/bccd/data.yaml PATH/license_plate/data.yaml --weights yolov8n.pt
python -m benchmarks.recipes --table docs/recipes.png

The first command trains what is missing of every arm, data set, share of the FLOPs and seed, and can be stopped at any
time; several of them share the work in one folder. The second one prints the tables and draws the picture.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from benchmarks.recipes_table import table
from benchmarks.scores import quiet, validated
from yolo_slim.callbacks import FreshStatistics, GammaSparsity, WeightEMA
from yolo_slim.detection import Augmentation, Hyperparameters, YOLODataModule, YOLODetector
from yolo_slim.pruning import Importance, Selection, profile
from yolo_slim.workflow import PruneSettings, prune_file

#: Epochs at the end whose mean is reported: single epochs on a small validation set scatter by 0.01.
LAST = 3
#: Share of the epochs that a sparse phase takes; the finetune has the rest.
PHASE = 2 / 3

ADAMW = Hyperparameters(optimizer="AdamW", lr0=1e-3, momentum=0.9, warmup_epochs=1.0, warmup_bias_lr=0.0, nbs=16)
BASELINE = Hyperparameters(optimizer="auto")
TAYLOR, GAMMA = Importance("taylor"), Importance("gamma")


@dataclass(frozen=True)
class Case:
    """One cell of the study: what is trained, for how long, and what may be left of it."""

    data: str
    weights: str
    imgsz: int
    baseline: int
    epochs: int
    share: float
    seed: int
    arm: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        share = "" if self.arm == "dense" else f"-{self.share:.2f}"
        return f"{Path(self.data).parent.name}-{self.imgsz}-{self.epochs}{share}-{self.arm}-s{self.seed}"


class Run:
    """What an arm is written with: fits and prunes, one after the other.

    Args:
        case: The cell.
        folder: Folder of its checkpoints.
        weights: The baseline.
    """

    def __init__(self, case: Case, folder: Path, weights: str) -> None:
        self.case, self.folder, self.weights = case, folder, weights
        self.baseline = weights
        self.scores: list[float] = []
        self.ema = WeightEMA
        self.stages: dict[str, float] = {}
        detector = YOLODetector(weights=weights, imgsz=case.imgsz)
        self.dense = profile(detector.net, detector.pruning_example).flops

    def selection(self, share: float | None = None) -> Selection:
        """At most a share of the dense model's FLOPs."""
        return Selection(max_flops=self.dense * (self.case.share if share is None else share))

    def fit(self, epochs: int, hyp: Hyperparameters = ADAMW, *callbacks: Callback, close_mosaic: int = 5) -> None:
        """Trains on; ``scores`` is what the epochs of this fit have reached."""
        case = self.case
        detector = YOLODetector(weights=self.weights, imgsz=case.imgsz, hyp=hyp)
        history = _History()
        last = ModelCheckpoint(self.folder, filename=f"last{len(self.stages)}", enable_version_counter=False)
        _trainer(epochs, case.seed, [self.ema(), FreshStatistics(), *callbacks, history, last]).fit(
            detector, images(case, close_mosaic)
        )
        self.weights, self.scores = str(last.best_model_path), history.scores
        self.stages[f"fit{len(self.stages)}"] = self.scores[-1]

    def prune(self, importance: Importance = TAYLOR, share: float | None = None, **more: Any) -> None:
        """Prunes to the budget."""
        folder = self.folder / f"prune{len(self.stages)}"
        folder.mkdir(exist_ok=True)
        settings = PruneSettings(self.selection(share), importance, **more)
        prune_file(self.weights, settings, folder, images(self.case), self.case.imgsz)
        self.weights = str(folder / "slim.ckpt")
        found = validated(YOLODetector(weights=self.weights, imgsz=self.case.imgsz), images(self.case))
        self.stages[f"prune{len(self.stages)}"] = found[1]

    def sparse(self, hyp: Hyperparameters, sparsity: GammaSparsity, finetune: Hyperparameters, **prune: Any) -> None:
        """A sparse phase, a prune by |gamma| and a finetune."""
        first = round(self.case.epochs * PHASE)
        self.fit(first, hyp, sparsity)
        self.prune(GAMMA, **prune)
        self.fit(self.case.epochs - first, finetune)


class _History(Callback):
    def __init__(self) -> None:
        self.scores: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the mAP of the epoch, which has been validated by now."""
        self.scores.append(float(trainer.callback_metrics["val/map"]))


def images(case: Case, close_mosaic: int = 5) -> YOLODataModule:
    """The data, without mosaics in the last epochs."""
    augment = Augmentation(close_mosaic=close_mosaic)
    return YOLODataModule(case.data, imgsz=case.imgsz, batch=16, workers=0, cache="ram", augment=augment)


def _trainer(epochs: int, seed: int, callbacks: list[Callback]) -> Trainer:
    seed_everything(seed, workers=True, verbose=False)
    return Trainer(
        max_epochs=epochs,
        gradient_clip_val=10.0,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def dense(run: Run) -> None:
    """The dense model, trained as long."""
    run.fit(run.case.epochs)


def one_prune(run: Run) -> None:
    """One Taylor prune of the baseline, then one fit."""
    run.prune()
    run.fit(run.case.epochs)


def growing(run: Run) -> None:
    """A growing set of channels fades, then they are pruned."""
    run.sparse(ADAMW, GammaSparsity("growing", selection=run.selection()), replace(ADAMW, lr0=5e-4))


SGD = Hyperparameters(optimizer="SGD", lr0=0.01, warmup_epochs=1.0, warmup_bias_lr=0.0, nbs=16)


def l1(kind, strength, hyp, finetune=ADAMW, beta=0.0):
    def arm(run: Run) -> None:
        sparsity = GammaSparsity(kind, strength, beta, selection=run.selection(), choose="taylor")
        run.sparse(hyp, sparsity, finetune)

    return arm


def growing5(run: Run) -> None:
    run.sparse(ADAMW, GammaSparsity("growing", selection=run.selection()), ADAMW)


def one_with(hyp, ema=None):
    def arm(run: Run) -> None:
        run.ema = ema or WeightEMA
        run.prune()
        run.fit(run.case.epochs, hyp)

    return arm


def auto_ema():
    class E(WeightEMA):
        def on_fit_start(self, trainer, pl_module):
            import math

            n = trainer.estimated_stepping_batches
            self.tau = min(2000, n / math.log(max(0.1 * n, 3)))
            super().on_fit_start(trainer, pl_module)

    return E()


def kd(hyp, ema=None, both=False):
    def arm(run: Run) -> None:
        from yolo_slim.callbacks import Distillation
        run.prune()
        run.fit(run.case.epochs, hyp, Distillation(run.baseline))

    return arm


def l1kd(kind, strength, hyp, finetune=ADAMW, beta=0.0):
    def arm(run: Run) -> None:
        from yolo_slim.callbacks import Distillation
        sparsity = GammaSparsity(kind, strength, beta, selection=run.selection(), choose="taylor")
        first = round(run.case.epochs * PHASE)
        run.fit(first, hyp, sparsity)
        run.prune(GAMMA)
        run.fit(run.case.epochs - first, finetune, Distillation(run.baseline))

    return arm


def dense_with(hyp):
    def arm(run: Run) -> None:
        run.fit(run.case.epochs, hyp)

    return arm


LR2 = replace(ADAMW, lr0=2e-3)
LR4 = replace(ADAMW, lr0=4e-3)


def growing_with(first, finetune):
    def arm(run: Run) -> None:
        run.sparse(first, GammaSparsity("growing", selection=run.selection()), finetune)

    return arm


X = {
    "one_lr4": one_with(LR4),
    "dense_lr4": dense_with(LR4),
    "growing_lr2": growing_with(LR2, LR2),
    "growing_lr1lr2": growing_with(ADAMW, LR2),
    "proxadam_lr2": l1("proximal", "auto", LR2, LR2),
    "proxadam_lr1lr2": l1("proximal", "auto", ADAMW, LR2),
    "proxadamb_lr2": l1("proximal", "auto", LR2, LR2, beta=10),
    "proxsgd3_lr2": l1("proximal", "auto", replace(SGD, lr0=3e-3), LR2),
    "sub1_lr2": l1("subgradient", "auto", replace(SGD, lr0=1e-3), LR2),
    "sub3_lr2": l1("subgradient", "auto", replace(SGD, lr0=3e-3), LR2),
    "dense_lr2": dense_with(LR2),
    "dense_sgd": dense_with(SGD),
    "one_sgd": one_with(SGD),
    "one_kd": kd(ADAMW),
    "proxauto_kd": l1kd("proximal", "auto", SGD),
    "proxauto_lr2": l1("proximal", "auto", SGD, LR2),
    "proxauto_sgd": l1("proximal", "auto", SGD, SGD),
    "subauto": l1("subgradient", "auto", replace(SGD, lr0=1e-3)),
    "one_lr2": one_with(replace(ADAMW, lr0=2e-3)),
    "one_ema": one_with(ADAMW, auto_ema),
    "one_ema_lr2": one_with(replace(ADAMW, lr0=2e-3), auto_ema),
    "one_ema_lr2w3": one_with(replace(ADAMW, lr0=2e-3, warmup_epochs=3), auto_ema),
    "prox15": l1("proximal", 1.5, SGD),
    "proxauto": l1("proximal", "auto", SGD),
    "proxautob": l1("proximal", "auto", SGD, beta=1.5),
    "prox15b": l1("proximal", 1.5, SGD, beta=1.5),
    "proxadam": l1("proximal", "auto", ADAMW),
    "proxadamb": l1("proximal", "auto", ADAMW, beta=15),
    "subslow": l1("subgradient", "auto", replace(SGD, lr0=5e-4)),
    "sub2": l1("subgradient", "auto", replace(SGD, lr0=2e-3)),
    "growing5": growing5,
    "growing2": growing,
}
ARMS: dict[str, Callable[[Run], None]] = {"dense": dense, "one": one_prune, "growing": growing, **X}


def baseline_of(case: Case, root: Path) -> str:
    """The dense model that every arm of a data set and seed starts from, trained where it is missing."""
    folder = root / f"{Path(case.data).parent.name}-{case.imgsz}-baseline-s{case.seed}"
    file = folder / "baseline.ckpt"
    if not file.is_file():
        last = ModelCheckpoint(folder, filename="training", enable_version_counter=False)
        detector = YOLODetector(case.weights, data_names(case), imgsz=case.imgsz, hyp=BASELINE)
        _trainer(case.baseline, case.seed, [WeightEMA(), last]).fit(detector, images(case))
        os.replace(folder / "training.ckpt", file)
    return str(file)


def data_names(case: Case) -> dict[int, str] | None:
    """Class names of the data set."""
    return images(case).names


def run_case(case: Case, root: Path) -> None:
    """Runs one cell, unless it is there or another process has taken it; writes ``row.yaml``."""
    folder = root / case.name
    row, claim = folder / "row.yaml", folder / "claimed"
    folder.mkdir(parents=True, exist_ok=True)
    if row.is_file():
        return
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        run = Run(case, folder, baseline_of(case, root))
        print(f"== {case.name}", flush=True)
        ARMS[case.arm](run)
        detector = YOLODetector(weights=run.weights, imgsz=case.imgsz)
        cost = profile(detector.net, detector.pruning_example)
        found = {
            **asdict(case),
            "data": Path(case.data).parent.name,
            "best": max(run.scores),
            "last": mean(run.scores[-LAST:]),
            "parameters": cost.parameters,
            "flops": cost.flops,
            "of_dense": cost.flops / run.dense,
            "stages": run.stages,
            "scores": run.scores,
        }
        del found["weights"]
        temporary = folder / ".row.yaml"
        temporary.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
        os.replace(temporary, row)
        print(f"   {case.name}: best {found['best']:.4f} last {found['last']:.4f} {run.stages}", flush=True)
        for left in [*folder.rglob("*.ckpt"), *folder.rglob("prun*.yaml"), *folder.rglob("plan.yaml")]:
            left.unlink()
    finally:
        claim.unlink()


def main() -> None:
    """Trains what is missing, or prints and draws what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="?", const="", help="print the tables, and draw the picture of this name")
    parser.add_argument("--folder", type=Path, default=Path("runs/recipes"), help="where the rows are")
    parser.add_argument("--data", nargs="+", default=[], help="data YAMLs")
    parser.add_argument("--weights", default="yolov8n.yaml", help="what the baselines start from")
    parser.add_argument("--imgsz", type=int, default=128, help="image side in pixels")
    parser.add_argument("--baseline", type=int, default=15, help="epochs of the baselines")
    parser.add_argument("--epochs", type=int, nargs="+", default=[18], help="epochs of every arm after its baseline")
    parser.add_argument("--shares", type=float, nargs="+", default=[1 / 2, 1 / 3, 1 / 4], help="of the FLOPs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    if given.table is not None:
        print(table(given.folder, given.table))
        return
    quiet()
    for epochs in given.epochs:
        for seed in given.seeds:
            for share in given.shares:
                for arm in given.arms:
                    for data in given.data:
                        where = (data, given.weights, given.imgsz, given.baseline)
                        run_case(Case(*where, epochs, share, seed, arm), given.folder)


if __name__ == "__main__":
    main()
