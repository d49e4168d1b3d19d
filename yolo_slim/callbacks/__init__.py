"""Lightning callbacks for any detection project; none of them needs Ultralytics."""

from yolo_slim.callbacks.channel_pruning import ChannelPruning
from yolo_slim.callbacks.distillation import Distillation
from yolo_slim.callbacks.framework import check_strategy
from yolo_slim.callbacks.fresh_statistics import FreshStatistics
from yolo_slim.callbacks.gamma_monitor import GammaMonitor
from yolo_slim.callbacks.gamma_sparsity import GammaSparsity
from yolo_slim.callbacks.slim_checkpoint import prune_module, save_slim
from yolo_slim.callbacks.sparse_phase.checks import check_epochs
from yolo_slim.callbacks.target import Target
from yolo_slim.callbacks.weight_ema import WeightEMA

__all__ = [
    "ChannelPruning",
    "Distillation",
    "FreshStatistics",
    "GammaMonitor",
    "GammaSparsity",
    "Target",
    "WeightEMA",
    "check_epochs",
    "check_strategy",
    "prune_module",
    "save_slim",
]
