"""The arms of a study of recipes: what a fit is made of, and in which order it is pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from benchmarks.recipe_torch_pruning import prune_by_torch_pruning
from benchmarks.scores import validated
from yolo_slim.callbacks import Distillation, FreshStatistics, GammaSparsity, WeightEMA
from yolo_slim.detection import Augmentation, Hyperparameters, YOLODataModule, YOLODetector
from yolo_slim.pruning import Importance, Selection, profile
from yolo_slim.workflow import PruneSettings, prune_file

#: Share of the epochs that a sparse phase takes; the finetune has the rest.
PHASE = 0.3

RATE = Hyperparameters(optimizer="AdamW", lr0=2e-3, momentum=0.9, warmup_epochs=1.0, warmup_bias_lr=0.0, nbs=16)
#: In a sparse phase the rate stays; the finetune takes it down.
PHASE_RATE = replace(RATE, lrf=1.0)
#: The subgradient's phase: without clipping, and with steps that the optimizer does not divide by the gradient's size.
SLOW_SGD = Hyperparameters(optimizer="SGD", lr0=1e-3, warmup_epochs=1.0, warmup_bias_lr=0.0, nbs=16)
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
        share = "" if self.arm.startswith("dense") else f"-{self.share:.2f}"
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
        self.stages: dict[str, float] = {}
        detector = self.detector()
        self._measure(detector)
        self.dense = self.cost.flops

    def selection(self, share: float | None = None) -> Selection:
        """At most a share of the dense model's FLOPs."""
        return Selection(max_flops=self.dense * (self.case.share if share is None else share))

    def detector(self, hyp: Hyperparameters = RATE) -> YOLODetector:
        """The model as it is by now."""
        return YOLODetector(weights=self.weights, imgsz=self.case.imgsz, hyp=hyp)

    def _measure(self, detector: YOLODetector) -> None:
        self.cost = profile(detector.net, detector.pruning_example)

    def fit(
        self, epochs: int, hyp: Hyperparameters = RATE, *callbacks: Callback, detector: YOLODetector | None = None
    ) -> None:
        """Trains on; ``scores`` is what the epochs of this fit have reached."""
        case = self.case
        detector = detector or self.detector(hyp)
        history = _History()
        last = ModelCheckpoint(self.folder, filename=f"last{len(self.stages)}", enable_version_counter=False)
        trainer_of(epochs, case.seed, [WeightEMA(), FreshStatistics(), *callbacks, history, last]).fit(
            detector, images(case)
        )
        self.weights, self.scores = str(last.best_model_path), history.scores
        self._measure(detector)
        self.stages[f"fit{len(self.stages)}"] = self.scores[-1]

    def prune(self, importance: Importance = TAYLOR, share: float | None = None, **more: Any) -> None:
        """Prunes to the budget."""
        folder = self.folder / f"prune{len(self.stages)}"
        folder.mkdir(exist_ok=True)
        settings = PruneSettings(self.selection(share), importance, **more)
        prune_file(self.weights, settings, folder, images(self.case), self.case.imgsz)
        self.weights = str(folder / "slim.ckpt")
        detector = self.detector()
        self._measure(detector)
        self.stages[f"prune{len(self.stages)}"] = validated(detector, images(self.case))[1]

    def sparse(self, hyp: Hyperparameters, sparsity: GammaSparsity, *callbacks: Callback) -> None:
        """A sparse phase, a prune by |gamma| and a finetune."""
        first = round(self.case.epochs * PHASE)
        self.fit(first, hyp, sparsity, *callbacks)
        self.prune(GAMMA)
        self.fit(self.case.epochs - first, RATE, *callbacks)


class _History(Callback):
    def __init__(self) -> None:
        self.scores: list[float] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the mAP of the epoch, which has been validated by now."""
        self.scores.append(float(trainer.callback_metrics["val/map"]))


def images(case: Case) -> YOLODataModule:
    """The data, without mosaics in the last epochs."""
    augment = Augmentation(close_mosaic=5)
    return YOLODataModule(case.data, imgsz=case.imgsz, batch=16, workers=0, cache="ram", augment=augment)


def trainer_of(epochs: int, seed: int, callbacks: list[Callback]) -> Trainer:
    """A quiet Trainer, after the seed has been set."""
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


def one_prune_taught(run: Run) -> None:
    """The same; the fit learns from the baseline too."""
    run.prune()
    run.fit(run.case.epochs, RATE, Distillation(run.baseline))


def dense_taught(run: Run) -> None:
    """The dense model, which learns from the baseline too."""
    run.fit(run.case.epochs, RATE, Distillation(run.baseline))


def rounds(count: int) -> Callable[[Run], None]:
    """Rounds of a Taylor prune and a fit, in equal factors of the FLOPs; the last fit is the longest."""

    def arm(run: Run) -> None:
        between = max(1, run.case.epochs // (2 * count))
        for done in range(1, count + 1):
            run.prune(share=run.case.share ** (done / count))
            last = done == count
            run.fit(run.case.epochs - (count - 1) * between if last else between)

    return arm


def growing(run: Run) -> None:
    """One fit, within the first third of which more and more channels become zero; then they are cut."""
    run.fit(run.case.epochs, RATE, GammaSparsity("growing", selection=run.selection()))
    run.scores = run.scores[-(-run.case.epochs // 3) :]  # those of the complete set
    run.prune(GAMMA)


def growing_finetuned(run: Run) -> None:
    """The same in a part of the epochs; the others are a finetune of what was cut."""
    run.sparse(PHASE_RATE, GammaSparsity("growing", selection=run.selection()))


def decaying_l1(kind: Literal["proximal", "subgradient"], hyp: Hyperparameters) -> Callable[[Run], None]:
    """The decaying L1 on the channels that a Taylor prune of the baseline would take; prune and finetune."""

    def arm(run: Run) -> None:
        run.sparse(hyp, GammaSparsity(kind, "auto", selection=run.selection(), choose="taylor"))

    return arm


def l1_on_all(run: Run) -> None:
    """The decaying L1 on every gamma."""
    run.sparse(SLOW_SGD, GammaSparsity("subgradient", "auto", selection=run.selection()))


def growing_taught(run: Run) -> None:
    """Growing and finetuned; both fits learn from the baseline too."""
    run.sparse(PHASE_RATE, GammaSparsity("growing", selection=run.selection()), Distillation(run.baseline))


def torch_pruning(run: Run) -> None:
    """One prune by Torch-Pruning, then one fit."""
    detector = run.detector()
    prune_by_torch_pruning(detector, images(run.case), run.dense * run.case.share)
    run.stages["prune0"] = validated(detector, images(run.case))[1]
    run.fit(run.case.epochs, detector=detector)


ARMS: dict[str, Callable[[Run], None]] = {
    "dense": dense,
    "dense taught": dense_taught,
    "one prune": one_prune,
    "one prune taught": one_prune_taught,
    "2 rounds": rounds(2),
    "4 rounds": rounds(4),
    "8 rounds": rounds(8),
    "growing": growing,
    "growing, finetuned": growing_finetuned,
    "growing, taught": growing_taught,
    "Torch-Pruning": torch_pruning,
    "proximal L1": decaying_l1("proximal", PHASE_RATE),
    "subgradient L1": decaying_l1("subgradient", SLOW_SGD),
    "L1 on all": l1_on_all,
}
