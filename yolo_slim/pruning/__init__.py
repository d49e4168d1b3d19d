"""Channel pruning of any PyTorch model: trace, score, select, plan, surgery. Needs torch, numpy and yaml only."""

from yolo_slim.pruning.graph.graph import ChannelGraph, Pass
from yolo_slim.pruning.graph.tracing import default_passes, trace, train_but_statistics
from yolo_slim.pruning.latency_budget import cost_of
from yolo_slim.pruning.measure.latency import latencies_ms, latency_ms, onnx_latency_ms
from yolo_slim.pruning.measure.own_thread import on_own_thread
from yolo_slim.pruning.measure.profile import profile
from yolo_slim.pruning.measure.runtimes import RUNTIMES, Latency, expect_runtime, forward_in, times_in_turn
from yolo_slim.pruning.modules.layers import counts_of_weight
from yolo_slim.pruning.modules.restored import restored
from yolo_slim.pruning.modules.torch_private import BatchNorm, unscale_before_step
from yolo_slim.pruning.pipeline import Compensation, PruningReport, check_prune, expect_compensation, prune
from yolo_slim.pruning.repair.compensate import compensate
from yolo_slim.pruning.repair.recalibrate import recalibrate
from yolo_slim.pruning.scores.importance import Importance, gamma_importance, importance_scores
from yolo_slim.pruning.scores.taylor import Taylor
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.curves import TABLE as SENSITIVITY_TABLE
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selected, Selection
from yolo_slim.pruning.sensitivity import RATIOS, Row, Sensitivity, check_ratios, relative_rise
from yolo_slim.pruning.sparsity.choice import Choice
from yolo_slim.pruning.sparsity.growing import Growing
from yolo_slim.pruning.sparsity.penalty import (
    SMALL_GAMMA,
    PenalisedGammas,
    Proximal,
    Subgradient,
    gamma_magnitudes,
    small_share,
    strength_at,
)
from yolo_slim.pruning.sparsity.resting import Resting, without
from yolo_slim.pruning.surgery.apply import apply_plan
from yolo_slim.pruning.surgery.checkpoint import restore_structure, save_whole, store_structure, weights_checkpoint
from yolo_slim.pruning.surgery.plan import PruningPlan, make_plan
from yolo_slim.pruning.surgery.silence import silence
from yolo_slim.pruning.surgery.structure import Structure, apply_structure, structure_of
from yolo_slim.pruning.surgery.verify import verify

__all__ = [
    "BatchNorm",
    "ChannelGraph",
    "Choice",
    "Compensation",
    "CostModel",
    "Growing",
    "Importance",
    "Latency",
    "Pass",
    "PenalisedGammas",
    "Proximal",
    "PruningPlan",
    "PruningReport",
    "RATIOS",
    "RUNTIMES",
    "Resting",
    "Row",
    "SENSITIVITY_TABLE",
    "SMALL_GAMMA",
    "Selected",
    "Selection",
    "Sensitivity",
    "Structure",
    "Subgradient",
    "Taylor",
    "apply_plan",
    "apply_structure",
    "check_prune",
    "check_ratios",
    "compensate",
    "cost_of",
    "counts_of_weight",
    "default_passes",
    "expect_compensation",
    "expect_runtime",
    "forward_in",
    "gamma_importance",
    "gamma_magnitudes",
    "importance_scores",
    "latencies_ms",
    "latency_ms",
    "make_plan",
    "on_own_thread",
    "onnx_latency_ms",
    "profile",
    "prune",
    "recalibrate",
    "relative_rise",
    "restore_structure",
    "restored",
    "save_whole",
    "select",
    "silence",
    "small_share",
    "store_structure",
    "strength_at",
    "structure_of",
    "times_in_turn",
    "trace",
    "train_but_statistics",
    "unscale_before_step",
    "verify",
    "weights_checkpoint",
    "without",
]
