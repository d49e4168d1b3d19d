"""The slim recipe: baseline, then sparse, prune, finetune in rounds, each leaving its checkpoint and its figures."""

from __future__ import annotations

import copy
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from yolo_slim.callbacks import FreshStatistics, Target, WeightEMA, check_strategy
from yolo_slim.detection import SCORE_NAMES, DivergedError, YOLODetector, check_resumable, choose_imgsz, load_network
from yolo_slim.files import write_whole
from yolo_slim.pruning import Selection, check_prune
from yolo_slim.reporting import StateRow
from yolo_slim.wording import say
from yolo_slim.workflow import fit_parts, launch
from yolo_slim.workflow.checkpoint_io import keep_whole
from yolo_slim.workflow.class_scores import to_plain
from yolo_slim.workflow.kept import beside, sound
from yolo_slim.workflow.measuring import dense_costs, deployed_latencies, judge, size_of
from yolo_slim.workflow.phases import RESULT, Phase, phases_of
from yolo_slim.workflow.pruning import prune_file
from yolo_slim.workflow.results import merge_metrics, read_result, set_metrics_aside, write_results
from yolo_slim.workflow.rounds import ends, rounds_within, selection_in
from yolo_slim.workflow.sensitivity import by_its_sensitivity
from yolo_slim.workflow.settings import PruneSettings, RecipeSettings, SparsePhase
from yolo_slim.workflow.signals import Stopped

#: How long the other ranks wait while rank 0 prunes.
WAIT_SECONDS = 1800


