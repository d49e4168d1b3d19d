"""Knowledge distillation: a slim network learns from the dense one it was cut from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_slim.callbacks.comparison import Comparison, expect_modules
from yolo_slim.callbacks.framework import Callback, LightningModule, MisconfigurationException, Trainer, rank_zero_info
from yolo_slim.callbacks.target import Target
from yolo_slim.pruning import PruningPlan


class Distillation(Callback):
    """Adds to the loss of a fit how far the network is from a teacher (Hinton et al., 2015).

    In each training step the teacher, frozen and in eval mode, is run on what the network is run on.

    Outputs: the module offers a method ``distillation_loss(outputs, taught) -> Tensor`` that compares what its network
    and the teacher have given, as a scalar. Features: outputs of modules of the network are compared channel by channel
    with those of the teacher, by the mean squared difference relative to the teacher's variance; where the network is
    a pruned teacher, the plan says which channel is which, so that no adapter is needed.

    Everything is added to what ``training_step`` returns. A module whose step returns a loss in a unit of its own
    offers a method ``auxiliary_loss() -> Tensor | float`` in its place, whose value it adds itself.

    The teacher is no part of the module: checkpoints and averages know nothing of it.

    Args:
        teacher: A trained module of the same class, its network alone, or the path of a checkpoint for the class's
            ``load_from_checkpoint``.
        outputs: Gain of the outputs' loss, at least 0.
        features: Gain of the features' loss, at least 0.
        modules: Names of the modules, in the network, whose features are compared: layers of the plan, or blocks
            whose output is made by the layer of theirs that runs last.
        plan: The plan by which the network was cut from the teacher, or the path of a ``plan.yaml``; None where both
            have the same channels.
        target: Path of the network in the module; by default ``pl_module.pruning_target`` or the whole module.

    Raises:
        MisconfigurationException: If an argument is out of range; when the fit starts, if there is nothing to compare,
            the teacher is no network of this kind, or the module optimizes by itself.
    """

    def __init__(
        self,
        teacher: str | Path | nn.Module,
        outputs: float = 1.0,
        features: float = 0.0,
        modules: Sequence[str] = (),
        plan: str | Path | PruningPlan | None = None,
        target: str | None = None,
    ) -> None:
        for name, gain in (("outputs", outputs), ("features", features)):
            if not gain >= 0:
                raise MisconfigurationException(f"{name}={gain} is out of range; expected a gain of 0 or more")
        if bool(features) != bool(modules):
            raise MisconfigurationException(
                f"features={features} and modules={list(modules)}: give a gain above 0 and names of modules, or neither"
            )
        if not outputs and not features:
            raise MisconfigurationException("outputs=0 and features=0: there is nothing to learn from the teacher")
        self.outputs, self.features, self.modules, self.target = outputs, features, tuple(modules), target
        self._given, self._given_plan = teacher, plan
        self._teacher: nn.Module | None = None
        self._comparison: Comparison | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the teacher ready, and refuses what cannot be compared."""
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"Distillation adds to the loss of training_step, which {type(pl_module).__name__} does not return to "
                "Lightning: it optimizes by itself"
            )
        if self.outputs and not hasattr(pl_module, "distillation_loss"):
            raise MisconfigurationException(
                f"{type(pl_module).__name__} has no method distillation_loss(outputs, taught): write one, or compare "
                "features alone with outputs=0"
            )
        student = Target(pl_module, self.target).model
        teacher = self._find_teacher(pl_module, student).to(pl_module.device)
        self._teacher = teacher.eval().requires_grad_(False)
        expect_modules(student, teacher, self.modules)
        channels = {} if (plan := self._read_plan()) is None else plan.entries
        self._comparison = Comparison(
            pl_module, student, teacher, self.modules, channels, (self.outputs, self.features)
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to compare, now that others have made their copies of the module."""
        assert self._comparison is not None, "on_fit_start comes first"
        self._comparison.attach()
        compared = ["outputs"] * bool(self.outputs) + [f"the features of {', '.join(self.modules)}"] * bool(
            self.features
        )
        rank_zero_info(f"Distillation: {' and '.join(compared)} are compared with those of the teacher.")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs ``distillation/outputs`` and ``distillation/features``, before their gains."""
        if self._comparison is not None:
            pl_module.log_dict(self._comparison.means(), sync_dist=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the module alone again."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the module alone, and lets go of the teacher."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Does the same; ``teardown`` is not called after an exception."""
        self._let_go()

    def _let_go(self) -> None:
        if self._comparison is not None:
            self._comparison.detach()
        self._comparison = self._teacher = None

    def _find_teacher(self, pl_module: LightningModule, student: nn.Module) -> nn.Module:
        given: Any = self._given
        if not isinstance(given, nn.Module):
            given = type(pl_module).load_from_checkpoint(str(given), map_location="cpu")
        if given is pl_module or given is student:
            raise MisconfigurationException("the teacher is the network that shall learn: give a copy of it")
        network = Target(given, self.target).model if isinstance(given, type(pl_module)) else given
        if type(network) is not type(student):
            raise MisconfigurationException(
                f"the teacher is a {type(network).__name__}, expected a {type(student).__name__} or a module of the "
                f"class {type(pl_module).__name__}"
            )
        taught = copy.deepcopy(network)
        real = next((p.dtype for p in student.parameters() if p.is_floating_point()), torch.get_default_dtype())
        return taught.to(real)

    def _read_plan(self) -> PruningPlan | None:
        given = self._given_plan
        if given is None or isinstance(given, PruningPlan):
            return given
        try:
            return PruningPlan.load(given)
        except (OSError, ValueError) as error:
            raise MisconfigurationException(f"plan={given}: {error}") from error
