"""Lightning callbacks for any detection project; none of them needs Ultralytics."""

from yolo_slim.callbacks.channel_pruning import ChannelPruning
from yolo_slim.callbacks.gamma_monitor import GammaMonitor
from yolo_slim.callbacks.gamma_sparsity import GammaSparsity
from yolo_slim.callbacks.weight_ema import WeightEMA

__all__ = ["ChannelPruning", "GammaMonitor", "GammaSparsity", "WeightEMA"]
