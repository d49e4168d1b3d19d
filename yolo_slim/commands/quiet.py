"""Keeps notices out of the command line's output that say nothing about the user's run."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from yolo_slim.wording import printable_lines

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
    # A fit that goes on in a new run folder: what it writes there says all.
    "The dirpath has changed from",
    # Small data sets; losses and scores are logged per epoch.
    "The number of training batches",
    # The arguments are those of the command line, less what is not for it.
    "LightningCLI's args parameter",
    # A matter of the machine, not of the configuration.
    "The .*dataloader.* does not have many workers",
)


_format_usually = warnings.formatwarning
#: Of importance to a fit that goes on, but not where the weights alone are used.
_EVALUATION_WARNINGS = ("Be aware that when using `ckpt_path`, callbacks used to create",)


def quieten(verb: str) -> None:
    """Drops those notices of a verb for the rest of the process, and what a terminal could obey of all others."""

    def keep(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        record.msg, record.args = printable_lines(message), None
        return not message.startswith(_NOTICES)

    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(keep)
    evaluation = verb in ("validate", "test", "predict")
    for message in _WARNINGS + (_EVALUATION_WARNINGS if evaluation else ()):
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = _format_printable


def _format_printable(message: Any, *arguments: Any, **keywords: Any) -> str:
    """A warning without what a terminal could obey; what it is about may come from outside."""
    return printable_lines(_format_usually(message, *arguments, **keywords))
