"""SlimTrainer: training with stock Ultralytics that keeps the structure of a slim network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from yolo_slim.detection.network.build import expect_detect, fit_classes, head_of, prepare


class SlimTrainer(DetectionTrainer):
    """Ultralytics' detection trainer for networks that their model YAML no longer describes.

    The stock trainer builds the network anew from the YAML inside a ``.pt`` file and copies the weights that fit, so
    that a slim network comes back full-sized and mostly untrained. This one trains the network of the file itself::

        YOLO("slim.pt").train(trainer=SlimTrainer, data="data.yaml", epochs=50)

    A network that its YAML does describe is trained exactly as by the stock trainer. What it saves is read by stock
    Ultralytics and by :func:`yolo_slim.detection.load_network`.
    """

    def get_model(
        self, cfg: str | dict[str, Any] | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> DetectionModel:
        """The network to train.

        Args:
            cfg: Model YAML or its content; used for a network that it describes.
            weights: The network of the file that training starts or resumes from.
            verbose: Whether Ultralytics prints the layers of a network that it builds.

        Raises:
            ValueError: If there is no network to start from, or it cannot be trained on this data.
        """
        if weights is None:
            raise ValueError(
                "SlimTrainer keeps the structure of a trained network and got none; start from a .pt file without "
                "pretrained=False, or train from scratch with Ultralytics' own trainer"
            )
        name = str(getattr(weights, "pt_path", "the given network"))
        if not isinstance(weights, DetectionModel):
            raise ValueError(f"{name} holds a {type(weights).__name__}; expected a detection model of Ultralytics")
        expect_detect(weights, name)
        if weights.is_fused():
            raise ValueError(f"{name} has its BatchNorm folded into the convolutions; train from the unfused file")
        if _as_described(weights):
            return super().get_model(cfg, weights, verbose)
        _expect_channels(weights, self.data["channels"], name)
        net: Any = prepare(copy.deepcopy(weights))
        net.criterion = None  # of an earlier training
        if not getattr(self.args, "cls_remap", True):
            net.names = {}  # rows are kept by index then, not by name
        fit_classes(net, self.data["names"])
        if verbose:
            LOGGER.info(
                f"SlimTrainer keeps the network of {name}: {sum(p.numel() for p in net.parameters()):,} parameters"
            )
        return net


def _as_described(net: Any) -> bool:
    """Whether Ultralytics would build a network of the same layers and shapes from the network's own YAML."""
    with torch.random.fork_rng(devices=[]):
        built = DetectionModel(
            copy.deepcopy(net.yaml), ch=_first_convolution(net).in_channels, nc=head_of(net).nc, verbose=False
        )
    built.load(copy.deepcopy(net), verbose=False)  # takes the width of the class branch over, which follows old classes
    return _outline(built) == _outline(net)


def _outline(net: nn.Module) -> tuple[dict[str, str], dict[str, torch.Size]]:
    """Classes of the layers, which differ between versions of Ultralytics, and shapes of the tensors."""
    layers = {name: type(module).__name__ for name, module in net.named_modules(remove_duplicate=False)}
    return layers, {name: value.shape for name, value in net.state_dict().items()}


def _expect_channels(net: nn.Module, channels: int, name: str) -> None:
    expected = _first_convolution(net).in_channels
    if expected != channels:
        raise ValueError(f"{name} takes images of {expected} channels, the data has {channels}")


def _first_convolution(net: nn.Module) -> nn.Conv2d:
    return next(m for m in net.modules() if isinstance(m, nn.Conv2d))
