"""Configuration files on a command line: which they are, in which order they count, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from yolo_slim.documents import read_yaml
from yolo_slim.wording import brief

#: Keys that hold further keys.
_SECTIONS = ("data", "model", "trainer")
_PACKAGE = Path(__file__).parents[1]
#: Where the configurations are that come with the package: installed, or beside it in a checkout.
_SHIPPED = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), None)


def shipped_config(name: str) -> Path | None:
    """The configuration of that name which comes with the package; None if there is none.

    Args:
        name: A file name without folders, such as ``slim.yaml``.
    """
    file = _SHIPPED / name if _SHIPPED and name and Path(name).name == name else None
    return file if file is not None and file.is_file() else None


def files_first(arguments: Sequence[str]) -> list[str]:
    """The same arguments, each file before the keys that it may hold: the command line wins wherever it stands.

    Configuration files come first. So does the file of a group of keys, such as ``--model.hyp rates.yaml``, before
    ``--model.hyp.lr0``, unless the group has been given before that already. The name of a configuration that comes
    with the package, such as ``-c slim.yaml``, becomes its path, unless there is a file of that name here.

    Args:
        arguments: The verb, and its keys and values.

    Example:
        >>> files_first(["fit", "--trainer.max_epochs", "3", "-c", "long.yaml"])
        ['fit', '-c', 'long.yaml', '--trainer.max_epochs', '3']
    """
    options = options_of(arguments)
    ordered = [_with_path(option) for option in options if _file_of(option) is not None]
    for option in options:
        if _file_of(option) is not None:
            continue
        keys = [key_of(other) for other in ordered]
        below = [place for place, key in enumerate(keys) if key.startswith(key_of(option) + ".")]
        ordered.insert(below[0] if below and key_of(option) not in keys else len(ordered), option)
    return [*before_options(arguments), *(word for option in ordered for word in option)]


def check_config_files(arguments: Sequence[str]) -> None:
    """Reads the configuration files among the arguments, to name the one that is wrong.

    Raises:
        ValueError: If one is missing, a folder, empty, not YAML or not a mapping of keys.
    """
    for option in options_of(arguments):
        if (file := _file_of(option)) is not None:
            _check(_shipped_instead(file) or Path(file))


def _shipped_instead(file: str) -> Path | None:
    """The configuration of that name which comes with the package, unless there is such a file here."""
    return None if Path(file).exists() else shipped_config(file)


def _with_path(option: list[str]) -> list[str]:
    shipped = _shipped_instead(_file_of(option) or "")
    return option if shipped is None else ["-c", str(shipped), *option[2 if option[0] in ("-c", "--config") else 1 :]]


def _is_option(word: str) -> bool:
    """Whether a word names a key; a negative number does not."""
    return word.startswith("--") or word[:1] == "-" and word[1:2].isalpha()


def before_options(arguments: Sequence[str]) -> list[str]:
    """The verb, and what else stands before the first key."""
    return list(takewhile(lambda word: not _is_option(word), arguments))


def options_of(arguments: Sequence[str]) -> list[list[str]]:
    """Every key among the arguments, together with the words that follow it."""
    options: list[list[str]] = []
    for word in arguments[len(before_options(arguments)) :]:
        if _is_option(word):
            options.append([word])
        else:
            options[-1].append(word)
    return options


def key_of(option: Sequence[str]) -> str:
    """The key of an option, without what is written before and behind it."""
    return option[0].lstrip("-").partition("=")[0]


def _file_of(option: Sequence[str]) -> str | None:
    """The configuration file that ``-c`` or ``--config`` gives, in any of the ways to write it; None for other keys."""
    word = option[0]
    if word in ("-c", "--config"):
        return option[1] if len(option) > 1 else ""
    if word.startswith("--config="):
        return word.partition("=")[2]
    return word[2:].removeprefix("=") if word.startswith("-c") else None


def _check(file: Path) -> None:
    if not file.is_file():
        names = ", ".join(sorted(path.name for path in _SHIPPED.glob("*.yaml"))) if _SHIPPED else "none is installed"
        what = "is a folder" if file.is_dir() else "is no ordinary file" if file.exists() else "does not exist"
        raise ValueError(
            f"configuration file {file} {what}; give a YAML file, or the name of one that comes with yolo_slim: {names}"
        )
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
