"""The verbs of the command line: what each is for, and where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        summary: What it does, for the list of verbs.
        module: Module beside this one, whose ``main`` takes the verb and its keys and values.
    """

    summary: str
    module: str

    def load(self) -> Callable[[list[str]], None]:
        """Imports what the verb needs, and nothing of the others."""
        return import_module(f"{__package__}.{self.module}").main  # type: ignore[no-any-return]


VERBS = {
    "fit": Verb("train a detector: baseline, sparse phase or finetune, as the configuration says", "fit"),
    "validate": Verb("mAP of a checkpoint on the validation images", "fit"),
    "test": Verb("mAP of a checkpoint on the test images", "fit"),
    "predict": Verb("draw and write the boxes that a checkpoint finds in images", "fit"),
    "prune": Verb("remove the channels that matter least and save the slim model", "prune"),
    "export": Verb("write ONNX, TorchScript, OpenVINO, ... files and measure their size, latency and mAP", "export"),
    "slim": Verb("all phases in one resumable command: train, sparse-train, prune, finetune", "slim"),
}