class RecipeResult(NamedTuple):
    """What a recipe leaves: a row for each state of the model, its checkpoint, and the state that is the result."""

    rows: list[StateRow]
    checkpoints: dict[str, str]
    result: str


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
        self.phases = phases_of(settings)
        self._imgsz = settings.data.asked_imgsz or choose_imgsz(None, start)

    def run(self) -> RecipeResult:
        """Runs all phases and writes the results."""
        self._check()
        settings = self.settings
        weights = settings.weights
        for phase in self.phases:
            if phase.kind == "prune":
                weights = self._prune(phase, weights or settings.model)
            elif phase.kind != "baseline" or settings.baseline.enabled:
                weights = self._train(phase, weights)
            weights = weights or settings.model
            self._measure(phase, weights)
            if phase.kind == "finetune" and self._ends(phase):
                break
        return self._results() if launch.rank() == 0 else RecipeResult([], {}, "")

    def _ends(self, phase: Phase) -> bool:
        """Whether the rounds end with a finetune, because too much mAP is lost."""
        rounds = self.settings.rounds
        if phase.round == rounds.count or rounds.max_drop is None:
            return False
        launch.wait_for(self.folder / phase.folder / RESULT, WAIT_SECONDS)
        if not ends(*self._scores(), rounds):
            return False
        self._say(f"round {phase.round} is more than rounds.max_drop={rounds.max_drop:g} below the baseline: the last")
        return True

    def _scores(self) -> tuple[float, list[float]]:
        """mAP50-95 of the baseline, and after each finetune so far."""
        done = [phase for phase in self.phases if (self.folder / phase.folder / RESULT).is_file()]
        scores = {phase: read_result(self.folder / phase.folder / RESULT)["map"] for phase in done}
        return scores[self.phases[0]], [score for phase, score in scores.items() if phase.kind == "finetune"]

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
            start = (settings.model, settings.data.names, settings.weights, self._imgsz)
            detector = YOLODetector(*start, activation=settings.activation)
            if not settings.baseline.enabled:
                detector.setup("validate")  # whether the weights know the classes
            target, prune = Target(detector), settings.prune
            if settings.sparse.enabled:
                settings.sparse.sparsity.check(target)
            example = target.example_for(prune.selection)
            check_prune(target.model, target.graph, prune.selection, example, prune.compensation)

    # Phases

    def _train(self, phase: Phase, weights: str | None) -> str:
        folder = self.folder / phase.folder
        if (folder / RESULT).is_file() and (kept := self._kept(phase)) is not None:
            return kept
        settings, data = self.settings.fits[phase.kind], self.settings.data.fresh()
        epochs = self._epochs(phase)
        self._say(f"{phase.folder}: {epochs} epochs")
        seed_everything(self.settings.seed + max(phase.round - 1, 0), workers=True, verbose=False)
        model, activation = self.settings.model, self.settings.activation
        detector = YOLODetector(model, data.names, weights, self._imgsz, settings.hyp, activation=activation)
        extra: list[Callback] = []
        if isinstance(settings, SparsePhase):
            sparsity = copy.deepcopy(settings.sparsity)
            sparsity.selection = self._selection(phase)
            extra = [sparsity]
        resumed = sound(beside(folder / "last.ckpt"), check_resumable)
        if launch.rank() == 0:
            set_metrics_aside(folder)
        started, watchers = time.time(), fit_parts.watchers(True, True, True, self._later(phase))
        trainer = self._trainer(
            max_epochs=epochs,
            default_root_dir=str(folder),
            logger=fit_parts.loggers(folder),
            callbacks=[WeightEMA(), FreshStatistics(), *extra, *fit_parts.checkpoints(folder), *watchers],
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
        self._say(f"{phase.folder}: {time.time() - started:.0f} s")
        kept = self._kept(phase)
        assert kept is not None, "a fit leaves its last epoch"
        return kept

    def _later(self, phase: Phase) -> int:
        """Epochs of the fits after a phase."""
        following = self.phases[self.phases.index(phase) + 1 :]
        return sum(self._epochs(other) for other in following if other.kind != "prune")

    def _epochs(self, phase: Phase) -> int:
        of_round = self.settings.rounds.epochs if phase.kind == "finetune" else None
        return of_round or self.settings.fits[phase.kind].epochs

    def _prune(self, phase: Phase, weights: str) -> str:
        folder = self.folder / phase.folder
        slim = folder / phase.checkpoint
        if slim.is_file():
            try:
                load_network(slim)
            except (ValueError, OSError) as error:
                self._say(f"{error}: it is pruned again")
            else:
                return str(slim)
        if launch.rank() == 0:
            settings: PruneSettings = replace(self.settings.prune, selection=self._selection(phase))
            data = self.settings.data.fresh()
            if self.settings.rounds.sensitivity:
                settings = by_its_sensitivity(weights, data, settings, folder.parent / "sensitivity", self._imgsz)
            self._say(f"{phase.folder}: {settings.selection}")
            folder.mkdir(exist_ok=True, parents=True)
            prune_file(weights, settings, folder, data, self._imgsz)
        launch.wait_for(slim, WAIT_SECONDS)
        return str(slim)

    def _selection(self, phase: Phase) -> Selection:
        """What the round of a phase removes."""
        whole = self.settings.prune.selection
        dense: dict[str, float] = {}
        if self.settings.rounds.count > 1 and whole.limits:
            baseline = self._kept(self.phases[0]) if self.settings.baseline.enabled else self.settings.weights
            dense = dense_costs(baseline or self.settings.model, whole, self._imgsz)
        return selection_in(whole, phase.round, self.settings.rounds, dense)

    def _measure(self, phase: Phase, weights: str) -> None:
        file = self.folder / phase.folder / RESULT
        if file.is_file():
            read_result(file)
            return
        trainer = self._trainer(logger=False, callbacks=[], enable_checkpointing=False)
        judged = judge(trainer, weights, self.settings.data.fresh(), self._imgsz)
        if launch.rank() != 0:
            return
        result: dict[str, Any] = {"state": phase.state, "checkpoint": str(weights)}
        result |= asdict(size_of(judged.detector.net, self._imgsz))
        result |= judged.scores | {"classes": to_plain(judged.classes)}
        self._say(
            f"{result['state']}: {result['parameters'] / 1e6:.3f} M parameters, {result['gflops']:.2f} GFLOPs, "
            f"mAP50 {result['map50']:.3f}, mAP50-95 {result['map']:.3f}, "
            f"{result['small_gammas']:.1%} of the gammas below 1e-2"
        )
        file.parent.mkdir(exist_ok=True, parents=True)
        write_whole(file, yaml.safe_dump(result, sort_keys=False, default_flow_style=None))  # a line for each class

    def _results(self) -> RecipeResult:
        files = {p: self.folder / p.folder / RESULT for p in self.phases}
        results = {p: read_result(f) for p, f in files.items() if f.is_file()}
        paths: dict[str, str] = {}
        for phase, result in results.items():
            recorded = Path(result["checkpoint"])
            kept = beside(self.folder / phase.folder / phase.checkpoint)
            paths[phase.state] = sound([recorded, *kept], load_network) or str(recorded)
        times = deployed_latencies(paths, self._imgsz)
        fields = ("state", "parameters", "gflops", *SCORE_NAMES, "small_gammas")
        others = [name for name in times if name != "torch"]
        rows = []
        for phase, found in results.items():
            by_runtime = {name: times[name][phase.state] for name in others}
            figures = {name: found[name] for name in (*fields, "classes")}
            rows.append(StateRow(**figures, latency_ms=times["torch"][phase.state], runtimes=by_runtime))
        kept_round = rounds_within(*self._scores(), self.settings.rounds)
        final = [p for p in results if p.round == kept_round] if self.settings.rounds.count > 1 else list(results)
        ended = final[-1].state
        data, drop = str(self.settings.data.data), self.settings.rounds.max_drop
        lowest = None if drop is None else rows[0].map - drop
        write_results(self.folder, list(results), rows, paths, data, self._imgsz, ended, lowest)
        return RecipeResult(rows, paths, ended)

    def _kept(self, phase: Phase) -> str | None:
        """The checkpoint of a phase that the next one goes on with; None where it has to be trained once more.

        In place of its best epoch a phase can give its last one. The last epoch of a sparse phase is what it was
        trained for, so that it is trained again from the best one.
        """
        file = sound(beside(self.folder / phase.folder / phase.checkpoint), load_network)
        return file if file is None or phase.kind != "sparse" or Path(file).name == phase.checkpoint else None

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
