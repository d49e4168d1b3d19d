"""Channel pruning of any PyTorch model: trace, score, select, plan, surgery. Needs torch, numpy and yaml only."""

from yolo_slim.pruning.compensation import Compensated, compensate
from yolo_slim.pruning.cost import CostModel
from yolo_slim.pruning.graph import Attribute, ChannelGraph, Fixed, PrunableLayer, trace
from yolo_slim.pruning.importance import Importance, gamma_importance, importance_scores, reduce_to_groups
from yolo_slim.pruning.latency import latency, onnx_latency
from yolo_slim.pruning.passes import Pass
from yolo_slim.pruning.plan import PruningPlan, compose, make_plan
from yolo_slim.pruning.profile import LayerProfile, Profile, profile
from yolo_slim.pruning.prune import LayerChange, PruningReport, prune
from yolo_slim.pruning.recalibrate import recalibrate
from yolo_slim.pruning.select import select
from yolo_slim.pruning.selection import Selected, Selection
from yolo_slim.pruning.structure import (
    Structure,
    apply_structure,
    restore_structure,
    store_structure,
    structure_of,
)
from yolo_slim.pruning.surgery import apply_plan
from yolo_slim.pruning.taylor import Taylor

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
