"""The slim recipe: baseline, sparse, prune, finetune, each leaving its checkpoint and its figures."""

from __future__ import annotations

import copy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from yolo_slim.callbacks import FreshStatistics, Target, WeightEMA, check_strategy
from yolo_slim.detection import SCORE_NAMES, DivergedError, YOLODetector, check_resumable, choose_imgsz, load_network
from yolo_slim.files import write_whole
from yolo_slim.pruning import check_prune
from yolo_slim.reporting import StateRow
from yolo_slim.wording import printable, say
from yolo_slim.workflow import fit_parts, launch
from yolo_slim.workflow.checkpoint_io import keep_whole
from yolo_slim.workflow.class_scores import to_plain
from yolo_slim.workflow.measuring import deployed_latencies, judge, size_of
from yolo_slim.workflow.pruning import prune_file
from yolo_slim.workflow.results import merge_metrics, read_result, set_metrics_aside, write_results
from yolo_slim.workflow.settings import RecipeSettings, SparsePhase
from yolo_slim.workflow.signals import Stopped

#: Folder of a phase -> state of the model after it, and the checkpoint that goes on.
PHASES = {
    "baseline": ("baseline", "best.ckpt"),
    "sparse": ("sparse", "last.ckpt"),
    "prune": ("slim", "slim.ckpt"),
    "finetune": ("finetuned", "best.ckpt"),
}
RESULT = "result.yaml"
#: How long the other ranks wait while rank 0 prunes.
WAIT_SECONDS = 1800


class RecipeResult(NamedTuple):
    """What a recipe leaves: a row for each state of the model, and the checkpoint of each state."""

    rows: list[StateRow]
    checkpoints: dict[str, str]


def run_recipe(settings: RecipeSettings, folder: str | Path) -> RecipeResult:
    """Trains, sparse-trains, prunes and finetunes a detector, or goes on with that.

    Args:
        settings: The phases.
        folder: The run folder, which exists. A phase is complete when its folder holds ``result.yaml``; complete phases
            are taken as they are, see :func:`yolo_slim.workflow.recipe_folder` for what may have changed since.

    Returns:
        What stands in ``results.md``; empty on ranks other than 0.

    Raises:
        ValueError: If something that a later phase would refuse is wrong with the settings, or a file is damaged.
        MisconfigurationException: If the Trainer does not allow a phase.
        OSError: If a file cannot be written.
        TimeoutError: If another rank does not come to an end.
        KeyboardInterrupt: If a fit is interrupted; the same call goes on. Two calls in one folder at the same time are
            refused inside of :func:`yolo_slim.workflow.recipe_folder` only.
    """
    return Recipe(settings, Path(folder)).run()


