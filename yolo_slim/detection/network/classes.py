"""How the classes of a file and those of the data belong together: by their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from yolo_slim.wording import printable

Relation = Literal["equal", "permuted", "subset", "superset", "partly", "foreign"]

#: More classes than any data set has.
MAX_CLASSES = 65_536


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a file each class of the data is.

    Attributes:
        relation: ``equal``; ``permuted``, the same in another order; ``subset``, the data has some of the file's;
            ``superset``, all of the file's and more; ``partly``, some of them and others; ``foreign``, none.
        rows: For each class of the data, its index in the file; None for one that the file does not know.
        known: Names in the file.
        wanted: Names in the data.
    """

    relation: Relation
    rows: tuple[int | None, ...]
    known: tuple[str, ...]
    wanted: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether the file knows every class of the data."""
        return self.relation in ("equal", "permuted", "subset")

    @property
    def unknown(self) -> list[str]:
        """The classes of the data that the file does not know."""
        return [name for name, row in zip(self.wanted, self.rows, strict=True) if row is None]

    def indices(self, what: str) -> list[int]:
        """For each class of the data, its index in the file.

        Args:
            what: What to call the file, for the message.

        Raises:
            ValueError: If the file does not know one of them.
        """
        if not self.usable:
            raise ValueError(
                f"{what} does not know {_some(self.unknown)} of the data's classes ({_some(self.wanted)}), it knows "
                f"{_some(self.known)}: give data of its classes, or train it on these first (fit with --model.weights)"
            )
        return [row for row in self.rows if row is not None]

    def expect_equal(self, what: str) -> None:
        """Refuses data of other classes, or of the same in another order.

        Raises:
            ValueError: With the classes of both.
        """
        if self.relation != "equal":
            raise ValueError(
                f"{what} knows {len(self.known)} classes ({_some(self.known)}), the data has {len(self.wanted)} "
                f"({_some(self.wanted)}), not the same in the same order; give the data it was trained on, or start a "
                "new training from it with --model.weights"
            )

    def __str__(self) -> str:
        """What becomes of the rows of a head that is fitted to the data."""
        if self.relation == "equal":
            return "the classes are those of the file"
        if self.relation == "permuted":
            return "the classes are those of the file in another order, their rows are put in that of the data"
        if self.relation == "subset":
            return f"the data has {len(self.wanted)} of the file's {len(self.known)} classes, whose rows are kept"
        if self.relation == "foreign":
            return f"the file knows none of the data's classes ({_some(self.wanted)}), they are learned anew"
        kept = len(self.wanted) - len(self.unknown)
        return f"the file knows {kept} of the data's {len(self.wanted)} classes; {_some(self.unknown)} are learned anew"


def match_classes(known: Mapping[int, str], wanted: Mapping[int, str]) -> ClassMatch:
    """Finds each class of the data in a file.

    A name stands for the very same name. What is left is compared without regard to case and space, where that leaves
    no doubt. A name that occurs several times stands for its first, second, ... occurrence. Names that somebody has
    made up (``class_0``, ``0``, or ``item`` for data whose classes count as one) say nothing: where one side has only
    such ones and both have equally many, the place counts.

    Args:
        known: Class names of the file by index, without gaps.
        wanted: Those of the data.
    """
    ours, theirs = (tuple(str(names[i]) for i in range(len(names))) for names in (known, wanted))
    rows: list[int | None]
    if len(ours) == len(theirs) and (_made_up(ours) or _made_up(theirs)):
        rows = list(range(len(ours)))
    else:
        rows = [None] * len(theirs)
        _pair(ours, theirs, rows)
        folded = [tuple(" ".join(name.casefold().split()) for name in names) for names in (ours, theirs)]
        _pair(folded[0], folded[1], rows, doubtless=True)
    matched = [row for row in rows if row is not None]
    relation: Relation
    if not matched:
        relation = "foreign"
    elif len(matched) == len(ours) == len(theirs):
        relation = "equal" if matched == list(range(len(ours))) else "permuted"
    elif len(matched) == len(theirs):
        relation = "subset"
    else:
        relation = "superset" if len(matched) == len(ours) else "partly"
    return ClassMatch(relation, tuple(rows), ours, theirs)


def _pair(ours: tuple[str, ...], theirs: tuple[str, ...], rows: list[int | None], doubtless: bool = False) -> None:
    """Fills in the rows of names that are on both sides; with ``doubtless``, those that are there only once."""
    taken = {row for row in rows if row is not None}
    left: dict[str, list[int]] = {}
    for index, name in enumerate(ours):
        if index not in taken:
            left.setdefault(name, []).append(index)
    open_ = [name for name, row in zip(theirs, rows, strict=True) if row is None]
    for index, name in enumerate(theirs):
        if rows[index] is None and left.get(name):
            if doubtless and (len(left[name]) > 1 or open_.count(name) > 1):
                continue
            rows[index] = left[name].pop(0)


def _made_up(names: tuple[str, ...]) -> bool:
    places = enumerate(names)
    return names == ("item",) or all(name in (str(i), f"class_{i}", f"class{i}") for i, name in places)


def _some(names: list[str] | tuple[str, ...]) -> str:
    """The first few names."""
    shown = ", ".join(printable(name[:40]) for name in names[:4])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 4 else shown
