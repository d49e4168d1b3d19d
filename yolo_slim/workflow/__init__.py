"""Whole jobs, for Python and for the command line: from settings to files in a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from yolo_slim.lazy import face

if TYPE_CHECKING:
    from yolo_slim.workflow.checkpoint_io import keep_whole as keep_whole
    from yolo_slim.workflow.class_scores import ClassTable as ClassTable
    from yolo_slim.workflow.comparing import compare as compare
    from yolo_slim.workflow.exporting import Exported as Exported
    from yolo_slim.workflow.exporting import export as export
    from yolo_slim.workflow.exporting import export_all as export_all
    from yolo_slim.workflow.exporting import measure_exports as measure_exports
    from yolo_slim.workflow.fit_parts import BEST_CHECKPOINT as BEST_CHECKPOINT
    from yolo_slim.workflow.fit_parts import LAST_CHECKPOINT as LAST_CHECKPOINT
    from yolo_slim.workflow.fit_parts import EpochLines as EpochLines
    from yolo_slim.workflow.fit_parts import RunCheckpoint as RunCheckpoint
    from yolo_slim.workflow.fit_parts import as_stopped as as_stopped
    from yolo_slim.workflow.fit_parts import loggers as loggers
    from yolo_slim.workflow.fit_parts import mixed_precision as mixed_precision
    from yolo_slim.workflow.fit_parts import quiet_bar as quiet_bar
    from yolo_slim.workflow.fit_parts import watchers as watchers
    from yolo_slim.workflow.launch import rank as rank
    from yolo_slim.workflow.measuring import Split as Split
    from yolo_slim.workflow.measuring import size_of as size_of
    from yolo_slim.workflow.pruning import prune_file as prune_file
    from yolo_slim.workflow.pruning import rises as rises
    from yolo_slim.workflow.recipe import run_recipe as run_recipe
    from yolo_slim.workflow.resuming import recipe_folder as recipe_folder
    from yolo_slim.workflow.run_folder import discard_untrained as discard_untrained
    from yolo_slim.workflow.run_folder import new_run_folder as new_run_folder
    from yolo_slim.workflow.run_folder import sanitize as sanitize
    from yolo_slim.workflow.sensitivity import SensitivitySettings as SensitivitySettings
    from yolo_slim.workflow.sensitivity import measure_sensitivity as measure_sensitivity
    from yolo_slim.workflow.sensitivity import merge_sensitivities as merge_sensitivities
    from yolo_slim.workflow.settings import OWN_TRAINER_ARGUMENTS as OWN_TRAINER_ARGUMENTS
    from yolo_slim.workflow.settings import FitPhase as FitPhase
    from yolo_slim.workflow.settings import PrunePhase as PrunePhase
    from yolo_slim.workflow.settings import PruneSettings as PruneSettings
    from yolo_slim.workflow.settings import RecipeSettings as RecipeSettings
    from yolo_slim.workflow.settings import RoundSettings as RoundSettings
    from yolo_slim.workflow.settings import SparsePhase as SparsePhase
    from yolo_slim.workflow.signals import heeded as heeded

__getattr__, __dir__, __all__ = face(
    __name__,
    {
        "checkpoint_io": "keep_whole",
        "class_scores": "ClassTable",
        "comparing": "compare",
        "exporting": "Exported export export_all measure_exports",
        "fit_parts": "BEST_CHECKPOINT EpochLines LAST_CHECKPOINT RunCheckpoint as_stopped loggers mixed_precision "
        "quiet_bar watchers",
        "launch": "rank",
        "measuring": "Split size_of",
        "pruning": "prune_file rises",
        "recipe": "run_recipe",
        "resuming": "recipe_folder",
        "run_folder": "discard_untrained new_run_folder sanitize",
        "sensitivity": "SensitivitySettings measure_sensitivity merge_sensitivities",
        "settings": "FitPhase OWN_TRAINER_ARGUMENTS PrunePhase PruneSettings RecipeSettings RoundSettings SparsePhase",
        "signals": "heeded",
    },
)
