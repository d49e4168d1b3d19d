"""Contracts: the methods of LightningCLI that the command line overrides. A failing test says what breaks."""

from __future__ import annotations

import inspect

from lightning.pytorch.cli import LightningCLI

from yolo_slim.commands.lightning_private import DeferredCLI


def test_what_is_overridden_is_there_with_the_same_parameters():
    for name in ("_run_subcommand", "_parse_ckpt_path", "_instantiate_trainer"):
        theirs, ours = (list(inspect.signature(getattr(cli, name)).parameters) for cli in (LightningCLI, DeferredCLI))
        assert theirs == ours, f"LightningCLI.{name} takes {theirs}"
    assert list(inspect.signature(LightningCLI._get).parameters)[:3] == ["self", "config", "key"]


def test_it_is_these_methods_that_lightning_calls():
    source = inspect.getsource(LightningCLI)
    for call in ("self._run_subcommand(self.subcommand)", "self._parse_ckpt_path()", "self._instantiate_trainer("):
        assert call in source, f"LightningCLI no longer calls {call}"
