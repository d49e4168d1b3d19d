"""What every fit of ours is surrounded with: checkpoints, averaging, loggers, progress."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from yolo_slim.callbacks import GammaMonitor, GammaSparsity
from yolo_slim.workflow.epoch_lines import EpochLines
from yolo_slim.workflow.signals import Stopped


class GammaPlot(Callback):
    """Draws the gammas before and after a fit with :class:`GammaSparsity` into ``gammas.png`` of its run folder."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws; an interrupted fit counts too."""
        from yolo_slim.reporting import gamma_histograms  # takes a second to import

        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GammaSparsity) and len(callback.gammas_after) and trainer.is_global_zero:
                path = Path(trainer.default_root_dir) / "gammas.png"
                gamma_histograms(callback.gammas_before.numpy(), callback.gammas_after.numpy(), path)


def loggers(folder: Path) -> list[Logger]:
    """TensorBoard and CSV (``metrics.csv``) side by side in a run folder."""
    return [TensorBoardLogger(folder, name="", version=""), CSVLogger(folder, name="", version="")]


#: ``best.ckpt``: the epoch of the highest mAP.
BEST_CHECKPOINT: dict[str, Any] = {
    "filename": "best",
    "monitor": "val/map",
    "mode": "max",
    "enable_version_counter": False,
}
#: ``last.ckpt``: every epoch, validated or not. Lightning's ``save_last`` writes only when there is a new best.
LAST_CHECKPOINT: dict[str, Any] = {"filename": "last", "enable_version_counter": False, "save_on_train_epoch_end": True}


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint that every fit keeps; a user may add a ModelCheckpoint of the very same settings."""

    @property
    def state_key(self) -> str:
        """Tells its state from those of the user's own."""
        return f"{ModelCheckpoint.__name__} {self.filename} of the run: {super().state_key}"

    @property
    def _legacy_state_key(self) -> Any:  # in the checkpoints of earlier versions
        return super().state_key.replace(type(self).__name__, ModelCheckpoint.__name__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the best score where the run folder has been moved, so that no worse epoch takes its place."""
        score, kept = state_dict.get("best_model_score"), Path(str(self.dirpath)) / f"{self.filename}.ckpt"
        if state_dict.get("dirpath") != self.dirpath and score is not None and self.save_top_k == 1 and kept.is_file():
            path = str(kept)
            state_dict = {**state_dict, "dirpath": self.dirpath, "best_k_models": {path: score}, "kth_value": score}
            state_dict |= {"best_model_path": path, "kth_best_model_path": path, "last_model_path": ""}
        super().load_state_dict(state_dict)


def checkpoints(folder: Path) -> list[Callback]:
    """Keeps ``best.ckpt`` and ``last.ckpt`` in a run folder."""
    return [RunCheckpoint(folder, **BEST_CHECKPOINT), RunCheckpoint(folder, **LAST_CHECKPOINT)]


def watchers(progress_bar: bool = True, fitting: bool = True, logging: bool = True, later: int = 0) -> list[Callback]:
    """Callbacks that only look: rates and gammas to the loggers and a picture, progress to the screen.

    Args:
        progress_bar: Whether there is a bar where the output is a terminal.
        fitting: Whether it is a fit.
        logging: Whether there are loggers.
        later: Epochs of the fits that follow, for the time to go.
    """
    callbacks: list[Callback] = [GammaMonitor(), GammaPlot()] if fitting else []
    if fitting and logging:
        callbacks.append(LearningRateMonitor("epoch"))
    if progress_bar and sys.stdout.isatty():
        callbacks.append(RichProgressBar(leave=True))
    elif fitting:
        callbacks.append(EpochLines(later))
    return callbacks


def as_stopped(stop: BaseException, trainer: Trainer) -> BaseException:
    """What has ended a fit, where Lightning turned a signal into a ``SystemExit``: which signal it was."""
    if not isinstance(stop, SystemExit):
        return stop
    if trainer.received_sigterm:
        return Stopped(signal.SIGTERM)
    cause = stop.__context__
    return Stopped(getattr(cause, "number", signal.SIGINT)) if isinstance(cause, KeyboardInterrupt) else stop


def mixed_precision(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Trainer argument for the precision on a CUDA GPU where none is asked for: mixed, as Ultralytics has it.

    Args:
        trainer: What is asked for.
    """
    asked = trainer.get("precision") is not None or bool(trainer.get("plugins"))
    cuda = trainer.get("accelerator") in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()
    return {"precision": "16-mixed"} if cuda and not asked else {}


def quiet_bar(progress_bar: bool | None) -> dict[str, Any]:
    """Trainer argument that leaves out Lightning's own bar where ours, or lines, take its place."""
    return {"enable_progress_bar": progress_bar is not False and sys.stdout.isatty()}
