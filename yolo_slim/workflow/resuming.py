"""The run folder of a recipe: its own, and gone on in with settings that fit what has begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yolo_slim.files import write_whole
from yolo_slim.wording import brief
from yolo_slim.workflow import launch
from yolo_slim.workflow.phases import KINDS, RESULT, Kind
from yolo_slim.workflow.results import read_mapping
from yolo_slim.workflow.run_folder import LOCK, discard_untrained, held, make, sanitize

#: What a run of the recipe was started with.
SETTINGS = "recipe.yaml"
#: How long the other ranks wait until rank 0 has opened the run folder.
OPEN_SECONDS = 60
#: Settings that may change at any time: how a machine does the work, a batch that no longer fits among them.
OF_THE_MACHINE = {
    "data": {"batch", "workers", "cache"},
    "rounds": {"max_drop", "patience"},  # how long it goes on, not what a round gives
    "trainer": {"accelerator", "strategy", "devices", "num_nodes", "precision", "enable_progress_bar"},
}
#: Settings that version 0.1.0 did not have, and what it did.
UNKNOWN_TO_0_1_0: dict[str, Any] = {
    **{"sparse.sparsity.choose": "none", "data.rect": False, "data.fraction": 1.0, "data.augment.multi_scale": 0.0},
    **{"model.activation": None, "prune.selection.max_latency": None, "prune.selection.max_rise": None},
    **{"prune.selection.sensitivity": None, "prune.selection.allocate": "calibrate"},
    **{"rounds.count": 1, "rounds.schedule": "geometric", "rounds.epochs": None, "rounds.sensitivity": False},
    **{"prune.latency.runtime": "torch", "prune.latency.threads": None},
    **{"prune.latency.batch": None, "prune.latency.imgsz": None},
    **{f"{phase}.hyp.cls_pw": 0.0 for phase in ("baseline", "sparse", "finetune")},
}


@contextmanager
def recipe_folder(project: str | Path, name: str, settings: dict[str, Any]) -> Iterator[Path]:
    """The run folder of a recipe, held by this launch alone: a new one, or that of an earlier start that goes on.

    A new folder is removed again if the run fails before it has a checkpoint.

    Args:
        project: Folder of the run folders.
        name: Name of the run folder.
        settings: What the run is started with, as plain data by the keys of ``train.py slim``. They may differ from
            those of an earlier start in what is a matter of the machine, and in phases that have not begun.

    Raises:
        ValueError: If the folder cannot be made, holds something else, or holds phases with other settings.
    """
    folder = Path(project) / sanitize(name)
    new = not (folder / SETTINGS).is_file()
    _claim(folder)
    with held(folder):
        try:
            _open(folder, settings)
            try:
                yield folder
            except BaseException as stop:
                if not isinstance(stop, (ValueError, MisconfigurationException)) and any(folder.rglob("*.ckpt")):
                    stop.go_on = "the same command goes on"  # type: ignore[attr-defined]
                raise
        except BaseException:
            if new and launch.rank() == 0:  # so that corrected settings may have the name
                discard_untrained(folder)
            raise


def _claim(folder: Path) -> None:
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
        before = read_mapping(file, tuple(settings.keys() - {"rounds"}), "give this run another --name")
        if before == settings:
            return
        for kind in KINDS:
            changed = _changed(_concerning(kind, before), _concerning(kind, settings))
            begun = [phase for phase in (folder / kind, *sorted(folder.glob(f"round-*/{kind}"))) if _begun(phase)]
            if changed and begun:
                raise ValueError(
                    f"{folder} holds a {kind} phase with other settings ({'; '.join(changed[:3])}); give this run "
                    f"another --name or the settings it was started with, or delete {begun[0]} and the phases "
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


def _concerning(phase: Kind, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that have a say in what a phase gives: the shared ones, and of the phases up to it."""
    order = list(KINDS)
    later: set[str] = set(order[order.index(phase) + 1 :])
    if phase == "baseline":
        later.add("rounds")
    kept = {key: value for key, value in settings.items() if key not in {"name", "project", *later}}
    if phase == "sparse" and settings["sparse"]["enabled"]:  # it prepares what the prune selects
        kept["prune"] = {"selection": settings["prune"]["selection"]}
    for section, keys in OF_THE_MACHINE.items():
        kept[section] = {key: value for key, value in kept.get(section, {}).items() if key not in keys}
    return kept


def _changed(old: object, new: object, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = {k: f"{key}.{k}" if key else k for k in {**old, **new}}
        return [
            c for k, path in keys.items() for c in _changed(old.get(k, UNKNOWN_TO_0_1_0.get(path)), new.get(k), path)
        ]
    return [] if old == new else [f"{key}: {brief(old)} there, {brief(new)} here"]