class Recipe:
    """Runs the phases that are not complete yet and writes the results.

    A phase is complete when its folder holds ``result.yaml``, which is written last. An interrupted fit goes on from
    its ``last.ckpt``. Every phase builds its own data module, detector, Trainer and callbacks: nothing of an earlier
    fit, its Trainer or its average reaches a later one but through the checkpoint.

    Args:
        settings: The phases.
        folder: The run folder.
    """

    def __init__(self, settings: RecipeSettings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        start = settings.weights or (settings.model if settings.model.endswith(".pt") else None)
        self._imgsz = settings.data.asked_imgsz or choose_imgsz(None, start)

    def run(self) -> RecipeResult:
        """Runs all enabled phases and writes the results."""
        self._check()
        settings = self.settings
        weights = settings.weights
        weights = self._train("baseline", weights) if settings.baseline.enabled else weights or settings.model
        self._measure("baseline", weights)
        if settings.sparse.enabled:
            weights = self._train("sparse", weights)
            self._measure("sparse", weights)
        if settings.prune.enabled:
            weights = self._prune(weights)
            self._measure("prune", weights)
        if settings.finetune.enabled:
            weights = self._train("finetune", weights)
            self._measure("finetune", weights)
        return self._results() if launch.rank() == 0 else RecipeResult([], {})

    def _check(self) -> None:
        """Finds out now, not after hours of training, what a later phase would refuse."""
        settings = self.settings
        trainer = self._trainer(logger=False, callbacks=[], enable_checkpointing=False)
        if trainer.fast_dev_run or trainer.barebones:  # type: ignore[attr-defined]
            name = "fast_dev_run" if trainer.fast_dev_run else "barebones"  # type: ignore[attr-defined]
            raise ValueError(
                f"trainer.{name}: nothing is saved with it, and every phase goes on from the one before it; "
                "give few epochs and trainer.limit_train_batches to try a recipe out"
            )
        if trainer.limit_val_batches == 0:
            raise ValueError(
                "trainer.limit_val_batches 0: every phase is measured on validation images; leave it out "
                "(trainer.check_val_every_n_epoch says how often they are looked at in training)"
            )
        if settings.sparse.enabled:
            check_strategy(trainer, "GammaSparsity")
        if settings.sparse.enabled or settings.prune.enabled:
            detector = YOLODetector(settings.model, settings.data.names, settings.weights, self._imgsz)
            if not settings.baseline.enabled:
                detector.setup("validate")  # whether the weights know the classes
            target, prune = Target(detector), settings.prune
            if settings.sparse.enabled:
                settings.sparse.sparsity.check(target)
            example = target.example_for(prune.selection)
            check_prune(target.model, target.graph, prune.selection, example, prune.compensation)

    # Phases

    def _train(self, phase: str, weights: str | None) -> str:
        folder = self.folder / phase
        if (folder / RESULT).is_file() and (kept := self._kept(phase)) is not None:
            return kept
        settings, data = self.settings.fits[phase], self.settings.data.fresh()
        self._say(f"{phase}: {settings.epochs} epochs")
        seed_everything(self.settings.seed, workers=True, verbose=False)
        detector = YOLODetector(self.settings.model, data.names, weights, self._imgsz, settings.hyp)
        extra: list[Callback] = [copy.deepcopy(settings.sparsity)] if isinstance(settings, SparsePhase) else []
        resumed = _sound(_beside(folder / "last.ckpt"), check_resumable)
        if launch.rank() == 0:
            set_metrics_aside(folder)
        started = time.time()
        trainer = self._trainer(
            max_epochs=settings.epochs,
            default_root_dir=str(folder),
            logger=fit_parts.loggers(folder),
            callbacks=[WeightEMA(), FreshStatistics(), *extra, *fit_parts.checkpoints(folder), *fit_parts.watchers()],
        )
        try:
            trainer.fit(detector, datamodule=data, ckpt_path=resumed)
        except BaseException as stop:
            if isinstance(stop, DivergedError):
                stop.go_on = f"delete {folder} to have the phase run again with other settings"
            raise fit_parts.as_stopped(stop, trainer) from None
        if trainer.received_sigterm:  # during the last batch
            raise Stopped(signal.SIGTERM)
        if launch.rank() == 0:
            merge_metrics(folder)
        self._say(f"{phase}: {time.time() - started:.0f} s")
        kept = self._kept(phase)
        assert kept is not None, "a fit leaves its last epoch"
        return kept

    def _prune(self, weights: str) -> str:
        folder = self.folder / "prune"
        slim = folder / PHASES["prune"][1]
        if slim.is_file():
            try:
                load_network(slim)
            except (ValueError, OSError) as error:
                self._say(f"{error}: it is pruned again")
            else:
                return str(slim)
        self._say(f"prune: {self.settings.prune.selection}")
        if launch.rank() == 0:
            folder.mkdir(exist_ok=True)
            prune_file(weights, self.settings.prune, folder, self.settings.data.fresh(), self._imgsz)
        launch.wait_for(slim, WAIT_SECONDS)
        return str(slim)

    def _measure(self, phase: str, weights: str) -> None:
        file = self.folder / phase / RESULT
        if file.is_file():
            read_result(file)
            return
        trainer = self._trainer(logger=False, callbacks=[], enable_checkpointing=False)
        judged = judge(trainer, weights, self.settings.data.fresh(), self._imgsz)
        if launch.rank() != 0:
            return
        result: dict[str, Any] = {"state": PHASES[phase][0], "checkpoint": str(weights)}
        result |= asdict(size_of(judged.detector.net, self._imgsz))
        result |= judged.scores | {"classes": to_plain(judged.classes)}
        self._say(
            f"{result['state']}: {result['parameters'] / 1e6:.3f} M parameters, {result['gflops']:.2f} GFLOPs, "
            f"mAP50 {result['map50']:.3f}, mAP50-95 {result['map']:.3f}, "
            f"{result['small_gammas']:.1%} of the gammas below 1e-2"
        )
        file.parent.mkdir(exist_ok=True)
        write_whole(file, yaml.safe_dump(result, sort_keys=False, default_flow_style=None))  # a line for each class

    def _results(self) -> RecipeResult:
        files = {p: self.folder / p / RESULT for p in PHASES}
        results = {p: read_result(f) for p, f in files.items() if f.is_file()}
        paths: dict[str, str] = {}
        for phase, result in results.items():
            recorded = Path(result["checkpoint"])
            kept = _beside(self.folder / phase / PHASES[phase][1])
            paths[phase] = _sound([recorded, *kept], load_network) or str(recorded)
        times = deployed_latencies(paths, self._imgsz)
        fields = ("state", "parameters", "gflops", *SCORE_NAMES, "small_gammas")
        others = [name for name in times if name != "torch"]
        rows = [
            StateRow(
                **{k: r[k] for k in fields},
                latency_ms=times["torch"][p],
                runtimes={n: times[n][p] for n in others},
                classes=r["classes"],
            )
            for p, r in results.items()
        ]
        checkpoints = {r["state"]: paths[p] for p, r in results.items()}
        write_results(self.folder, rows, checkpoints, str(self.settings.data.data), self._imgsz)
        return RecipeResult(rows, checkpoints)

    def _kept(self, phase: str) -> str | None:
        """The checkpoint of a phase that the next one goes on with; None where it has to be trained once more.

        In place of its best epoch a phase can give its last one. The last epoch of a sparse phase is what it was
        trained for, so that it is trained again from the best one.
        """
        file = _sound(_beside(self.folder / phase / PHASES[phase][1]), load_network)
        return file if file is None or phase != "sparse" or Path(file).name == PHASES[phase][1] else None

    def _trainer(self, **own: Any) -> Trainer:
        shared = copy.deepcopy(self.settings.trainer)  # a strategy is one of a single Trainer
        bar = fit_parts.quiet_bar(shared.pop("enable_progress_bar", None))
        shared |= fit_parts.mixed_precision(shared)
        trainer = Trainer(**{**shared, "num_sanity_val_steps": 0, "enable_model_summary": False, **bar, **own})
        keep_whole(trainer, Path(trainer.default_root_dir))
        return trainer

    @staticmethod
    def _say(text: str) -> None:
        if launch.rank() == 0:
            say(f"== {text}")


def _beside(path: Path) -> list[Path]:
    """A checkpoint of a phase, and the other one that the phase keeps."""
    return [path, path.with_name("last.ckpt" if path.name == "best.ckpt" else "best.ckpt")]


def _sound(paths: list[Path], check: Callable[[Path], Any]) -> str | None:
    """The first of the checkpoints, which an earlier start has left, that can be used; None if there is none at all.

    Raises:
        ValueError: If there are some, and none can be used.
    """
    first: Exception | None = None
    for path in paths:
        if not path.exists():
            continue
        try:
            check(path)
        except (ValueError, OSError) as error:
            first = first or error
            continue
        if first is not None and launch.rank() == 0:
            print(printable(f"{first}. {path} takes its place"), file=sys.stderr)
        return str(path)
    if first is not None:
        raise ValueError(f"{first}. Or delete {paths[0].parent} to have that phase run again") from first
    return None
