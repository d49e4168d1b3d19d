"""Channel pruning of any PyTorch model: trace, score, select, plan, surgery. Needs torch, numpy and yaml only."""

from yolo_slim.pruning.graph import Attribute, ChannelGraph, Fixed, PrunableLayer, trace
from yolo_slim.pruning.importance import gamma_importance, reduce_to_groups
from yolo_slim.pruning.passes import Pass
from yolo_slim.pruning.plan import PruningPlan, make_plan
from yolo_slim.pruning.profile import LayerProfile, Profile, latency, profile
from yolo_slim.pruning.prune import LayerChange, PruningReport, prune
from yolo_slim.pruning.selection import Selected, Selection, select
from yolo_slim.pruning.structure import (
    Structure,
    apply_structure,
    restore_structure,
    store_structure,
    structure_of,
)
from yolo_slim.pruning.surgery import apply_plan

__all__ = [
    "Attribute",
    "ChannelGraph",
    "Fixed",
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
    "apply_plan",
    "apply_structure",
    "gamma_importance",
    "latency",
    "make_plan",
    "profile",
    "prune",
    "reduce_to_groups",
    "restore_structure",
    "select",
    "store_structure",
    "structure_of",
    "trace",
]
