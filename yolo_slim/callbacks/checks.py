"""What the sparse phase needs of a Trainer and its optimizers, found out before the first step."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch.optim import LBFGS, Optimizer

from yolo_slim.callbacks.framework import MisconfigurationException, Trainer, check_strategy

PENALTIES = ("subgradient", "proximal", "growing")


def check_arguments(penalty: str, strength: float | str, beta_strength: float, final_fraction: float) -> None:
    """Refuses arguments of the sparse phase that are out of range.

    Raises:
        MisconfigurationException: With the argument, what was given and what is expected.
    """
    if penalty not in PENALTIES:
        raise MisconfigurationException(f"penalty={penalty!r} is unknown; expected one of {', '.join(PENALTIES)}")
    if strength != "auto" and (isinstance(strength, str) or not strength > 0):
        raise MisconfigurationException(f"strength={strength} is out of range; expected a number above 0 or 'auto'")
    if not beta_strength >= 0:
        raise MisconfigurationException(f"beta_strength={beta_strength} is out of range; expected 0 or more")
    if not 0 <= final_fraction <= 1:
        raise MisconfigurationException(f"final_fraction={final_fraction} is out of range; expected 0 to 1")


def check_trainer(trainer: Trainer, penalty: str) -> None:
    """Refuses strategies that shard parameters, and fits without a number of epochs.

    Raises:
        MisconfigurationException: If the penalty cannot work with this Trainer.
    """
    check_strategy(trainer, "GammaSparsity")
    if not trainer.max_epochs or trainer.max_epochs < 1:
        raise MisconfigurationException(
            f"GammaSparsity needs the number of epochs for its schedule, got max_epochs={trainer.max_epochs}; "
            "set --trainer.max_epochs"
        )
    if penalty == "growing" and trainer.max_epochs < 2:
        raise MisconfigurationException(
            "penalty='growing' measures importance in one epoch and chooses channels from the next one on, "
            "got max_epochs=1; set --trainer.max_epochs to 2 or more"
        )


def refuse_line_search(optimizers: Iterable[Optimizer]) -> None:
    """Refuses LBFGS.

    Raises:
        MisconfigurationException: If one of the optimizers is LBFGS.
    """
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        raise MisconfigurationException(
            "GammaSparsity does not work with LBFGS, whose line search does not see the penalty; use SGD or AdamW"
        )


def check_owners(optimizers: Iterable[Optimizer], gammas: Collection[int]) -> None:
    """Refuses gammas, given by ``id()``, that would be penalised twice in a step.

    Raises:
        MisconfigurationException: If several optimizers own one of them.
    """
    seen: set[int] = set()
    for optimizer in optimizers:
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]} & set(gammas)
        if owned & seen:
            raise MisconfigurationException(
                f"GammaSparsity would penalise {len(owned & seen)} gammas once per optimizer, because several "
                "optimizers own them; let one optimizer own each parameter"
            )
        seen |= owned
