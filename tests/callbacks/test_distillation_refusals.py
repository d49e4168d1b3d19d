"""What cannot be taught is refused before the first step."""

from __future__ import annotations

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from tests.helpers.taught import Student, student
from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import Distillation


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"outputs": -1}, "outputs=-1 is out of range"),
        ({"features": float("nan")}, "features=nan is out of range"),
        ({"outputs": 0}, "nothing to learn"),
        ({"features": 1.0}, r"features=1.0 and modules=\[\]: give a gain above 0 and names"),
        ({"modules": ["stem"]}, "give a gain above 0 and names of modules, or neither"),
    ],
)
def test_bad_arguments(arguments, said):
    with pytest.raises(MisconfigurationException, match=said):
        Distillation(student(1), **arguments)


class Manual(Student):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("module", "distillation", "said"),
    [
        (Manual(), lambda m: Distillation(student(1)), "it optimizes by itself"),
        (ToyClassifier(), lambda m: Distillation(ToyClassifier()), "no method distillation_loss"),
        (Student(), lambda m: Distillation(m), "the teacher is the network that shall learn"),
        (Student(), lambda m: Distillation(nn.Linear(2, 2)), "the teacher is a Linear, expected a Student"),
        (Student(), lambda m: Distillation(student(1), 0, 1.0, ["trunk"]), "the network has no module 'trunk'; it has"),
        (Student(), lambda m: Distillation(student(1), plan="no/plan.yaml"), "plan=no/plan.yaml"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_first_step(tmp_path, module, distillation, said):
    with pytest.raises(MisconfigurationException, match=said):
        toy_trainer(tmp_path, callbacks=[distillation(module)]).fit(module, toy_loader())


def test_a_network_that_is_not_called_is_no_perfect_student(tmp_path):
    class Inner(Student):
        """Calls a part of itself, while the whole is what learns."""

        def training_step(self, batch, batch_idx):
            return self.head(self.tail(self.stem(batch[0])).mean((2, 3))).sum()

    with pytest.raises(MisconfigurationException, match="training_step did not call the Inner that learns"):
        toy_trainer(tmp_path, callbacks=[Distillation(Inner())]).fit(Inner(), toy_loader())


def test_a_module_that_is_not_run_has_no_features(tmp_path):
    class Unused(Student):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    with pytest.raises(MisconfigurationException, match="'spare' is not run in training"):
        toy_trainer(tmp_path, callbacks=[Distillation(Unused(), 0, 1.0, ["spare"])]).fit(Unused(), toy_loader())
