"""The optimizer of a detector, with Ultralytics' parameter groups, under a loss scale and on resuming."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from ultralytics.engine.trainer import BaseTrainer

from yolo_slim.detection.network.build import head_of
from yolo_slim.detection.private import has_static_graph
from yolo_slim.detection.training.hyperparameters import Hyperparameters
from yolo_slim.pruning import unscale_before_step
from yolo_slim.wording import brief

#: Settings of a parameter group that are a matter of the machine and not of the training.
_OF_THE_MACHINE = ("fused", "foreach", "capturable", "differentiable")


def make_optimizer(
    net: Any,
    hyp: Hyperparameters,
    decay: float,
    steps: int,
    scaled: bool,
    resumed: Mapping[str, Any] | None = None,
) -> tuple[Optimizer, float]:
    """Makes the optimizer that Ultralytics would make.

    Args:
        net: The network.
        hyp: Its name, rate and momentum. ``auto`` chooses by the number of steps, or takes the one of the fit that goes
            on.
        decay: L2 penalty of the convolution weights.
        steps: Optimizer steps of the fit.
        scaled: Whether the loss is scaled for mixed precision.
        resumed: The state of the optimizer in the checkpoint that the fit goes on from.

    Returns:
        The optimizer, and the rate of the biases at its first step. When it is given a state, as Lightning does on
        resuming, it looks whether that fits.

    Raises:
        ValueError: If the checkpoint has been trained with another optimizer than ``hyp`` asks for.
    """
    arguments = SimpleNamespace(**asdict(hyp))  # `auto` writes its choice into it
    stub: Any = SimpleNamespace(args=arguments, data={"nc": head_of(net).nc})
    name, before = hyp.optimizer, kind_of(resumed) if resumed else None
    if before is not None and name.lower() == "auto":
        name, arguments.warmup_bias_lr = before, 0.0  # as `auto` sets it; the rates are those of the checkpoint
    elif before is not None and name.lower() != before.lower():
        raise ValueError(
            f"the checkpoint has been trained with {before}, and hyp.optimizer is {name}: go on with "
            f"hyp.optimizer={before}, or start a new training from its weights"
        )
    build = BaseTrainer.build_optimizer
    optimizer = build(stub, net, name=name, lr=hyp.lr0, momentum=hyp.momentum, decay=decay, iterations=steps)
    if scaled:  # on a GPU Adam and AdamW are fused
        unscale_before_step(optimizer)
    machine = [{key: group[key] for key in _OF_THE_MACHINE if key in group} for group in optimizer.param_groups]

    def adapt(optimizer: Optimizer) -> None:
        for group, own in zip(optimizer.param_groups, machine, strict=True):
            group.update(own)

    def check(optimizer: Optimizer, state: dict[str, Any]) -> None:
        expect_state(state, optimizer)
        asked, saved = optimizer.param_groups[0]["initial_lr"], state["param_groups"][0].get("initial_lr")
        if hyp.optimizer.lower() != "auto" and saved is not None and saved != asked:
            rank_zero_info(f"The fit goes on with the rates of its checkpoint, lr0={saved:g}, not with {asked:g}.")

    optimizer.register_load_state_dict_pre_hook(check)
    optimizer.register_load_state_dict_post_hook(adapt)
    return optimizer, float(arguments.warmup_bias_lr)


def refuse_static_graph(trainer: Trainer, accumulate: int, remedy: str) -> None:
    """Refuses DDP with ``static_graph`` where several batches make a step.

    Raises:
        MisconfigurationException: With what would do.
    """
    if accumulate > 1 and has_static_graph(trainer):
        raise MisconfigurationException(
            f"static_graph=True: torch's DDP cannot accumulate gradients with it, and {accumulate} batches make a step "
            f"here; leave it out, or {remedy}"
        )


def kind_of(state: Mapping[str, Any]) -> str | None:
    """Name of the optimizer that a state is of, by the settings that its parameter groups have; None if unknown."""
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or not groups or not all(isinstance(group, Mapping) for group in groups):
        return None
    group: Mapping[str, Any] = groups[-1]
    for key, name in (("use_muon", "MuSGD"), ("momentum_decay", "NAdam"), ("alpha", "RMSprop"), ("dampening", "SGD")):
        if key in group:
            return name
    if "amsgrad" in group:  # before torch 2.7 the two had the same settings
        return {True: "AdamW", False: "Adam"}.get(group.get("decoupled_weight_decay"))  # type: ignore[arg-type]
    if "betas" in group:
        return "RAdam" if "decoupled_weight_decay" in group else "Adamax"
    return None


def expect_state(state: object, optimizer: Optimizer) -> None:
    """Refuses a state that an optimizer cannot go on with.

    Raises:
        ValueError: If it has other groups or parameters, tensors of other shapes, or numbers that are not finite.
    """
    groups, values = (state.get(k) if isinstance(state, Mapping) else None for k in ("param_groups", "state"))
    if not isinstance(groups, list) or not isinstance(values, Mapping):
        raise ValueError(f"{_DAMAGED}: it has no param_groups and state; {_REMEDY}")
    own = optimizer.param_groups
    sizes = [len(g["params"]) if isinstance(g, Mapping) and isinstance(g.get("params"), list) else -1 for g in groups]
    if sizes != [len(group["params"]) for group in own]:
        raise ValueError(
            f"{_DAMAGED}: its groups have {brief(sizes)} parameters, expected {_sizes(optimizer)}; {_REMEDY}"
        )
    for group, fresh in zip(groups, own, strict=True):
        for key, value in fresh.items():
            if key in ("params", *_OF_THE_MACHINE) or key not in group:
                continue
            if not _alike(group[key], value):
                raise ValueError(
                    f"{_DAMAGED}: {key} is {brief(group[key])}, expected a value like {value!r}; {_REMEDY}"
                )
        if missing := fresh.keys() - group.keys() - set(_OF_THE_MACHINE) - {"initial_lr", "maximize"}:
            raise ValueError(f"{_DAMAGED}: it lacks {min(missing)}; {_REMEDY}")
    indices = [index for group in groups for index in group["params"]]
    parameters = [p for group in own for p in group["params"]]
    if any(type(index) is not int for index in indices) or len(set(indices)) != len(indices):
        raise ValueError(f"{_DAMAGED}: its parameters are not numbered; {_REMEDY}")
    by_index = dict(zip(indices, parameters, strict=True))
    for index, entries in values.items():
        parameter = by_index.get(index) if type(index) is int else None
        if parameter is None or not isinstance(entries, Mapping):
            raise ValueError(f"{_DAMAGED}: it has values of the unknown parameter {brief(index)}; {_REMEDY}")
        for name, value in entries.items():
            _expect_value(name, value, parameter)


_DAMAGED = "the optimizer's state in the checkpoint is damaged"
_REMEDY = "take another checkpoint, or start a new training from its weights"


def _sizes(optimizer: Optimizer) -> list[int]:
    return [len(group["params"]) for group in optimizer.param_groups]


def _alike(saved: Any, fresh: Any) -> bool:
    """Whether a setting is of the kind, and a number of the range, that it has in a fresh optimizer."""
    if isinstance(fresh, bool) or fresh is None or isinstance(fresh, str):
        return type(saved) is type(fresh) or saved is None
    if isinstance(fresh, (int, float)):
        return type(saved) in (int, float) and 0 <= saved < float("inf")
    if isinstance(fresh, tuple):
        pairs = (
            zip(saved, fresh, strict=True)
            if isinstance(saved, (tuple, list)) and len(saved) == len(fresh)
            else [(0, "")]
        )
        return all(_alike(a, b) for a, b in pairs)
    return type(saved) is type(fresh)


def _expect_value(name: Any, value: Any, parameter: Tensor) -> None:
    if value is None or type(value) in (int, float):
        sound = value is None or 0 <= value < float("inf")
    else:
        sound = (
            isinstance(value, Tensor)
            and value.shape in (parameter.shape, torch.Size([]))
            and bool(value.isfinite().all())
        )
        if sound and ("_sq" in str(name) or name == "step"):
            sound = bool((value >= 0).all())
    if not sound:
        shown = tuple(value.shape) if isinstance(value, Tensor) else brief(value)
        raise ValueError(
            f"{_DAMAGED}: {brief(name)} of a parameter of shape {tuple(parameter.shape)} is {shown}, or not finite; "
            f"{_REMEDY}"
        )
