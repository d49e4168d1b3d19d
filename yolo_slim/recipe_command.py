"""train.py slim: the keys of the recipe, and the run folder in which it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

from yolo_slim import launch
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.detection.checkpoints import expect_given
from yolo_slim.detection.data import YOLODataModule
from yolo_slim.detection.hyperparameters import Hyperparameters
from yolo_slim.detection.image_size import choose_imgsz
from yolo_slim.files import write_whole
from yolo_slim.prune_command import add_prune_arguments
from yolo_slim.recipe import Recipe
from yolo_slim.recipe_results import read_mapping
from yolo_slim.run_folder import discard_untrained, make, sanitize
from yolo_slim.verb_parser import verb_parser

#: What a run of the recipe was started with.
SETTINGS = "recipe.yaml"
#: How long the other ranks wait until rank 0 has opened the run folder.
OPEN_SECONDS = 60
#: Trainer arguments that the recipe sets itself.
OWN = {"callbacks", "logger", "max_epochs", "default_root_dir", "enable_checkpointing", "num_sanity_val_steps"}


def parser() -> ArgumentParser:
    """The keys of ``train.py slim``."""
    found = verb_parser(
        "slim",
        "Train, sparse-train, prune and finetune. Started again after an interruption, it goes on with the first phase "
        "that is not complete.",
        name_help="Name of the run folder; the same name goes on.",
    )
    found.add_argument("--seed", type=int, default=0, help="Seed of every phase.")
    found.add_class_arguments(YOLODataModule, "data")
    found.add_argument("--model.model", type=str, default="yolov8n.yaml", help="Model YAML or .pt file.")
    found.add_argument("--model.weights", type=str | None, default=None, help="Checkpoint or .pt file to start from.")
    found.add_class_arguments(Trainer, "trainer", skip=OWN, instantiate=False)
    for phase, what in (
        ("baseline", "Train the dense model; off: start from trained weights."),
        ("sparse", "Train it further while channels become dispensable."),
        ("finetune", "Train the slim model."),
    ):
        found.add_argument(f"--{phase}.enabled", type=bool, default=True, help=what)
        found.add_argument(f"--{phase}.epochs", type=int, default=100, help="Epochs of the phase.")
        found.add_class_arguments(Hyperparameters, f"{phase}.hyp")
    # The prune removes what the sparse phase prepared: one selection serves both.
    shared = {"ratio", "min_channels", "shortcuts", "ignore"}
    found.add_class_arguments(GammaSparsity, "sparse.sparsity", skip={"target", *shared})
    found.add_argument("--prune.enabled", type=bool, default=True, help="Remove channels.")
    add_prune_arguments(found, "prune.")
    found.link_arguments("prune.selection", "sparse.sparsity.selection", apply_on="instantiate")
    return found


def main(arguments: Sequence[str]) -> None:
    """Runs ``train.py slim``; ``arguments`` begin with the verb."""
    keys = parser()
    given = keys.parse_args(list(arguments[1:]))
    paths = {"model.weights": given.model.weights, "model.model": given.model.model, "data.data": given.data.data}
    expect_given(project=given.project, **paths)
    start = given.model.model if given.model.model.endswith(".pt") else None
    given.data.imgsz = choose_imgsz(given.data.imgsz, given.model.weights or start)
    keys.instantiate_classes(given)  # refuses bad values before a folder is made
    folder = Path(given.project) / sanitize(given.name)
    new = not (folder / SETTINGS).is_file()
    _open(folder, _settings(keys, given))
    try:
        Recipe(lambda: keys.instantiate_classes(given), folder).run()
    except BaseException:
        if new and launch.rank() == 0:  # so that corrected settings may have the name
            discard_untrained(folder)
        raise


def _settings(keys: ArgumentParser, given: Namespace) -> dict[str, Any]:
    settings = yaml.safe_load(keys.dump(given))
    settings.pop("config", None)
    return settings


def _open(folder: Path, settings: dict[str, Any]) -> None:
    """Makes the run folder, or finds it with the very same settings.

    Raises:
        ValueError: If it cannot be made, or holds something else.
    """
    file = folder / SETTINGS
    if launch.rank() != 0:
        launch.wait_for(file, OPEN_SECONDS)
    if file.is_file():
        changed = _changed(read_mapping(file, ("data", "prune"), "give this run another --name"), settings)
        if changed:
            raise ValueError(
                f"{folder} holds a run with other settings ({'; '.join(changed[:3])}); give this one another --name, "
                "or the settings it was started with to go on"
            )
        return
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} exists and is no run of 'slim'; give this one another --name")
    try:
        with suppress(FileExistsError):
            make(folder)
        write_whole(file, yaml.safe_dump(settings, sort_keys=False))
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(f"cannot make the run folder {folder} ({why}): give another --project or --name") from error


def _changed(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [c for k in {**old, **new} for c in _changed(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    return [] if old == new else [f"{key}: {old} there, {new} here"]
