"""Budgets as people write them: a number, or a share of what the model costs as it is."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_slim.wording import brief

UNITS = {"max_params": "parameters", "max_flops": "FLOPs", "max_latency_ms": "ms"}


@dataclass(frozen=True)
class Limit:
    """A limit, as a number or as a share.

    Attributes:
        value: The number; of a share the fraction, in (0, 1].
        share: Whether it is one.
    """

    value: float
    share: bool

    @classmethod
    def of(cls, given: float | str) -> Limit:
        """Of a checked number or share."""
        if isinstance(given, str):
            return cls(float(given.removesuffix("%")) / 100, True)
        return cls(float(given), False)

    def of_dense(self, dense: float | None) -> float:
        """The limit as a number.

        Raises:
            ValueError: If it is a share and what the model costs is not known.
        """
        if not self.share:
            return self.value
        if dense is None:
            raise ValueError(f"{100 * self.value:g}% of a cost needs the cost of the model: pass cost=CostModel(...)")
        return self.value * dense

    def words(self, name: str) -> str:
        """The limit for people, such as "50% of the FLOPs"."""
        unit = UNITS[name]
        if self.share:
            return f"{100 * self.value:.10g}% of the {'latency' if unit == 'ms' else unit}"
        return f"{self.value:,.10g} {unit}"


def parse_limit(name: str, given: float | str | None) -> float | str | None:
    """Checks a budget: a number above 0, or a share such as "50%".

    Raises:
        ValueError: If it is neither.
    """
    if given is None:
        return None
    wrong = ValueError(f"{name}={brief(given)}: expected a number above 0, or a share of the model as it is, e.g. 50%")
    if not isinstance(given, str):
        if not given > 0:
            raise wrong
        if given < 1 and name != "max_latency":
            raise ValueError(f"{name}={given:g} is less than one; a share is written {100 * given:g}%")
        return given
    number, share = given.strip().removesuffix("%"), given.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        raise wrong from None
    if not value > 0 or (share and value > 100):
        raise wrong
    return f"{value:g}%" if share else parse_limit(name, value)


def parse_latency(milliseconds: float | None, given: str | None) -> tuple[float | None, str | None]:
    """Checks a latency: milliseconds, or a text such as "60%" or "8ms".

    Returns:
        The milliseconds, and the share; at most one of them is not None.

    Raises:
        ValueError: If it is neither.
    """
    if milliseconds is not None and not (isinstance(milliseconds, (int, float)) and milliseconds > 0):
        raise ValueError(f"max_latency_ms={brief(milliseconds)}: expected a number above 0")
    if given is None:
        return milliseconds, None
    text = str(given).strip()
    if not text.endswith(("%", "ms")):
        raise ValueError(f"max_latency={brief(given)}: expected a share of the model as it is, e.g. 60%, or e.g. 8ms")
    limit = parse_limit("max_latency", text.removesuffix("ms").strip())
    return (None, limit) if isinstance(limit, str) else (limit, None)
