"""train.py slim: the keys of the recipe, and the run folder in which it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yolo_slim.callbacks import GammaSparsity
from yolo_slim.commands.keys import verb_parser
from yolo_slim.commands.prune import add_prune_arguments
from yolo_slim.detection import Hyperparameters, YOLODataModule, choose_imgsz, expect_given
from yolo_slim.files import write_whole
from yolo_slim.wording import brief
from yolo_slim.workflow import launch
from yolo_slim.workflow.recipe import PHASES, RESULT, Recipe
from yolo_slim.workflow.results import read_mapping
from yolo_slim.workflow.run_folder import LOCK, discard_untrained, held, make, sanitize

#: What a run of the recipe was started with.
SETTINGS = "recipe.yaml"
#: How long the other ranks wait until rank 0 has opened the run folder.
OPEN_SECONDS = 60
#: Trainer arguments that the recipe sets itself.
OWN = {"callbacks", "logger", "max_epochs", "default_root_dir", "enable_checkpointing", "num_sanity_val_steps"}

#: Settings that may change at any time: how a machine does the work. A batch that no longer fits is among them.
OF_THE_MACHINE = {
    "data": {"batch", "workers", "cache"},
    "trainer": {"accelerator", "strategy", "devices", "num_nodes", "precision", "enable_progress_bar"},
}


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
    _expect_own(folder)
    with held(folder):
        _open(folder, _settings(keys, given))
        try:
            Recipe(lambda: keys.instantiate_classes(given), folder).run()
        except BaseException as stop:
            if not isinstance(stop, (ValueError, MisconfigurationException)) and any(folder.rglob("*.ckpt")):
                stop.go_on = "the same command goes on"  # type: ignore[attr-defined]
            if new and launch.rank() == 0:  # so that corrected settings may have the name
                discard_untrained(folder)
            raise


def _settings(keys: ArgumentParser, given: Namespace) -> dict[str, Any]:
    settings = yaml.safe_load(keys.dump(given))
    settings.pop("config", None)
    return settings


def _expect_own(folder: Path) -> None:
    """Makes the run folder, as rank 0, or finds that of an earlier start.

    Raises:
        ValueError: If it cannot be made, or holds something else.
    """
    if launch.rank() != 0:
        return
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        if not any((folder / own).is_file() for own in (SETTINGS, LOCK)):
            raise ValueError(f"{folder} exists and is no run of 'slim'; give this one another --name")
        return
    try:
        with suppress(FileExistsError):
            make(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _open(folder: Path, settings: dict[str, Any]) -> None:
    """Takes the settings of this start, which may differ from those of an earlier one where nothing has begun.

    Raises:
        ValueError: If phases have begun with other settings, or the folder cannot be written to.
    """
    file = folder / SETTINGS
    if launch.rank() != 0:
        launch.wait_for(file, OPEN_SECONDS)
        return
    if file.is_file():
        before = read_mapping(file, tuple(settings), "give this run another --name")
        if before == settings:
            return
        for phase in PHASES:
            changed = _changed(_concerning(phase, before), _concerning(phase, settings))
            if changed and _begun(folder / phase):
                raise ValueError(
                    f"{folder} holds a {phase} phase with other settings ({'; '.join(changed[:3])}); give this run "
                    f"another --name or the settings it was started with, or delete {folder / phase} and the phases "
                    "after it to have them run again"
                )
    try:
        write_whole(file, yaml.safe_dump(settings, sort_keys=False))
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> ValueError:
    why = error.strerror or str(error)
    return ValueError(f"cannot make the run folder {folder} ({why}): give another --project or --name")


def _begun(folder: Path) -> bool:
    """Whether a phase has left anything that another start would go on with."""
    return (folder / RESULT).is_file() or any(folder.glob("*.ckpt"))


def _concerning(phase: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that have a say in what a phase gives: the shared ones, and of the phases up to it."""
    order = list(PHASES)
    later = set(order[order.index(phase) + 1 :])
    found = {key: value for key, value in settings.items() if key not in {"name", "project", *later}}
    if phase == "sparse" and settings["sparse"]["enabled"]:  # it prepares what the prune selects
        found["prune"] = {"selection": settings["prune"]["selection"]}
    for section, keys in OF_THE_MACHINE.items():
        found[section] = {key: value for key, value in found[section].items() if key not in keys}
    return found


def _changed(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [c for k in {**old, **new} for c in _changed(old.get(k), new.get(k), f"{key}.{k}" if key else k)]
    return [] if old == new else [f"{key}: {brief(old)} there, {brief(new)} here"]
