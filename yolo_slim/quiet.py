"""Keeps notices out of the command line's output that say nothing about the user's run."""

from __future__ import annotations

import logging
import warnings

_NOTICES = (
    "GPU available",
    "TPU available",
    "HPU available",
    "💡 Tip",
    "`Trainer.fit` stopped: `max_epochs=",
    "Seed set to",
)
_WARNINGS = (
    # The run folder is ours and new, or is gone on with on purpose.
    "Experiment logs directory",
    "Checkpoint directory",
    # Lightning's own use of torch.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # Small data sets; losses and scores are logged per epoch.
    "The number of training batches",
    # A matter of the machine, not of the configuration.
    "The .*dataloader.* does not have many workers",
)


def quieten() -> None:
    """Drops those notices for the rest of the process."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NOTICES)

    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(keep)
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
