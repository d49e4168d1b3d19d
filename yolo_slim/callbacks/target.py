"""Which part of a LightningModule is made sparse and pruned, and which of its channels go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from yolo_slim.callbacks.framework import (
    LightningModule,
    MisconfigurationException,
    Trainer,
    apply_to_collection,
    averaged_modules,
)
from yolo_slim.pruning import ChannelGraph, CostModel, Pass, Selection, cost_of, default_passes, trace


class Target:
    """The part of a LightningModule that callbacks work on, and what they need to know of it, found once.

    A module that knows better how its network is run offers a method ``trace_channels() -> ChannelGraph``. Every other
    is traced with its ``example_input_array``, in eval mode and in train mode. A detector whose ``forward`` ends in
    NMS, or needs labels in train mode, offers a method ``pruning_forward`` beside it: it takes what ``forward`` takes
    and returns the network's raw outputs. One whose network is changed before it is deployed, as BatchNorm is folded
    into convolutions, offers ``deployed_network(model) -> nn.Module``, which may change the copy that it is given:
    latencies are those of what it returns.

    Args:
        pl_module: The module.
        path: Path of the submodule; by default ``pl_module.pruning_target`` or the whole module.

    Attributes:
        pl_module: The module.
        model: The submodule.

    Raises:
        MisconfigurationException: If there is no such submodule.
    """

    def __init__(self, pl_module: LightningModule, path: str | None = None) -> None:
        self.pl_module = pl_module
        self._path = path
        self.model = self._in(pl_module)

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channel graph of the model as it was at the first look.

        Raises:
            MisconfigurationException: If the module offers no way to trace it, or cannot be run with its
                ``example_input_array``.
        """
        own: Callable[[], ChannelGraph] | None = getattr(self.pl_module, "trace_channels", None)  # type: ignore[assignment]
        return own() if self._path is None and own is not None else self._trace()

    @property
    def example(self) -> Any:
        """Inputs of the size that operations are counted for, on the module's device and of its type; None if unknown.

        A module whose network takes other inputs than its own ``example_input_array`` offers ``pruning_example``.
        """
        module = self.pl_module
        example = getattr(module, "pruning_example", None)
        example = module.example_input_array if example is None else example
        real = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.get_default_dtype())

        def fitted(tensor: Tensor) -> Tensor:
            return tensor.to(module.device, real if tensor.is_floating_point() else None)

        return apply_to_collection(example, Tensor, fitted)

    def example_for(self, selection: Selection) -> Any:
        """The example where a selection depends on the size of inputs, else None.

        Raises:
            MisconfigurationException: If there is none.
        """
        if not selection.needs_example:
            return None
        if self.example is None:
            raise MisconfigurationException(
                f"{selection} needs an input to count operations for; set self.example_input_array of "
                f"{type(self.pl_module).__name__} to one of the size that it will be used with"
            )
        return self.example

    def cost_for(self, selection: Selection, trainer: Trainer | None = None) -> CostModel | None:
        """What the model costs, with milliseconds where a selection is about them; None without an example.

        Args:
            selection: What will be asked for.
            trainer: The Trainer of a fit: rank 0 measures for all, since each would measure other milliseconds.

        Raises:
            ValueError: If the runtime is not installed here.
        """
        if self.example is None:
            return None
        if trainer is None or not selection.needs_times:
            return cost_of(self.model, self.graph, selection, self.example, self.deployed)[0]
        cost = None
        if trainer.is_global_zero:
            cost, _ = cost_of(self.model, self.graph, selection, self.example, self.deployed)
        return trainer.strategy.broadcast(cost)

    @property
    def deployed(self) -> Callable[[nn.Module], nn.Module] | None:
        """Turns a copy of the model into what is timed, where the module offers ``deployed_network(model)`` for it."""
        return getattr(self.pl_module, "deployed_network", None)

    def copies(self, trainer: Trainer) -> list[nn.Module]:
        """The model, and its averages where averaging callbacks keep some."""
        return [self.model, *map(self._in, averaged_modules(trainer))]

    def _in(self, module: nn.Module) -> nn.Module:
        path = getattr(self.pl_module, "pruning_target", "") if self._path is None else self._path
        try:
            return module.get_submodule(path)
        except AttributeError as error:
            raise MisconfigurationException(
                f"target={path!r} is not a submodule of {type(self.pl_module).__name__}; "
                f"give one of {[name for name, _ in self.pl_module.named_children()]} or a path below"
            ) from error

    def _trace(self) -> ChannelGraph:
        if self.example is None:
            raise MisconfigurationException(
                f"{type(self.pl_module).__name__} has no example_input_array to trace its channels with; "
                "set self.example_input_array = torch.rand(1, 3, height, width) in its __init__"
            )
        passes = default_passes(self.example)
        if hasattr(self.model, "pruning_forward"):
            passes = [_raw(run) for run in passes]
        try:
            return trace(self.model, passes=passes)
        except Exception as error:  # whatever the user's own forward raises
            first_line = str(error).partition("\n")[0]
            raise MisconfigurationException(
                f"{type(self.model).__name__} could not be traced with its example_input_array in eval and in train "
                f"mode ({type(error).__name__}: {first_line}); a network that needs labels in train mode can offer a "
                "method pruning_forward, which takes what forward takes and returns the raw outputs"
            ) from error


def _raw(run: Pass) -> Pass:
    """The same pass over ``pruning_forward``, called as the module itself is so that hooks on it see the call."""

    def run_raw(model: nn.Module) -> Any:
        model.forward = model.pruning_forward  # type: ignore[assignment]  # whoever runs a pass restores the model
        return run(model)

    return run_raw


#: Configurations that version 0.1.0 has written have these beside a selection, where they say nothing.
_WRITTEN_BY_0_1_0 = {"ratio": 0.5, "min_channels": 8, "shortcuts": "couple", "ignore": []}


def make_selection(
    selection: Selection | None,
    ratio: float | None,
    min_channels: int | None,
    shortcuts: str | None,
    ignore: Sequence[str] | None,
) -> Selection:
    """The selection of a callback: given as a whole, or by the arguments that most users need.

    Raises:
        MisconfigurationException: If a value is out of range, or both are given.
    """
    alone = {"ratio": ratio, "min_channels": min_channels, "shortcuts": shortcuts, "ignore": ignore}
    beside = {name: value for name, value in alone.items() if value is not None}
    if selection is not None:
        if beside and beside != _WRITTEN_BY_0_1_0:
            raise MisconfigurationException(
                f"{', '.join(f'{name}={value!r}' for name, value in beside.items())} beside selection={selection!r}: "
                "give one of them; a selection says all of it"
            )
        return selection
    try:
        return Selection(**beside)  # type: ignore[arg-type]
    except ValueError as error:
        raise MisconfigurationException(str(error)) from error
