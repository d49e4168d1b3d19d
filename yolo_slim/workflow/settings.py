"""What the work is done with; the text below each field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from yolo_slim.callbacks import GammaSparsity, check_epochs
from yolo_slim.detection import Hyperparameters, YOLODataModule, choose_imgsz
from yolo_slim.pruning import Compensation, Importance, Selection, expect_compensation

#: Trainer arguments that the recipe sets itself.
OWN_TRAINER_ARGUMENTS = frozenset(
    {"callbacks", "logger", "max_epochs", "default_root_dir", "enable_checkpointing", "num_sanity_val_steps"}
)


@dataclass
class PruneSettings:
    """What is pruned, and how.

    Raises:
        ValueError: If the compensation is unknown, or images of the side that is timed are none that a network takes.
    """

    selection: Selection = field(default_factory=Selection)
    """Which channels go."""
    importance: Importance = field(default_factory=Importance)
    """How channels are scored."""
    compensation: Compensation = "auto"
    """What becomes of the constants that channels with a small gamma pass on."""
    recalibrate: bool = False
    """Measure BatchNorm statistics anew after the prune."""
    batches: int = 16
    """Batches of training images for taylor and recalibrate."""

    def __post_init__(self) -> None:
        """Checks the compensation, and the side of the images that are timed."""
        expect_compensation(self.compensation)
        choose_imgsz(self.selection.latency.imgsz, None)

    @property
    def needs_images(self) -> bool:
        """Whether it learns something from training images."""
        return self.importance.kind == "taylor" or self.recalibrate


@dataclass
class FitPhase:
    """A training."""

    enabled: bool = True
    """Whether it takes place."""
    epochs: int = 100
    """Epochs of the phase."""
    hyp: Hyperparameters = field(default_factory=Hyperparameters)
    """Optimizer, schedule and loss."""


@dataclass
class SparsePhase(FitPhase):
    """A training in which channels become dispensable."""

    sparsity: GammaSparsity = field(default_factory=GammaSparsity)
    """What makes them so; a fresh one, which is copied for the fit."""


@dataclass
class PrunePhase(PruneSettings):
    """The surgery."""

    enabled: bool = True
    """Remove channels."""


@dataclass
class RecipeSettings:
    """The phases from a dense detector to a slim one.

    Raises:
        ValueError: If a phase cannot do what it is for, or a Trainer argument is the recipe's own.
    """

    data: YOLODataModule
    """What is trained and measured on; a fresh one, which is copied for each phase."""
    model: str = "yolov8n.yaml"
    """Model YAML or .pt file."""
    weights: str | None = None
    """Checkpoint or .pt file to start from."""
    seed: int = 0
    """Seed of every phase."""
    baseline: FitPhase = field(default_factory=FitPhase)
    """Trains the dense model; off: starts from trained weights."""
    sparse: SparsePhase = field(default_factory=SparsePhase)
    """Trains it further while channels become dispensable."""
    prune: PrunePhase = field(default_factory=PrunePhase)
    """Removes channels."""
    finetune: FitPhase = field(default_factory=FitPhase)
    """Trains the slim model."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Arguments of Lightning's Trainer for every phase."""

    def __post_init__(self) -> None:
        """Checks what can be known without a Trainer."""
        for name, phase in self.fits.items():
            if phase.enabled and phase.epochs < 1:
                raise ValueError(
                    f"{name}.epochs={phase.epochs}: expected at least 1; {name}.enabled false leaves it out"
                )
        if not self.baseline.enabled and not self.weights and not self.model.endswith(".pt"):
            raise ValueError("without the baseline phase there are no trained weights: give them as --model.weights")
        if self.sparse.enabled:
            check_epochs(self.sparse.epochs, "sparse.epochs")
            if self.prune.enabled and self.sparse.sparsity.selection != self.prune.selection:
                raise ValueError(
                    f"the sparse phase works towards {self.sparse.sparsity.selection!r}, and the prune is asked for "
                    f"{self.prune.selection!r}: give GammaSparsity the selection of the prune"
                )
        if own := OWN_TRAINER_ARGUMENTS & self.trainer.keys():
            raise ValueError(f"trainer.{min(own)}: the recipe sets it itself; leave it out")

    @property
    def fits(self) -> dict[str, FitPhase]:
        """The trainings by the names of their phases."""
        return {"baseline": self.baseline, "sparse": self.sparse, "finetune": self.finetune}
