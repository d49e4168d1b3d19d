"""How far a detector is from a teacher: what both say of every anchor."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

#: Of the classes and the box distributions, as in the detector's own loss.
Gains = tuple[float, float]


def distillation_loss(outputs: Any, taught: Any, gains: Gains) -> Tensor:
    """Binary cross entropy of the class logits against the teacher's scores, and of the distributions over distances.

    The first counts every anchor, relative to what the teacher is sure of: the sum of its highest scores. The second
    is the Kullback-Leibler divergence of each side of the box, weighted by the teacher's highest score of the anchor.
    Both are 0 where the detector says what the teacher says.

    Args:
        outputs: What the network has given, in either mode: box distributions (B, 4 * reg_max, anchors) and class
            logits (B, nc, anchors).
        taught: What the teacher has given, for as many classes.
        gains: Weights of the two parts.

    Returns:
        A scalar, per image as Ultralytics' loss is.

    Raises:
        ValueError: If the two have other classes or heads.
    """
    boxes, logits = raw_parts(outputs)
    boxes_taught, logits_taught = raw_parts(taught)
    if logits.shape != logits_taught.shape or boxes.shape != boxes_taught.shape:
        raise ValueError(
            f"the teacher gives class logits of {tuple(logits_taught.shape)} and boxes of {tuple(boxes_taught.shape)}, "
            f"the detector of {tuple(logits.shape)} and {tuple(boxes.shape)}: take a teacher of the same classes"
        )
    scores = logits_taught.sigmoid()
    sure = scores.amax(1)
    total = sure.sum().clamp(min=1)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits_taught, scores, reduction="sum")
    classes = (nn.functional.binary_cross_entropy_with_logits(logits, scores, reduction="sum") - entropy) / total
    log_sides, log_taught = (nn.functional.log_softmax(b.unflatten(1, (4, -1)), dim=2) for b in (boxes, boxes_taught))
    divergence = nn.functional.kl_div(log_sides, log_taught, reduction="none", log_target=True).sum(2).mean(1)
    return gains[0] * classes + gains[1] * (divergence * sure).sum() / total


def raw_parts(outputs: Any) -> tuple[Tensor, Tensor]:
    """Box distributions and class logits of what a network gave in train or eval mode, in single precision."""
    raw = outputs[1] if isinstance(outputs, tuple) else outputs
    if "boxes" not in raw:
        raise ValueError("a network has an end-to-end head (YOLO26), which cannot be compared; take YOLOv8 to 12")
    return raw["boxes"].float(), raw["scores"].float()
