"""What a checkpoint says of the training that wrote it, looked through before a fit goes on from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from yolo_slim.files import inside
from yolo_slim.wording import brief

#: Parts that a training state consists of, and what they are.
PARTS = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}
#: Larger than any count of a real training.
_MOST = 2**53
_REMEDY = "take another checkpoint, or start a new training from its weights (--model.weights)"


def check_training_state(checkpoint: dict[str, Any], trainer: Trainer | None = None) -> None:
    """Refuses a training state that is damaged, and forgets paths in it that lie outside of the run.

    The state of the optimizer is looked at when there is one to compare it with; see
    :func:`yolo_slim.detection.training.optimizers.expect_state`.

    Args:
        checkpoint: A checkpoint whose network is sound; paths of its callbacks' states are changed in place.
        trainer: The Trainer that goes on, whose loops and folders count; None before there is one.

    Raises:
        ValueError: With what is wrong, what is expected, and what to do.
    """
    for name, kind in PARTS.items():
        _expect(isinstance(checkpoint.get(name), kind), name, checkpoint.get(name), f"a {kind.__name__}")
    for name in ("epoch", "global_step"):
        _expect(_is_count(checkpoint.get(name)), name, checkpoint.get(name), "a count")
    version = checkpoint.get("pytorch-lightning_version")
    sound = isinstance(version, str) and len(version) < 40 and re.match(r"\d+(\.\d+)+", version) is not None
    _expect(sound, "pytorch-lightning_version", version, "a version such as '2.6.0'")
    optimizers, schedulers = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    _expect(len(optimizers) == 1, "optimizer_states", optimizers, "one state")
    groups = optimizers[0].get("param_groups") if isinstance(optimizers[0], Mapping) else None
    _expect(isinstance(groups, list), "optimizer_states", optimizers, "one state with param_groups")
    _expect(len(schedulers) == 1, "lr_schedulers", schedulers, "one state")
    _check_scheduler(schedulers[0], len(groups or []))
    _check_average(checkpoint)
    scaler = checkpoint.get("MixedPrecision", {})
    numbers = isinstance(scaler, Mapping) and all(type(v) in (int, float) and 0 <= v < _MOST for v in scaler.values())
    _expect(numbers, "MixedPrecision", scaler, "the numbers of a gradient scaler")
    for name, state in checkpoint["callbacks"].items():
        _expect(isinstance(name, str), "callbacks", name, "names of callbacks")
        if name.startswith(ModelCheckpoint.__name__):
            _expect(isinstance(state, dict), f"callbacks, {brief(name)}", state, "a dict")
            _forget_foreign_paths(state, _folders(trainer))
    fitted = checkpoint["loops"].get("fit_loop")
    _expect(isinstance(fitted, Mapping), "loops", checkpoint["loops"], "a fit_loop")
    if trainer is not None:
        for name, part in trainer.fit_loop.state_dict().items():
            _check_counts(fitted.get(name, part), part, f"loops, {name}")


def _check_scheduler(state: Any, groups: int) -> None:
    fresh = LambdaLR(SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), lambda epoch: 1.0).state_dict()
    _expect(isinstance(state, Mapping) and state.keys() <= fresh.keys(), "lr_schedulers", state, "a LambdaLR's state")
    for name in ("base_lrs", "_last_lr"):
        rates = state.get(name)
        sound = isinstance(rates, list) and len(rates) == groups
        sound = sound and all(type(rate) in (int, float) and 0 <= rate < _MOST for rate in rates)
        _expect(sound, f"lr_schedulers, {name}", rates, f"{groups} rates")
    for name in ("last_epoch", "_step_count"):
        _expect(_is_count(state.get(name)), f"lr_schedulers, {name}", state.get(name), "a count")


def _check_average(checkpoint: dict[str, Any]) -> None:
    """Where ``state_dict`` is an average, the weights in training stand beside it."""
    weights, trained = checkpoint["state_dict"], checkpoint.get("current_model_state")
    if trained is None:
        return
    _expect(isinstance(trained, Mapping), "current_model_state", trained, "tensors by name")
    _expect(trained.keys() == weights.keys(), "current_model_state", sorted(map(str, trained)), "those of state_dict")
    for name, value in trained.items():
        sound = isinstance(value, Tensor) and value.shape == weights[name].shape and bool(value.isfinite().all())
        _expect(sound, f"current_model_state, {brief(name)}", value, "a finite tensor as in state_dict")
    averaging = checkpoint.get("averaging_state", {})
    count = averaging.get("n_averaged", 0) if isinstance(averaging, Mapping) else None
    number = int(count) if isinstance(count, Tensor) and count.numel() == 1 else count
    _expect(_is_count(number), "averaging_state", averaging, "a count n_averaged")


def _check_counts(counts: Any, fresh: Any, where: str) -> None:
    """Refuses counts of a loop that are of another kind than those of a loop that has not begun."""
    if isinstance(fresh, Mapping):
        _expect(isinstance(counts, Mapping), where, counts, "counts by name")
        for name, value in fresh.items():
            if name in counts and name != "combined_loader":
                _check_counts(counts[name], value, where)
    elif isinstance(fresh, bool):
        _expect(isinstance(counts, bool), where, counts, "yes or no")
    elif isinstance(fresh, int):
        _expect(_is_count(counts), where, counts, "a count")


def _forget_foreign_paths(state: dict[str, Any], folders: list[Path]) -> None:
    """Empties what names a file outside of the run: Lightning would remove it when a better epoch comes."""

    def own(path: object) -> bool:
        return isinstance(path, str) and inside(path, folders)

    for name in ("best_model_path", "last_model_path", "kth_best_model_path"):
        if not own(state.get(name, "")):
            state[name] = ""
    best = state.get("best_k_models", {})
    _expect(isinstance(best, Mapping), "best_k_models", best, "scores by path")
    state["best_k_models"] = {path: score for path, score in best.items() if own(path) and isinstance(score, Tensor)}
    for name in ("best_model_score", "kth_value", "current_score"):
        value = state.get(name)
        _expect(value is None or isinstance(value, (Tensor, int, float)), name, value, "a score")


def _folders(trainer: Trainer | None) -> list[Path]:
    if trainer is None:
        return []
    paths = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    return [Path(trainer.default_root_dir), *(Path(path) for path in paths if path)]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _expect(sound: bool, part: str, value: object, expected: str) -> None:
    if not sound:
        raise ValueError(
            f"the training state of the checkpoint is damaged: {part} is {brief(value)}, expected {expected}; {_REMEDY}"
        )
