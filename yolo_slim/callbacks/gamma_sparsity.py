"""The sparse phase: a penalty on the BatchNorm gammas while a detector trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torch.optim import LBFGS, Optimizer

from yolo_slim.callbacks.target import find_target, make_selection, trace_target
from yolo_slim.pruning import Selection
from yolo_slim.pruning.penalty import SMALL_GAMMA, Growing, Subgradient, check_growing, gamma_magnitudes, strength_at


class _UnclippedPrecision(Precision):
    """Full precision that also makes clipping in the module's own ``configure_gradient_clipping`` a no-op."""

    def _clip_gradients(self, *args: Any, **kwargs: Any) -> None:
        pass


class GammaSparsity(Callback):
    """Makes channels dispensable during a fit, so that :class:`ChannelPruning` can take them away.

    ``penalty="subgradient"`` is Network Slimming (Liu et al., ICCV 2017): once per optimizer step, after accumulation
    and after DDP has averaged the gradients, ``strength * (1 - (1 - final_fraction) * epoch / epochs) * sign(gamma)``
    is added to the gradient of every prunable gamma. Mixed precision and gradient clipping would distort the term and
    are off during the fit; both come back after it, also after an exception.

    ``penalty="growing"`` lets a growing set of channels, the least important ones by first-order Taylor importance,
    fade to exactly zero while the others adapt (:class:`yolo_slim.pruning.penalty.Growing`); a prune with the same
    ``ratio`` then removes channels that do nothing. It works with any optimizer, mixed precision and clipping.

    The gammas that are penalised are those that pruning with the same ``shortcuts`` and ``ignore`` ranks.

    Args:
        penalty: ``subgradient`` or ``growing``.
        strength: Lambda of the L1 term, above 0 (``subgradient`` only).
        final_fraction: Share of ``strength`` that is left at the end of the fit, in [0, 1] (``subgradient`` only).
        ratio: Share of the prunable channels that shall be zero at the end, in (0, 1) (``growing`` only).
        min_channels: Channels that every layer keeps, at least 1 (``growing`` only).
        shortcuts: ``couple`` penalises residual channels too, ``spare`` leaves them alone.
        ignore: Patterns of module names (``fnmatch``) that are left alone.
        selection: What the prune will be asked for, in place of the four arguments above; ``growing`` cannot work
            towards a budget.
        target: Path of the submodule to make sparse; by default ``pl_module.pruning_target`` or the whole module.

    Raises:
        MisconfigurationException: If an argument is out of range, or the Trainer's strategy, optimizer or number of
            epochs does not allow the penalty.
    """

    def __init__(
        self,
        penalty: Literal["subgradient", "growing"] = "subgradient",
        strength: float = 1e-2,
        final_fraction: float = 0.1,
        ratio: float = 0.5,
        min_channels: int = 8,
        shortcuts: Literal["couple", "spare"] = "couple",
        ignore: Sequence[str] = (),
        selection: Selection | None = None,
        target: str | None = None,
    ) -> None:
        if penalty not in ("subgradient", "growing"):
            raise MisconfigurationException(f"penalty={penalty!r} is unknown; expected 'subgradient' or 'growing'")
        if not strength > 0:
            raise MisconfigurationException(f"strength={strength} is out of range; expected a number above 0")
        if not 0 <= final_fraction <= 1:
            raise MisconfigurationException(f"final_fraction={final_fraction} is out of range; expected 0 to 1")
        self.selection = make_selection(selection, ratio, min_channels, shortcuts, ignore)
        if penalty == "growing":
            try:
                check_growing(self.selection)
            except ValueError as error:
                raise MisconfigurationException(str(error)) from error
        self.penalty = penalty
        self.strength = strength
        self.final_fraction = final_fraction
        self.target = target
        self._subgradient: Subgradient | None = None
        self._growing: Growing | None = None
        self._resumed: dict[str, Any] | None = None
        self._step = self._epoch_steps = 0
        self._given: tuple[Precision, Any, Any] | None = None
        self._gammas_before = torch.zeros(0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Checks the Trainer and, for the subgradient, switches mixed precision and clipping off."""
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise MisconfigurationException(
                f"GammaSparsity does not work with {type(trainer.strategy).__name__}, which shards or copies "
                "parameters its own way; use --trainer.strategy auto or ddp"
            )
        if not trainer.max_epochs or trainer.max_epochs < 1:
            raise MisconfigurationException(
                f"GammaSparsity needs the number of epochs for its schedule, got max_epochs={trainer.max_epochs}; "
                "set --trainer.max_epochs"
            )
        if self.penalty == "growing" and trainer.max_epochs < 2:
            raise MisconfigurationException(
                "penalty='growing' measures importance in one epoch and chooses channels from the next one on, "
                "got max_epochs=1; set --trainer.max_epochs to 2 or more"
            )
        if self.penalty == "subgradient":
            self._switch_off(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Traces the target as it is now: a resumed fit has rebuilt its structure by this time."""
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, LBFGS):
                raise MisconfigurationException(
                    "GammaSparsity does not work with LBFGS, whose line search does not see the penalty; "
                    "use SGD or AdamW"
                )
        model = find_target(pl_module, self.target)
        graph = trace_target(pl_module, self.target)
        try:
            gammas = graph.prunable_gammas(self.selection.shortcuts, self.selection.ignore)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        layers, channels = len(gammas), sum(int(g.prunable.sum()) for g in gammas)
        if not channels:
            raise MisconfigurationException(
                f"GammaSparsity found no prunable gamma in {type(model).__name__}; it needs BatchNorm layers with "
                "affine=True whose channels do not reach the outputs"
            )
        self._epoch_steps = 0
        if self.penalty == "subgradient":
            self._subgradient = Subgradient(model, graph, self.selection)
            how = f"L1 of strength {self.strength:g}, falling to {self.final_fraction:.0%} of it"
        else:
            self._growing = Growing(model, graph, self.selection)
            if self._resumed is not None:
                self._growing.load_state_dict(self._resumed["growing"])
                self._epoch_steps = self._resumed["epoch_steps"]
            how = f"a growing share of the channels, up to {self.selection.ratio:.0%}, fades to zero"
        rank_zero_info(f"GammaSparsity: {channels} prunable gammas in {layers} BatchNorm layers; {how}.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes where the fit stands, and says how far a gamma can travel in it."""
        self._step = trainer.global_step  # a resumed fit knows it only now
        self._gammas_before = gamma_magnitudes(find_target(pl_module, self.target))
        if self._subgradient is not None:
            self._tell_reach(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the strength or the chosen channels of the epoch."""
        epoch, epochs = trainer.current_epoch, trainer.max_epochs or 1
        if self._growing is not None:
            # Nothing shrinks in the first epoch, so there always is an earlier one whose steps are known.
            reached = self._growing.start_epoch(epoch, epochs, self._epoch_steps)
            self._epoch_steps = 0
            pl_module.log("sparsity/chosen", reached, sync_dist=True)
        else:
            strength = strength_at(epoch, epochs, self.strength, self.final_fraction)
            pl_module.log("sparsity/strength", strength, sync_dist=True)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Adds the L1 term to, or reads the importance from, the complete gradients of the step."""
        if self._growing is not None:
            self._growing.observe_gradients()
        elif self._subgradient is not None:
            strength = strength_at(trainer.current_epoch, trainer.max_epochs or 1, self.strength, self.final_fraction)
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self._subgradient.add_to_gradients(strength, owned)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step: shrinks the chosen channels, and at the end of the fit makes them zero."""
        if self._growing is None:
            return
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._epoch_steps += 1
            self._growing.shrink(*self._copies(trainer, pl_module))
        if trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs:
            self._growing.finish(*self._copies(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what the phase did to the gammas."""
        before, after = self._gammas_before, gamma_magnitudes(find_target(pl_module, self.target))
        small = (after < SMALL_GAMMA).float().mean().item()
        rank_zero_info(
            f"GammaSparsity: median |gamma| {before.median():.3f} -> {after.median():.3f}, "
            f"{small:.1%} of them below {SMALL_GAMMA:g}."
        )
        if small < 0.01:
            rank_zero_warn(
                f"GammaSparsity: only {small:.1%} of the gammas are below {SMALL_GAMMA:g}: a prune will cost accuracy. "
                "Raise the strength or the number of epochs, or use penalty='growing'."
            )

    def state_dict(self) -> dict[str, Any]:
        """The importance and the choice of the growing penalty, as plain tensors."""
        if self._growing is None:
            return {}
        return {"growing": self._growing.state_dict(), "epoch_steps": self._epoch_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state for ``on_fit_start``, when the graph is known."""
        self._resumed = state_dict if "growing" in state_dict else None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives precision and clipping back."""
        self._give_back(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives precision and clipping back; ``teardown`` is not called after an exception."""
        self._give_back(trainer)

    def _tell_reach(self, trainer: Trainer) -> None:
        optimizer = trainer.optimizers[0]
        median = self._gammas_before.median().item()
        if "betas" in optimizer.defaults:
            rank_zero_warn(
                f"GammaSparsity: {type(optimizer).__name__} divides the gradient by its size and with it the penalty, "
                f"so that strength={self.strength:g} says little. Use SGD, or penalty='growing'."
            )
            return
        rate = max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)
        momentum = max(group.get("momentum", 0.0) for group in optimizer.param_groups)
        steps = trainer.estimated_stepping_batches
        reach = steps * rate * self.strength * (1 + self.final_fraction) / 2 / (1 - momentum)
        message = f"GammaSparsity: in {steps} steps at a rate of {rate:g} or less the penalty moves a gamma by "
        message += f"{reach:.3g} at most; their median is {median:.3g}."
        if reach < median:
            needed = self.strength * median / reach
            rank_zero_warn(f"{message} That is too little: try strength={needed:.2g}, or penalty='growing'.")
        else:
            rank_zero_info(message)

    def _copies(self, trainer: Trainer, pl_module: LightningModule) -> list[nn.Module]:
        """The target and its average, which lags behind and would else still use channels that are gone."""
        copies = [find_target(pl_module, self.target)]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging) and callback._average_model is not None:
                copies.append(find_target(callback._average_model.module, self.target))
        return copies

    def _switch_off(self, trainer: Trainer, pl_module: LightningModule) -> None:
        plugin, clip = trainer.strategy.precision_plugin, trainer.gradient_clip_val
        self._given = (plugin, clip, trainer.gradient_clip_algorithm)
        trainer.strategy.precision_plugin = _UnclippedPrecision()
        trainer.gradient_clip_val = None
        trainer.gradient_clip_algorithm = None
        if plugin.precision != "32-true":
            rank_zero_warn(f"GammaSparsity: precision {plugin.precision} is 32-true during this fit.")
        if clip:
            rank_zero_warn(f"GammaSparsity: gradient_clip_val={clip} is off during this fit.")
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in pl_module.parameters()):
            pl_module.float()

    def _give_back(self, trainer: Trainer) -> None:
        if self._given is not None:
            plugin, trainer.gradient_clip_val, trainer.gradient_clip_algorithm = self._given
            trainer.strategy.precision_plugin = plugin
            self._given = None
        self._subgradient = self._growing = self._resumed = None
