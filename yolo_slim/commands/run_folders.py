"""What a run folder stands for: its last model, and the data that it was trained on."""

from __future__ import annotations

from pathlib import Path

from yolo_slim.documents import read_yaml

#: Where a run keeps its last model, the last one first.
_MODELS = (
    *("finetune/best.ckpt", "finetune/last.ckpt", "prune/slim.ckpt", "sparse/last.ckpt"),
    *("baseline/best.ckpt", "best.ckpt", "slim.ckpt", "last.ckpt"),
)
#: In a run folder, or in the one of a recipe above it: what the run was started with.
_SETTINGS = ("config.yaml", "recipe.yaml", "../recipe.yaml", "../../recipe.yaml")


def last_model(run: Path) -> Path | None:
    """The checkpoint that a run has ended with; None if the folder holds none.

    Args:
        run: Folder of any verb, or of a phase.
    """
    result = _result_of(run)
    if result is not None:
        return result
    rounds = sorted(run.glob("round-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return next((file for folder in (*rounds, run) for name in _MODELS if (file := folder / name).is_file()), None)


def baseline_of(run: Path) -> Path | None:
    """The dense model that a recipe has started from, for another one; of other runs the last model.

    Args:
        run: Folder of any verb.
    """
    try:
        file = Path(str(read_yaml(run / "baseline" / "result.yaml")["checkpoint"]))
    except (OSError, ValueError, TypeError, KeyError):
        return last_model(run)
    kept = run / "baseline" / file.name  # where the run has been moved
    return file if file.is_file() else kept if kept.is_file() else last_model(run)


def _result_of(run: Path) -> Path | None:
    """The result of a recipe that has ended with a round before its last one, or whose best epoch is another file."""
    try:
        lines = (run / "results.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    told = next((line for line in lines if line.startswith("The result is ")), "")
    file = Path(told.partition("`")[2].partition("`")[0])
    return file if told and file.is_file() else None


def data_of(weights: Path) -> str | None:
    """The data that the run beside a checkpoint was started with, if that says so and it can be found from here."""
    for name in _SETTINGS:
        try:
            settings = read_yaml(weights.parent / name)
        except (OSError, ValueError):
            continue
        section = settings.get("data") if isinstance(settings, dict) else None
        data = section.get("data") if isinstance(section, dict) else None
        if isinstance(data, str) and (data == "shapes" or Path(data).is_file()):
            return data
    return None
