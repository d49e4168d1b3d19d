"""fit, validate, test and predict: LightningCLI with the parts that every run needs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from yolo_slim.callbacks import FreshStatistics, WeightEMA
from yolo_slim.commands.keys import PARSER
from yolo_slim.commands.lightning_private import DeferredCLI
from yolo_slim.commands.nearest import naming_nearest
from yolo_slim.detection import (
    DivergedError,
    Hyperparameters,
    PredictionWriter,
    YOLODataModule,
    YOLODetector,
    check_resumable,
    choose_imgsz,
    expect_given,
    load_network,
)
from yolo_slim.wording import say
from yolo_slim.workflow import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    ClassTable,
    EpochLines,
    RunCheckpoint,
    as_stopped,
    discard_untrained,
    keep_whole,
    loggers,
    mixed_precision,
    new_run_folder,
    quiet_bar,
    rank,
    watchers,
)

#: Every run is logged, checkpointed and averaged unless its configuration says otherwise.
DEFAULTS = {
    **{f"checkpoint.{key}": value for key, value in BEST_CHECKPOINT.items()},
    "trainer.num_sanity_val_steps": 0,
    "trainer.log_every_n_steps": 10,
    "trainer.enable_model_summary": False,
}


class SlimCLI(DeferredCLI):
    """LightningCLI for :class:`YOLODetector` and :class:`YOLODataModule`.

    It adds ``--name`` and ``--project`` (the run folder, which no other run ever overwrites), ``--ema`` and
    ``--checkpoint``, and links class names and image size of the data to the model.

    Args:
        arguments: The verb, and its keys and values.

    Attributes:
        run_folder: The folder of the run, once it has been made.
    """

    run_folder: Path | None = None

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__(
            YOLODetector,
            YOLODataModule,
            # LightningCLI warns about arguments that are given and also stand on the command line.
            args=None if list(arguments) == sys.argv[1:] else list(arguments),
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={**PARSER, **{verb: dict(PARSER) for verb in self.subcommands()}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the keys of ours."""
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run; by default the verb.")
        parser.add_argument("--project", type=str, default="runs", help="Folder of the run folders.")
        parser.add_lightning_class_args(WeightEMA, "ema")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.set_defaults(DEFAULTS)
        parser.link_arguments("data.imgsz", "model.imgsz")
        parser.link_arguments("data.names", "model.names", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and names the nearest key where one is unknown."""
        words = sys.argv[1:] if args is None else args
        verb = words[0] if words and words[0] in self._subcommand_parsers else "fit"
        below = [f"model.hyp.{field.name}" for field in fields(Hyperparameters)]
        with naming_nearest(self._subcommand_parsers[verb], below):
            super().parse_arguments(parser, args)

    def choose_callbacks(self, config: dict[str, Any], callbacks: list[Callback]) -> list[Callback]:
        """Leaves our checkpoints out where there shall be none; the user's own stay, and Lightning refuses them."""
        if config.get("enable_checkpointing") is not False:
            return callbacks
        extra = self.trainer_defaults["callbacks"]
        self.trainer_defaults["callbacks"] = [c for c in extra if not isinstance(c, RunCheckpoint)]
        return [callback for callback in callbacks if not isinstance(callback, RunCheckpoint)]

    def before_instantiate_classes(self) -> None:
        """Refuses a checkpoint that cannot be used, and verbs that would judge an untrained network.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If it does not serve the verb, or if there is none.
        """
        checkpoint, model = self.parsed("ckpt_path"), self.parsed("model")
        data, saver = self.parsed("data"), self.parsed("checkpoint")
        paths = {"ckpt_path": checkpoint, "model.weights": model.weights, "model.model": model.model}
        paths |= {"data.data": data.data, "data.source": data.source, "checkpoint.dirpath": saver.dirpath}
        expect_given(**paths, **{key: self.parsed(key) for key in ("name", "project")})
        if checkpoint and str(checkpoint).endswith(".pt"):
            raise ValueError(f"ckpt_path={checkpoint}: expected a .ckpt; give a .pt as --model.weights")
        if checkpoint and self.subcommand == "fit":
            done, epochs = check_resumable(checkpoint), self.parsed("trainer").max_epochs
            if epochs is not None and done >= epochs > 0:
                raise ValueError(
                    f"{checkpoint} has been trained for {done} epochs, and max_epochs={epochs}: there is nothing to go "
                    "on with; raise --trainer.max_epochs, or start a new training from it with --model.weights"
                )
        elif checkpoint:
            load_network(checkpoint)
        elif self.subcommand != "fit" and not (model.weights or str(model.model).endswith(".pt")):
            raise ValueError(
                f"there are no weights to {self.subcommand}: give --ckpt_path with a checkpoint, or --model.weights "
                "with one or with an Ultralytics .pt file"
            )
        start = model.model if str(model.model).endswith(".pt") else None
        data.imgsz = model.imgsz = choose_imgsz(data.imgsz, checkpoint or model.weights or start)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Makes the run folder, once data and model are known to be good, and the Trainer that writes there."""
        keys = self.instantiated("trainer")
        if keys.get("barebones"):
            raise ValueError("trainer.barebones: nothing is logged or saved with it; leave it out")
        if keys.get("default_root_dir"):
            raise ValueError("trainer.default_root_dir: --project and --name say where a run is; leave it out")
        folder = new_run_folder(self.parsed("project"), self.parsed("name") or str(self.subcommand))
        self.run_folder = folder
        try:
            trainer = super().instantiate_trainer(**kwargs, **self._own_arguments(folder, keys))
        except BaseException as error:
            if rank() == 0:
                discard_untrained(folder)
            if isinstance(error, (ImportError, RuntimeError)):  # two callbacks of one kind, a package that is missing
                raise ValueError(f"there can be no Trainer with these trainer.* settings: {error}") from error
            raise
        # What prints an epoch comes after all that log it; Lightning wants checkpoints last.
        ordered: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        ordered.sort(key=lambda c: (isinstance(c, ModelCheckpoint), isinstance(c, EpochLines)))
        for saver in trainer.checkpoint_callbacks:
            if isinstance(saver, RunCheckpoint) and saver.dirpath is None:
                saver.dirpath = str(folder)
        keep_whole(trainer, folder)
        return trainer

    def _own_arguments(self, folder: Path, keys: Any) -> dict[str, Any]:
        """The Trainer's arguments that a run folder needs, beside those that the user gives."""
        fitting, bar = self.subcommand == "fit", keys.get("enable_progress_bar")
        own: dict[str, Any] = {"default_root_dir": str(folder), **mixed_precision(keys)}
        own_bar = any(isinstance(callback, ProgressBar) for callback in _listed(keys.get("callbacks")))
        if not own_bar:
            own |= quiet_bar(bar)
        if keys.get("logger") in (None, True):
            own["logger"] = loggers(folder) if fitting else False
        extra = watchers(bar is not False and not own_bar, fitting, keys.get("logger") is not False)
        if fitting:
            extra.append(FreshStatistics())
            extra.append(RunCheckpoint(self.parsed("checkpoint").dirpath or folder, **LAST_CHECKPOINT))
        if self.subcommand in ("validate", "test"):
            extra.append(ClassTable(folder))
        if self.subcommand == "predict":
            extra.append(PredictionWriter(folder))
        self.trainer_defaults = {"callbacks": extra}
        return own


def _listed(callbacks: object) -> list[Any]:
    """The callbacks that a configuration gives: none, one or several."""
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def main(arguments: Sequence[str]) -> None:
    """Runs ``fit``, ``validate``, ``test`` or ``predict``."""
    cli = None
    try:
        cli = SlimCLI(arguments)
        cli.run()
    except BaseException as stop:
        if cli is None or cli.run_folder is None:
            raise
        if rank() == 0 and not cli.trainer.current_epoch:
            discard_untrained(cli.run_folder)
        stop = as_stopped(stop, cli.trainer)
        last = cli.run_folder / "last.ckpt"
        of_input = isinstance(stop, (ValueError, MisconfigurationException)) and not isinstance(stop, DivergedError)
        if last.is_file() and not of_input:
            stop.go_on = f"--ckpt_path {shlex.quote(str(last))} goes on"  # type: ignore[attr-defined]
        raise stop from None
    if cli.run_folder is not None and getattr(cli.trainer, "fast_dev_run", False):
        discard_untrained(cli.run_folder)
    elif rank() == 0:
        say(f"Everything of this run is in {cli.run_folder}")
