"""What shall be dropped, and what was selected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from torch import Tensor

from yolo_slim.pruning.measure.runtimes import Latency
from yolo_slim.pruning.selection.limits import Limit, parse_latency, parse_limit
from yolo_slim.wording import brief

#: How a sensitivity says what goes of each unit.
Allocate = Literal["calibrate", "equal_loss", "knapsack", "fzi"]
BUDGETS = ("max_params", "max_flops", "max_latency_ms")
#: A vector of AVX-512 holds 16 floats. AVX2, NEON and tensor cores in half precision work in 8, which 16 is a multiple
#: of; integer tensor cores in 16 or 32.
VECTOR = 16


@dataclass(frozen=True)
class Widths:
    """How many channels a layer may keep: a multiple, or all that it has.

    Attributes:
        multiple: Of what.
        least: Layers of fewer channels keep any number.
    """

    multiple: int
    least: int = 1

    def rounded(self, kept: int, channels: int) -> int:
        """How many of its ``channels`` a layer keeps that would keep so many."""
        return min(channels, -(-kept // self.multiple) * self.multiple) if channels >= self.least else kept


@dataclass
class Selection:
    """What to drop."""

    ratio: float = 0.5
    """Fraction of the channels of prunable layers to remove, in [0, 1). Not used where a budget is given."""
    ratios: dict[str, float] | list[tuple[str, float]] | None = None
    """Pattern (fnmatch) of module names -> their own ratio, for their output channels, all modules inside and what is
    coupled to them; also as a list of pairs. Of several patterns that match, the last one wins."""
    max_params: float | str | None = None
    """Budget: the most parameters that are left, or their share of the model as it is, such as "50%". Of several
    budgets all are met, the tightest within 1% where the model has steps as small as that."""
    max_flops: float | str | None = None
    """Budget: the most floating-point operations per forward, two per multiply-accumulate; or a share, "50%"."""
    max_latency_ms: float | None = None
    """Budget: the longest forward, in milliseconds, as measured in the runtime of ``latency``."""
    max_latency: str | None = None
    """The same as a share of the model as it is, "60%"; "8ms" is ``max_latency_ms`` 8."""
    scope: str = "global"
    """"global" compares all channels and removes the lowest; "local" removes the same fraction from every layer (from
    layers whose channels are coupled, together)."""
    per: str = "channel"
    """Scores are compared per "channel", or divided by the "flops", "params" or "latency" that dropping the channel
    saves."""
    min_channels: int = 8
    """Channels that every layer keeps at least on its input and output side; a smaller layer keeps all it has."""
    round_to: int | Literal["auto"] = "auto"
    """Every layer keeps a multiple of this many channels, rounded up; all it has where that would be more. "auto" is
    16, which fills a vector unit, in layers of 16 and more; 8 or 1 where what is asked cannot be reached so."""
    shortcuts: str = "couple"
    """"couple" removes channels that meet in a residual addition together; "spare" leaves them all."""
    ignore: tuple[str, ...] = ()
    """Patterns (fnmatch) of module names whose output channels stay, with all modules inside."""
    latency: Latency = field(default_factory=Latency)
    """Where and how a latency is measured."""
    sensitivity: str | None = None
    """Folder that the verb ``sensitivity`` wrote for this model: how much of each unit goes follows from it."""
    allocate: Allocate = "calibrate"
    """How, with a ``sensitivity``: "calibrate" scales the scores of each unit so that their sum follows its curve;
    "equal_loss" lets each unit raise the loss alike; "knapsack" raises it least for what is saved; "fzi" is the rule of
    Pavlitska et al., arXiv 2405.03715, which needs mAP."""
    max_rise: float | None = None
    """In place of a budget or ratio, with a ``sensitivity``: how far the loss may rise as foreseen, relative to that of
    the model as it is; with "equal_loss" for each unit, else for their sum."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if not 0 <= self.ratio < 1:
            raise ValueError(f"ratio={self.ratio}: expected a fraction in [0, 1), e.g. 0.5 to remove half the channels")
        for pattern, ratio in self.ratio_list:
            if not 0 <= ratio < 1:
                raise ValueError(f"ratios: {pattern!r} has {ratio}, expected a fraction in [0, 1)")
        for name in ("max_params", "max_flops"):
            setattr(self, name, parse_limit(name, getattr(self, name)))
        if self.max_latency is not None and self.max_latency_ms is not None:
            raise ValueError(f"max_latency={self.max_latency} beside max_latency_ms={self.max_latency_ms}: give one")
        self.max_latency_ms, self.max_latency = parse_latency(self.max_latency_ms, self.max_latency)
        if self.min_channels < 1:
            raise ValueError(f"min_channels={self.min_channels}: expected at least 1")
        if self.round_to != "auto" and (isinstance(self.round_to, str) or self.round_to < 1):
            raise ValueError(f"round_to={self.round_to!r}: expected 'auto' or a number of at least 1")
        for name, allowed in (
            ("scope", ("global", "local")),
            ("per", ("channel", "flops", "params", "latency")),
            ("shortcuts", ("couple", "spare")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {' or '.join(map(repr, allowed))}")
        self._check_sensitivity()
        if isinstance(self.ignore, str):
            raise ValueError(f"ignore={self.ignore!r}: expected a list of patterns, e.g. ['{self.ignore}']")
        self.ignore = tuple(self.ignore)

    def _check_sensitivity(self) -> None:
        if self.allocate not in get_args(Allocate):
            raise ValueError(f"allocate={self.allocate!r}: expected one of {', '.join(get_args(Allocate))}")
        if self.max_rise is not None and not self.max_rise >= 0:
            raise ValueError(f"max_rise={self.max_rise}: expected a share of the loss of at least 0, e.g. 0.1")
        if self.sensitivity is None:
            if self.max_rise is not None:
                raise ValueError(f"max_rise={self.max_rise} needs a sensitivity: give the folder of one")
            return
        if self.scope == "local":
            raise ValueError("scope='local' beside a sensitivity: the curves say how much of each layer goes")
        if self.per != "channel" and self.allocate != "calibrate":
            raise ValueError(f"per={self.per!r} beside allocate={self.allocate!r}: it goes with 'calibrate' alone")
        if self.max_rise is not None and self.limits:
            raise ValueError(f"max_rise={self.max_rise} beside {', '.join(self.limits)}: give one of them")

    @property
    def ratio_list(self) -> list[tuple[str, float]]:
        """``ratios`` as pairs of a pattern and a ratio."""
        if self.ratios is None:
            return []
        pairs = self.ratios.items() if isinstance(self.ratios, dict) else self.ratios
        return [(pattern, ratio) for pattern, ratio in pairs]

    @property
    def limits(self) -> dict[str, Limit]:
        """The budgets that are given, by the names of their fields; a latency as "max_latency_ms"."""
        given = {name: getattr(self, name) for name in BUDGETS} | (
            {} if self.max_latency is None else {"max_latency_ms": self.max_latency}
        )
        return {name: Limit.of(value) for name, value in given.items() if value is not None}

    @property
    def needs_example(self) -> bool:
        """Whether it depends on the size of the inputs that the model will be used with."""
        allocated = self.sensitivity is not None and self.allocate in ("knapsack", "fzi")
        return bool(self.limits) or self.per != "channel" or allocated

    @property
    def needs_times(self) -> bool:
        """Whether it depends on how long layers take."""
        return self.per == "latency" or "max_latency_ms" in self.limits

    def without_times(self) -> Selection:
        """The same without what only a clock can tell: no latency, and scores per FLOPs in place of milliseconds."""
        per = "flops" if self.per == "latency" else self.per
        return replace(self, max_latency=None, max_latency_ms=None, per=per)

    @property
    def widths(self) -> list[Widths]:
        """What ``round_to`` allows, the first that can reach what is asked."""
        if self.round_to == "auto":
            return [Widths(multiple, least=VECTOR) for multiple in (VECTOR, VECTOR // 2, 1)]
        return [Widths(int(self.round_to))]

    def in_numbers(self, dense: Mapping[str, float]) -> Selection:
        """The same with numbers in place of shares.

        Args:
            dense: What the model costs as it is, by the names of :data:`BUDGETS`.
        """
        numbers: dict[str, Any] = {name: limit.of_dense(dense.get(name)) for name, limit in self.limits.items()}
        return replace(self, max_latency=None, **numbers)

    def scaled(self, share: float, dense: Mapping[str, float] | None = None) -> Selection:
        """A part of the way: every ratio multiplied by ``share``, in [0, 1], and budgets that much nearer.

        Args:
            share: 0 asks for nothing, 1 for all of it.
            dense: What the model costs as it is, by the names of the budgets.
        """
        dense = dense or {}
        numbers = self.in_numbers(dense)
        limits: dict[str, Any] = {}
        for name, limit in numbers.limits.items():
            limits[name] = limit.value + (1 - share) * max(0.0, dense[name] - limit.value)
        ratios = [(pattern, share * ratio) for pattern, ratio in self.ratio_list]
        rise = None if self.max_rise is None else share * self.max_rise
        return replace(numbers, ratio=share * self.ratio, ratios=ratios, max_rise=rise, **limits)

    def __str__(self) -> str:
        """What is asked, for people: "50.0% of the channels, 0.0% in model.22"."""
        asked = " and ".join(limit.words(name) for name, limit in self.limits.items())
        asked = f"at most {asked}" if asked else f"{self.ratio:.1%} of the channels"
        if self.max_rise is not None:
            asked = f"what raises the loss by {self.max_rise:.1%}"
        if self.scope == "local":
            asked += " of every layer" if not self.limits else " at one ratio for every layer"
        if self.sensitivity is not None:
            asked += f" by {self.allocate} of {self.sensitivity}"
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
        round_to: The multiple that layers keep.
        kept_below: Number of prunable channels that score below the threshold and are kept: what the rules cost.
        params: Parameters that are left, None where no cost model was given.
        flops: Floating-point operations of a forward that are left, None where no cost model was given.
        latency_ms: Milliseconds of a forward that are foreseen, or measured; None without a budget for them.
        predicted_rise: How far the loss rises as foreseen, relative to the model's as it is; None without sensitivity.
        emptying: The highest threshold that empties no layer, whatever the rules keep, and the ratio that it is; None
            with scope "local" or a sensitivity.
    """

    dropped: Tensor
    request: str
    asked: float
    reached: float
    threshold: float
    held: dict[str, int]
    bound: dict[str, int]
    round_to: int
    kept_below: int
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    predicted_rise: float | None = None
    emptying: tuple[float, float] | None = None


def expect_selection(selection: object) -> None:
    """Refuses what is no selection.

    Raises:
        ValueError: With what would be one.
    """
    if not isinstance(selection, Selection):
        shown = brief(selection)
        raise ValueError(f"selection={shown}: expected a Selection, such as Selection(ratio=0.5)")
