"""Help for the keys below ``model.hyp``, which its parser takes as a whole."""

from __future__ import annotations

from jsonargparse import ArgumentParser

from yolo_slim.commands.keys import PARSER
from yolo_slim.detection import Hyperparameters


def hyp_help() -> str:
    """The keys of :class:`Hyperparameters` as the help of a parser shows them."""
    keys = ArgumentParser(usage="", add_help=False, default_env=False, **PARSER)
    keys.add_class_arguments(Hyperparameters, "model.hyp")
    return keys.format_help()
