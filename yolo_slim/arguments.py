"""What is wrong with a command line or a configuration file, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_slim.documents import read_yaml
from yolo_slim.wording import brief

#: Keys that hold further keys.
_SECTIONS = ("data", "model", "trainer")
#: Lines of jsonargparse's messages that say how it searched, not what is wrong.
_NOISE = (
    "Does not validate against any of the Union",
    "Subtypes:",
    "Errors:",
    "- Not a valid subclass of",
    "Subclass types expect one of:",
    "- a class path (str)",
    "- a dict with",
    "- Expected a <class 'NoneType'>",
    "Given value type:",
)


def check_config_files(arguments: Sequence[str]) -> None:
    """Reads the configuration files among the arguments, to name the one that is wrong.

    Raises:
        ValueError: If one is missing, a folder, empty, not YAML or not a mapping of keys.
    """
    for option, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if option in ("-c", "--config"):
            _check(Path(following))
        elif option.startswith("--config="):
            _check(Path(option.partition("=")[2]))


def shorten(message: str) -> str:
    """A message without jsonargparse's account of its search, or torch's of the process that the error came from."""
    if "Original Traceback (most recent call last)" in message:
        message = message.strip().splitlines()[-1].partition(": ")[2]
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if line and not line.startswith(_NOISE))


def _check(file: Path) -> None:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is no ordinary file" if file.exists() else "does not exist"
        raise ValueError(f"configuration file {file} {what}; give a YAML file, configs/ holds some to start from")
    try:
        content = read_yaml(file)
    except ValueError as error:
        raise ValueError(f"configuration file {file} is not valid YAML ({error}); correct it") from error
    if not isinstance(content, dict):
        holds = "is empty" if content is None else f"holds {brief(content, 60)}"
        raise ValueError(f"configuration file {file} {holds}; expected keys with values, such as those in configs/")
    for section in _SECTIONS:
        if section in content and not isinstance(content[section], dict):
            raise ValueError(
                f"configuration file {file} has {section}: {brief(content[section])}; expected keys below it, or none"
            )
