"""The verb slim: the keys of the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from rich.console import Console

from yolo_slim.callbacks import GammaSparsity
from yolo_slim.commands.keys import add_prune_arguments, parsed, prune_arguments, timed_by, verb_parser
from yolo_slim.detection import Hyperparameters, YOLODataModule, choose_imgsz, expect_given
from yolo_slim.reporting import runtimes_table, states_table
from yolo_slim.wording import say
from yolo_slim.workflow import (
    OWN_TRAINER_ARGUMENTS,
    FitPhase,
    PrunePhase,
    RecipeSettings,
    RoundSettings,
    SparsePhase,
    rank,
    recipe_folder,
    run_recipe,
)


def parser() -> ArgumentParser:
    """The keys of the verb ``slim``."""
    keys = verb_parser(
        "slim",
        "Train, sparse-train, prune and finetune. Started again after an interruption, it goes on with the first phase "
        "that is not complete.",
        name_help="Name of the run folder; the same name goes on.",
    )
    keys.add_argument(
        "--epochs",
        type=int | Literal["auto"] | None,
        default=None,
        help="Epochs of the baseline, and of all that comes after it together, three tenths of them for the sparse "
        "phase; auto: by the number of training images. In place of the epochs of each phase.",
    )
    keys.add_argument("--seed", type=int, default=0, help="Seed of every phase.")
    keys.add_class_arguments(YOLODataModule, "data")
    keys.add_argument("--model.model", type=str, default="yolov8n.yaml", help="Model YAML or .pt file.")
    keys.add_argument("--model.weights", type=str | None, default=None, help="Checkpoint or .pt file to start from.")
    keys.add_argument(
        "--model.activation",
        type=str | None,
        default=None,
        help="Another activation for the whole network: nn.SiLU(), nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1) or "
        "nn.Hardswish().",
    )
    keys.add_class_arguments(Trainer, "trainer", skip=set(OWN_TRAINER_ARGUMENTS), instantiate=False)
    for phase, what in (
        ("baseline", "Train the dense model; off: start from trained weights."),
        ("sparse", "Train it further while channels become dispensable."),
        ("finetune", "Train the slim model."),
    ):
        keys.add_argument(f"--{phase}.enabled", type=bool, default=True, help=what)
        keys.add_class_arguments(FitPhase, phase, skip={"enabled", "hyp"}, instantiate=False, as_group=False)
        keys.add_class_arguments(Hyperparameters, f"{phase}.hyp")
    keys.add_class_arguments(RoundSettings, "rounds")
    # The prune removes what the sparse phase prepared: one selection serves both.
    shared = {"ratio", "min_channels", "shortcuts", "ignore"}
    keys.add_class_arguments(GammaSparsity, "sparse.sparsity", skip={"target", *shared})
    keys.add_argument("--prune.enabled", type=bool, default=True, help="Remove channels.")
    add_prune_arguments(keys, "prune")
    both = ("prune.selection", "prune.latency")
    keys.link_arguments(both, "sparse.sparsity.selection", compute_fn=timed_by, apply_on="instantiate")
    return keys


def main(arguments: Sequence[str]) -> None:
    """Runs the verb ``slim``; ``arguments`` begin with the verb."""
    keys = parser()
    values = parsed(keys, arguments[1:])
    paths = {"model.weights": values.model.weights, "model.model": values.model.model, "data.data": values.data.data}
    expect_given(project=values.project, **paths)
    start = values.model.model if values.model.model.endswith(".pt") else None
    values.data.imgsz = choose_imgsz(values.data.imgsz, values.model.weights or start)
    _share_epochs(values)
    settings = _settings(keys.instantiate(values))
    written = yaml.safe_load(keys.dump(values))
    for key in ("config", "epochs"):
        written.pop(key, None)
    if rank() == 0:
        say(plan(settings))
    with recipe_folder(values.project, values.name, written) as folder:
        rows, checkpoints, result = run_recipe(settings, folder)
    if rows:
        Console().print(states_table(rows))
        if (by_runtime := runtimes_table(rows)) is not None:
            Console().print(by_runtime)
        say(f"Everything is in {folder}: results.md, report.html and a folder per phase.")
        say(f"The {result} model is {checkpoints[result]}")


def _share_epochs(values: Namespace) -> None:
    """Gives the phases the epochs that ``--epochs`` asks for in all."""
    if values.epochs is None:
        return
    epochs = values.epochs
    if epochs == "auto":
        data = YOLODataModule(**vars(values.data))
        data.announces = False
        data.prepare_data()
        data.setup("fit")
        epochs = usual_epochs(len(data.datasets["train"]))
    if epochs < 1:
        raise ValueError(f"epochs={epochs}: expected at least 1, or auto")
    of_round = max(1, epochs // values.rounds.count)
    values.baseline.epochs = epochs
    values.sparse.epochs = max(1, round(0.3 * of_round)) if values.sparse.enabled else 0
    values.finetune.epochs = max(1, of_round - values.sparse.epochs)


def usual_epochs(images: int) -> int:
    """How long a data set is trained on where nobody says it: 20,000 steps of 16 images, but 30 to 100 epochs."""
    return min(100, max(30, round(320_000 / images)))


def plan(settings: RecipeSettings) -> str:
    """What will be done, in one line."""
    steps = []
    if settings.baseline.enabled:
        steps.append(f"baseline {settings.baseline.epochs} epochs")
    else:
        steps.append(f"no baseline, {settings.weights or settings.model} is trained")
    if settings.sparse.enabled:
        steps.append(f"sparse phase ({settings.sparse.sparsity.penalty}) {settings.sparse.epochs} epochs")
    if settings.prune.enabled:
        steps.append(f"prune ({settings.prune.selection})")
    if settings.finetune.enabled:
        steps.append(f"finetune {settings.rounds.epochs or settings.finetune.epochs} epochs")
    if settings.rounds.count > 1:
        steps.append(f"in {settings.rounds.count} rounds")
    return f"plan: {', '.join(steps)}; images of {settings.data.imgsz} px"


def _settings(values: Namespace) -> RecipeSettings:
    def fit(phase: Namespace) -> dict[str, Any]:
        return {"enabled": phase.enabled, "epochs": phase.epochs, "hyp": phase.hyp}

    return RecipeSettings(
        data=values.data,
        model=values.model.model,
        weights=values.model.weights,
        activation=values.model.activation,
        seed=values.seed,
        baseline=FitPhase(**fit(values.baseline)),
        sparse=SparsePhase(**fit(values.sparse), sparsity=values.sparse.sparsity),
        prune=PrunePhase(**prune_arguments(values.prune), enabled=values.prune.enabled),
        finetune=FitPhase(**fit(values.finetune)),
        rounds=values.rounds,
        trainer={name: value for name, value in vars(values.trainer).items() if value is not None},
    )
