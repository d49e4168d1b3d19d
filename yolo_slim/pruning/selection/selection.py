"""What shall be dropped, and what was selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from yolo_slim.wording import brief

BUDGETS = ("max_params", "max_flops", "max_latency_ms")


@dataclass
class Selection:
    """What to drop."""

    ratio: float = 0.5
    """Fraction of the channels of prunable layers to remove, in [0, 1). Not used where a budget is given."""
    ratios: dict[str, float] | list[tuple[str, float]] | None = None
    """Pattern (fnmatch) of module names -> their own ratio, for their output channels, all modules inside and what is
    coupled to them; also as a list of pairs. Of several patterns that match, the last one wins."""
    max_params: float | None = None
    """Budget: the most parameters that are left. Of several budgets all are met, the tightest within 1% where the
    model has steps as small as that."""
    max_flops: float | None = None
    """Budget: the most floating-point operations per forward, two per multiply-accumulate."""
    max_latency_ms: float | None = None
    """Budget: the longest forward, in milliseconds."""
    scope: str = "global"
    """"global" compares all channels and removes the lowest; "local" removes the same fraction from every layer (from
    layers whose channels are coupled, together)."""
    per: str = "channel"
    """Scores are compared per "channel", or divided by the "flops" or "params" that dropping the channel saves."""
    min_channels: int = 8
    """Channels that every layer keeps at least on its input and output side; a smaller layer keeps all it has."""
    round_to: int = 1
    """Every layer keeps a multiple of this many channels, rounded up; all it has where that would be more."""
    shortcuts: str = "couple"
    """"couple" removes channels that meet in a residual addition together; "spare" leaves them all."""
    ignore: tuple[str, ...] = ()
    """Patterns (fnmatch) of module names whose output channels stay, with all modules inside."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio={self.ratio}: expected a fraction in [0, 1), e.g. 0.5 to remove half the channels")
        for pattern, ratio in self.ratio_list:
            if not 0 <= ratio < 1:
                raise ValueError(f"ratios: {pattern!r} has {ratio}, expected a fraction in [0, 1)")
        for name, limit in self.budgets.items():
            if not limit > 0:
                raise ValueError(f"{name}={limit}: expected a number above 0")
        for name in ("min_channels", "round_to"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        for name, allowed in (
            ("scope", ("global", "local")),
            ("per", ("channel", "flops", "params")),
            ("shortcuts", ("couple", "spare")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {' or '.join(map(repr, allowed))}")
        if isinstance(self.ignore, str):
            raise ValueError(f"ignore={self.ignore!r}: expected a list of patterns, e.g. ['{self.ignore}']")
        self.ignore = tuple(self.ignore)

    @property
    def ratio_list(self) -> list[tuple[str, float]]:
        """``ratios`` as pairs of a pattern and a ratio."""
        if self.ratios is None:
            return []
        pairs = self.ratios.items() if isinstance(self.ratios, dict) else self.ratios
        return [(pattern, ratio) for pattern, ratio in pairs]

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are given, by the names of their fields."""
        return {name: limit for name in BUDGETS if (limit := getattr(self, name)) is not None}

    @property
    def needs_example(self) -> bool:
        """Whether it depends on the size of the inputs that the model will be used with."""
        return bool(self.budgets) or self.per != "channel"

    def scaled(self, share: float, dense: Mapping[str, float] | None = None) -> Selection:
        """A part of the way: every ratio multiplied by ``share``, in [0, 1], and budgets that much nearer.

        Args:
            share: 0 asks for nothing, 1 for all of it.
            dense: What the model costs as it is, by the names of the budgets.
        """
        limits: dict[str, Any] = {}
        for name, limit in self.budgets.items():
            limits[name] = limit + (1 - share) * max(0.0, (dense or {})[name] - limit)
        ratios = [(pattern, share * ratio) for pattern, ratio in self.ratio_list]
        return replace(self, ratio=share * self.ratio, ratios=ratios, **limits)

    def __str__(self) -> str:
        """What is asked, for people: "50.0% of the channels, 0.0% in model.22"."""
        units = {"max_params": "parameters", "max_flops": "FLOPs", "max_latency_ms": "ms"}
        asked = " and ".join(f"{limit:,.10g} {units[name]}" for name, limit in self.budgets.items())
        asked = f"at most {asked}" if asked else f"{self.ratio:.1%} of the channels"
        if self.scope == "local":
            asked += " of every layer" if not self.budgets else " at one ratio for every layer"
        return ", ".join([asked, *(f"{ratio:.1%} in {pattern}" for pattern, ratio in self.ratio_list)])


@dataclass(frozen=True)
class Selected:
    """The outcome of a selection.

    Attributes:
        dropped: Bool (num_groups,), the groups to drop.
        request: What was asked for, in words.
        asked: The ratio that was asked for, over all prunable channels; where a budget was given, the one it took.
        reached: The ratio of dropped to prunable channels.
        threshold: Highest score of a dropped group, divided by what it saves where ``per`` asks for that; 0 where none
            is dropped.
        held: Layer -> number of channels that score below the threshold and are kept by ``min_channels``.
        bound: Layer -> number of channels that score below the threshold and are kept because parts must stay equal
            or because of ``round_to``.
        kept_below: Number of prunable channels that score below the threshold and are kept: what the rules cost.
        params: Parameters that are left, None where no cost model was given.
        flops: Floating-point operations of a forward that are left, None where no cost model was given.
        latency_ms: What was measured for the selected groups, None without a budget for it.
    """

    dropped: Tensor
    request: str
    asked: float
    reached: float
    threshold: float
    held: dict[str, int]
    bound: dict[str, int]
    kept_below: int
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None


def expect_selection(selection: object) -> None:
    """Refuses what is no selection.

    Raises:
        ValueError: With what would be one.
    """
    if not isinstance(selection, Selection):
        shown = brief(selection)
        raise ValueError(f"selection={shown}: expected a Selection, such as Selection(ratio=0.5)")
