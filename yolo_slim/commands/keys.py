"""Keys that verbs of the command line share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace

from yolo_slim.commands.nearest import naming_nearest
from yolo_slim.commands.next_step import called
from yolo_slim.detection import YOLODataModule
from yolo_slim.pruning import Importance, Latency, Selection
from yolo_slim.workflow import PruneSettings


class HelpFormatter(DefaultHelpFormatter):
    """Help texts come from docstrings, whose markup is not for a terminal."""

    def format_help(self) -> str:
        """The help with words marked as in Markdown."""
        return super().format_help().replace("``", "`")


#: Of the parsers of all verbs: keys are spelled out, and an error is for the entry to say.
PARSER: dict[str, Any] = {"allow_abbrev": False, "exit_on_error": False, "formatter_class": HelpFormatter}


def verb_parser(verb: str, description: str, name_help: str = "Name of the run folder.") -> ArgumentParser:
    """A parser with the keys of a run folder, which is called like the verb unless the user names it.

    Args:
        verb: The verb.
        description: What its help begins with.
        name_help: Help of the key ``name``.
    """
    keys = ArgumentParser(prog=f"{called()} {verb}", description=description, **PARSER)
    keys.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of these keys.")
    keys.add_argument("--name", type=str, default=verb, help=name_help)
    keys.add_argument("--project", type=str, default="runs", help="Folder of the run folders.")
    return keys


def parsed(keys: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The values of a verb's keys.

    Raises:
        ArgumentError: If one is unknown or its value is none that it takes.
    """
    with naming_nearest(keys):
        return keys.parse_args(list(arguments))


def add_measuring_data(keys: ArgumentParser) -> None:
    """Adds the keys of data that a model is measured with, not trained."""
    skipped = {"imgsz", "workers", "cache", "augment", "rect", "source"}
    keys.add_class_arguments(YOLODataModule, "data", skip=skipped, instantiate=False)


def add_prune_arguments(keys: ArgumentParser, group: str | None = None) -> None:
    """Adds the keys of :class:`PruneSettings`, for the verb and for the recipe."""
    prefix = f"{group}." if group else ""
    keys.add_class_arguments(Selection, f"{prefix}selection", skip={"latency"})
    keys.add_class_arguments(Latency, f"{prefix}latency")
    keys.add_class_arguments(Importance, f"{prefix}importance")
    keys.add_class_arguments(PruneSettings, group, skip={"selection", "importance"}, instantiate=False, as_group=False)


def prune_arguments(values: Namespace) -> dict[str, Any]:
    """The arguments of :class:`PruneSettings` among instantiated values."""
    names = ("importance", "compensation", "recalibrate", "batches")
    return {"selection": timed_by(values.selection, values.latency), **{name: values[name] for name in names}}


def timed_by(selection: Selection, latency: Latency) -> Selection:
    """The selection whose latency is measured so."""
    return replace(selection, latency=latency)
