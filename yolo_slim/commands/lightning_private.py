"""What the command line changes of LightningCLI that Lightning does not offer to be changed.

``tests/commands/test_lightning_private.py`` says what breaks when one of these methods changes.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI


class DeferredCLI(LightningCLI):
    """A LightningCLI that parses and instantiates at once but runs when told to, and takes a checkpoint as it is.

    LightningCLI would run in its constructor, so that a failure leaves no object to ask for its run folder; and it
    would set rates and paths of the command line to those that a checkpoint was trained with.
    """

    def run(self) -> None:
        """Runs the verb."""
        super()._run_subcommand(self._verb)

    def parsed(self, key: str) -> Any:
        """What has been parsed for a key of the verb."""
        return self._get(self.config, key)

    def instantiated(self, key: str) -> Any:
        """The same with objects in place of their settings."""
        return self._get(self.config_init, key)

    def choose_callbacks(self, config: dict[str, Any], callbacks: list[Callback]) -> list[Callback]:
        """Those of the callbacks that a Trainer with these settings gets; all, unless this is overridden."""
        return callbacks

    def _run_subcommand(self, subcommand: str) -> None:
        self._verb = subcommand

    def _parse_ckpt_path(self) -> None:
        """Leaves the configuration alone: a checkpoint rebuilds the network, it does not set rates or paths."""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        return super()._instantiate_trainer(config, self.choose_callbacks(config, callbacks))
