"""What the work is done with; the text below each field is its help on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
class RoundSettings:
    """Sparse phase, prune and finetune repeated, each time with a part of the way.

    Raises:
        ValueError: If a value is out of range.
    """

    count: int = 1
    """How often. What ``prune.selection`` asks for is reached with the last one."""
    schedule: Literal["geometric", "linear"] = "geometric"
    """Whether each round takes the same share of what is left, or the same amount."""
    epochs: int | None = None
    """Epochs of each finetune; by default ``finetune.epochs``."""
    max_drop: float | None = None
    """The rounds end once mAP50-95 after a finetune is further than this below the baseline's; the result is the last
    round that was not."""
    patience: int = 1
    """How many rounds in a row may be further below before they end."""
    sensitivity: bool = False
    """Measure the sensitivity of each unit anew in every round, and prune by it."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.count < 1 or self.patience < 1:
            raise ValueError(f"rounds.count={self.count} and rounds.patience={self.patience}: expected at least 1")
        if self.schedule not in ("geometric", "linear"):
            raise ValueError(f"rounds.schedule={self.schedule!r}: expected geometric or linear")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"rounds.epochs={self.epochs}: expected at least 1")
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise ValueError(f"rounds.max_drop={self.max_drop}: expected a difference of mAP in [0, 1], e.g. 0.01")


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
    activation: str | None = None
    """Another activation for the whole network, see :class:`yolo_slim.detection.YOLODetector`."""
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
    rounds: RoundSettings = field(default_factory=RoundSettings)
    """How often the phases after the baseline are repeated."""
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
        self._check_rounds()
        if own := OWN_TRAINER_ARGUMENTS & self.trainer.keys():
            raise ValueError(f"trainer.{min(own)}: the recipe sets it itself; leave it out")

    def _check_rounds(self) -> None:
        selection, rounds = self.prune.selection, self.rounds
        if rounds.sensitivity and self.sparse.enabled:
            raise ValueError(
                "rounds.sensitivity: a sparse phase ranks channels by scores of its own; give sparse.enabled false"
            )
        if rounds.sensitivity and selection.sensitivity is not None:
            raise ValueError("rounds.sensitivity beside prune.selection.sensitivity: it is measured anew; give one")
        if rounds.count == 1:
            return
        for name in ("prune", "finetune"):
            if not getattr(self, name).enabled:
                raise ValueError(f"rounds.count={rounds.count} with {name}.enabled false: each round needs it")
        if selection.sensitivity is not None or selection.max_rise is not None:
            raise ValueError(
                f"rounds.count={rounds.count}: a sensitivity is that of the model before the first round; give "
                "rounds.sensitivity true to have it measured in each, and a budget or a ratio"
            )
        if selection.max_latency_ms is not None:
            raise ValueError(
                f"rounds.count={rounds.count} with max_latency_ms={selection.max_latency_ms:g}: give the latency as a "
                "share, prune.selection.max_latency 60%"
            )

    @property
    def fits(self) -> dict[str, FitPhase]:
        """The trainings by the names of their phases."""
        return {"baseline": self.baseline, "sparse": self.sparse, "finetune": self.finetune}
