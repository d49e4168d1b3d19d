"""How the fits of the command line keep their checkpoints: whole, and never anybody else's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from yolo_slim.files import inside
from yolo_slim.pruning import save_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, and removes nothing outside of the run's own folders.

    Lightning's own writes to ``$TMPDIR`` and, where that is another file system, copies over the old checkpoint; and
    it removes whatever path the state of a ModelCheckpoint names.

    Args:
        folders: Where the run keeps checkpoints.
    """

    def __init__(self, folders: list[Path]) -> None:
        super().__init__()
        self._folders = folders

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint that appears whole or not at all; addresses such as ``s3://`` are left to Lightning.

        Raises:
            OSError: If it cannot be written; what was there before is unchanged.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_whole(checkpoint, path)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes an ordinary file of the run, and nothing else."""
        if Path(path).is_file() and inside(str(path), self._folders):
            Path(path).unlink(missing_ok=True)


def keep_whole(trainer: Trainer, folder: Path) -> None:
    """Has all checkpoints of a Trainer written whole, unless it has been given a way of its own.

    Args:
        trainer: The Trainer, with its callbacks.
        folder: The run folder.
    """
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO(checkpoint_folders(trainer, folder))


def checkpoint_folders(trainer: Trainer, folder: Path) -> list[Path]:
    """The run folder, and those that the ModelCheckpoints of a Trainer have been given."""
    savers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return [folder, *(Path(saver.dirpath) for saver in savers if saver.dirpath and "://" not in str(saver.dirpath))]
