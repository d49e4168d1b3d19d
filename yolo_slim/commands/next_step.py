"""Commands for the user to paste: with every path quoted, and found from where the user is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from yolo_slim.commands.config_files import shipped_config
from yolo_slim.commands.run_folders import data_of
from yolo_slim.documents import read_yaml

_PROJECT = Path(__file__).parents[2]


def called() -> str:
    """How the command line is called in this process: ``train.py``, ``yolo-slim`` or ``python -m yolo_slim``."""
    name = Path(sys.argv[0]).name
    return (
        "python -m yolo_slim" if name == "__main__.py" else "yolo-slim" if name.startswith("yolo-slim") else "train.py"
    )


def finetune(slim: Path, pruned: str | Path, data: str | None) -> str:
    """The command that trains a pruned model.

    Args:
        slim: Its checkpoint.
        pruned: The one that it was made of.
        data: What the prune was given as data; by default what the run of the pruned checkpoint was.
    """
    program, config = _program(), "configs/finetune.yaml"
    if not Path(config).is_file():
        config = "finetune.yaml" if program == ["yolo-slim"] else str(shipped_config("finetune.yaml"))
    words = [*program, "fit", "-c", config]
    known = data or data_of(Path(pruned))
    command = shlex.join([*words, "--model.weights", str(slim), "--data.data", known or "DATA.yaml"])
    return command if known else f"{command}  # DATA.yaml: what it was trained on"


def prune_by(sensitivity: Path) -> str:
    """The command that prunes by a measured sensitivity, whatever the model was; the budget is an example.

    Args:
        sensitivity: The folder of the measurement.
    """
    about = read_yaml(sensitivity / "sensitivity.yaml")
    words = ["prune", "--model.weights", about["weights"]["file"], "--selection.max_flops", "50%"]
    data = ["--data.data", about["data"]["file"]]
    return shlex.join([*_program(), *words, "--selection.sensitivity", str(sensitivity), *data])


def _program() -> list[str]:
    """How the command line is started: from a checkout, here or elsewhere, or as it is installed."""
    script = next((path for path in (Path("train.py"), _PROJECT / "train.py") if path.is_file()), None)
    return ["yolo-slim"] if script is None else ["python", str(script)]
