"""Channel pruning of any PyTorch model: trace, score, select, plan, surgery. Needs torch, numpy and yaml only."""

from yolo_slim.pruning.graph.graph import Attribute, ChannelGraph, Fixed, PrunableLayer
from yolo_slim.pruning.graph.passes import Pass
from yolo_slim.pruning.graph.tracing import trace
from yolo_slim.pruning.measure.latency import latency, onnx_latency
from yolo_slim.pruning.measure.profile import LayerProfile, Profile, profile
from yolo_slim.pruning.pipeline import LayerChange, PruningReport, prune
from yolo_slim.pruning.repair.compensate import Compensated, compensate
from yolo_slim.pruning.repair.recalibrate import recalibrate
from yolo_slim.pruning.scores.importance import Importance, gamma_importance, importance_scores
from yolo_slim.pruning.scores.taylor import Taylor
from yolo_slim.pruning.scores.values import reduce_to_groups
from yolo_slim.pruning.selection.cost import CostModel
from yolo_slim.pruning.selection.select import select
from yolo_slim.pruning.selection.selection import Selected, Selection
from yolo_slim.pruning.surgery.apply import apply_plan
from yolo_slim.pruning.surgery.checkpoint import restore_structure, store_structure
from yolo_slim.pruning.surgery.plan import PruningPlan, compose, make_plan
from yolo_slim.pruning.surgery.structure import Structure, apply_structure, structure_of

__all__ = [
    "Attribute",
    "ChannelGraph",
    "Compensated",
    "CostModel",
    "Fixed",
    "Importance",
    "LayerChange",
    "LayerProfile",
    "Pass",
    "Profile",
    "PrunableLayer",
    "PruningPlan",
    "PruningReport",
    "Selected",
    "Selection",
    "Structure",
    "Taylor",
    "apply_plan",
    "apply_structure",
    "compensate",
    "compose",
    "gamma_importance",
    "importance_scores",
    "latency",
    "make_plan",
    "onnx_latency",
    "profile",
    "prune",
    "recalibrate",
    "reduce_to_groups",
    "restore_structure",
    "select",
    "store_structure",
    "structure_of",
    "trace",
]
