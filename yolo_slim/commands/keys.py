"""Keys that the verbs of the command line share."""

from __future__ import annotations

from jsonargparse import ActionConfigFile, ArgumentParser

from yolo_slim.detection import YOLODataModule


def verb_parser(verb: str, description: str, name_help: str = "Name of the run folder.") -> ArgumentParser:
    """A parser with the keys of a run folder, which is called like the verb unless the user names it.

    Args:
        verb: The verb.
        description: What its help begins with.
        name_help: Help of the key ``name``.
    """
    found = ArgumentParser(prog=f"train.py {verb}", description=description, allow_abbrev=False, exit_on_error=False)
    found.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file with any of these keys.")
    found.add_argument("--name", type=str, default=verb, help=name_help)
    found.add_argument("--project", type=str, default="runs", help="Folder of the run folders.")
    return found


def add_measuring_data(found: ArgumentParser) -> None:
    """The keys of data that a model is measured with, not trained."""
    skipped = {"imgsz", "workers", "cache", "augment", "source"}
    found.add_class_arguments(YOLODataModule, "data", skip=skipped, instantiate=False)
