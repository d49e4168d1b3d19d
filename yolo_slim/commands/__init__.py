"""The command line: parsed here, done in ``workflow``."""

from yolo_slim.commands.entry import main

__all__ = ["main"]
