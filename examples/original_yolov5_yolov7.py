"""Prunes a model of the original YOLOv5 or YOLOv7 repository in place, with its own trained head.

Run it inside of the clone, where the classes of the file can be imported:

    python original_yolov5_yolov7.py yolov5s.pt --size 640 --max-flops 60%

What it writes holds the pruned model in place of the old one. The clone's train.py builds its model from a YAML, which
would give the dense one: where it says `model = Model(...)`, it needs

    model = ckpt["model"].float().to(device)

With images, the gradients of the clone's own loss choose the channels (Taylor importance). Where ``batches`` are some
images (B, 3, height, width), from 0 to 1, with their targets as the clone's loader gives them:

    model.hyp, model.gr = yaml.safe_load(Path(hyp).read_text()), 1.0  # hyp: a file of its data folder
    compute_loss = utils.loss.ComputeLoss(model)
    losses = (compute_loss(model(images), targets)[0] for images, targets in batches)
    slim(model, torch.zeros(1, 3, 640, 640), Selection(max_flops="60%"), losses)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from yolo_slim.pruning import (
    Importance,
    PruningReport,
    Selection,
    Taylor,
    importance_scores,
    prune,
    save_whole,
    trace,
    train_but_statistics,
)


def slim(
    model: nn.Module, images: Tensor, selection: Selection, losses: Iterable[Tensor] | None = None
) -> PruningReport:
    """Prunes a model in place.

    Args:
        model: In float32.
        images: (1, 3, height, width), of the size that it is used with.
        selection: What goes.
        losses: Losses of some batches, computed as they are asked for; the model is in train mode then. By default the
            scores are the norms of the weights, which say nothing across layers: let ``selection`` take as much of
            each (``scope="local"``).

    Raises:
        ValueError: If nothing can be pruned so, or the smaller model would not compute the same.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)

    def raw(network: nn.Module) -> object:
        """What the head gives in train mode: in eval mode it ends in boxes, which no loss sees."""
        train_but_statistics(network)
        return tuple(network(images))

    graph = trace(model, passes=[raw])
    taylor = None
    if losses is not None:
        taylor = Taylor(model, graph)
        train_but_statistics(model)
        taylor.observe_losses(losses)
    importance = Importance("taylor" if taylor else "l2", reduction="mean")
    scores = importance_scores(model, graph, importance, taylor)
    return prune(model, graph, selection, scores, example_inputs=images)


def main() -> None:
    """Prunes the model of a checkpoint of the clone, and saves it beside that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="checkpoint of the clone; opening it runs what it says")
    parser.add_argument("--size", type=int, default=640, help="side of the images in pixels")
    parser.add_argument("--max-flops", default="60%", help="what is left of the operations")
    arguments = parser.parse_args()
    checkpoint = torch.load(arguments.weights, map_location="cpu", weights_only=False)
    model = (checkpoint.get("ema") or checkpoint["model"]).float()
    images = torch.zeros(1, 3, arguments.size, arguments.size)
    report = slim(model, images, Selection(max_flops=arguments.max_flops, scope="local"))
    made = arguments.weights.with_name(f"{arguments.weights.stem}-slim.pt")
    save_whole({"epoch": -1, "model": model.half(), "ema": None, "optimizer": None}, made)
    share = report.parameters_after / report.parameters_before
    print(f"{made}: {share:.0%} of the parameters, largest relative error {report.error:.1e}; train it before use")


if __name__ == "__main__":
    main()
