"""The phases of a recipe, in their order, and where each leaves what it has done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from yolo_slim.workflow.settings import RecipeSettings

Kind = Literal["baseline", "sparse", "prune", "finetune"]
#: Kind of phase -> state of the model after it, and the checkpoint that goes on.
KINDS: dict[Kind, tuple[str, str]] = {
    "baseline": ("baseline", "best.ckpt"),
    "sparse": ("sparse", "last.ckpt"),
    "prune": ("slim", "slim.ckpt"),
    "finetune": ("finetuned", "best.ckpt"),
}
#: In the folder of a complete phase, written last.
RESULT = "result.yaml"


@dataclass(frozen=True)
class Phase:
    """One step of a recipe.

    Attributes:
        kind: What is done.
        round: Of which round, from 1; 0 for the baseline.
        folder: Its folder in the run folder.
        state: What the model is called after it.
    """

    kind: Kind
    round: int
    folder: str
    state: str

    @property
    def checkpoint(self) -> str:
        """The file that goes on."""
        return KINDS[self.kind][1]


def phases_of(settings: RecipeSettings) -> list[Phase]:
    """The phases of a recipe; the baseline is always among them, trained or given."""
    count = settings.rounds.count
    phases = [Phase("baseline", 0, "baseline", "baseline")]
    kinds: tuple[Kind, ...] = ("sparse", "prune", "finetune")
    for number in range(1, count + 1):
        for kind in kinds:
            if getattr(settings, kind).enabled:
                folder, state = f"round-{number}/{kind}", f"{KINDS[kind][0]} {number}"
                alone = Phase(kind, number, kind, KINDS[kind][0])
                phases.append(alone if count == 1 else Phase(kind, number, folder, state))
    return phases
