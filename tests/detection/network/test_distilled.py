"""What a detector learns from a teacher's outputs."""

from __future__ import annotations

import pytest
import torch

from yolo_slim.detection.network.distilled import distillation_loss

ANCHORS, CLASSES = 20, 3


def outputs(seed=0, sure=None):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(2, 64, ANCHORS, generator=generator, requires_grad=True)
    scores = torch.randn(2, CLASSES, ANCHORS, generator=generator)
    if sure is not None:
        scores = torch.full_like(scores, -12.0)
        scores[:, 1, sure] = 12.0
    return {"boxes": boxes, "scores": scores.requires_grad_()}


def gradients(student, loss):
    return torch.autograd.grad(loss, [student["boxes"], student["scores"]])


def test_nothing_is_to_learn_from_oneself():
    student = outputs()
    taught = {name: value.detach() for name, value in student.items()}
    loss = distillation_loss(student, taught, (0.5, 1.5))
    assert loss.abs() < 1e-5
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients(student, loss))


def test_boxes_count_where_the_teacher_is_sure():
    student = outputs(0)
    of_boxes, of_scores = gradients(student, distillation_loss(student, outputs(1, sure=4), (1.0, 1.0)))
    size = of_boxes.abs().amax((0, 1))
    assert size[4] > 1e3 * size[torch.arange(ANCHORS) != 4].max()
    assert (of_scores[:, 1, 4] < 0).all()  # towards the class
    assert (of_scores[:, 0] > 0).all()


@pytest.mark.parametrize(("gains", "learns"), [((1.0, 0.0), (False, True)), ((0.0, 1.0), (True, False))])
def test_each_part_has_its_gain(gains, learns):
    student, taught = outputs(0), outputs(1)
    one = gradients(student, distillation_loss(student, taught, gains))
    two = gradients(student, distillation_loss(student, taught, tuple(2 * gain for gain in gains)))
    for gradient, twice, does in zip(one, two, learns, strict=True):
        assert torch.allclose(2 * gradient, twice)
        assert bool(gradient.any()) == does


def test_either_mode_and_precision_will_do():
    student, taught = outputs(0), outputs(1)
    halves = {name: value.bfloat16() for name, value in taught.items()}
    expected = distillation_loss(student, taught, (0.5, 1.5)).detach()
    assert distillation_loss((None, student), (None, taught), (0.5, 1.5)) == expected
    assert distillation_loss(student, halves, (0.5, 1.5)).detach() == pytest.approx(float(expected), rel=0.05)


def test_a_teacher_of_other_classes_or_with_another_head_is_refused():
    student, taught = outputs(0), outputs(1)
    fewer = taught | {"scores": taught["scores"][:, :2]}
    with pytest.raises(ValueError, match="take a teacher of the same classes"):
        distillation_loss(student, fewer, (0.5, 1.5))
    with pytest.raises(ValueError, match="end-to-end head"):
        distillation_loss(student, {"one2many": taught}, (0.5, 1.5))
