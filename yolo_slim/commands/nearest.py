"""What somebody may have meant who gave a key that there is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher

from jsonargparse import ArgumentError, ArgumentParser

_ALIKE = 0.7  # of two words that one is meant by


@contextmanager
def naming_nearest(parser: ArgumentParser, more: Iterable[str] = ()) -> Iterator[None]:
    """Has the error for a key that a parser does not know name the one that is most like it.

    Args:
        parser: The parser of the verb.
        more: Keys below those that it lists.
    """
    try:
        yield
    except ArgumentError as error:
        found = re.search(r"[Uu]nrecognized arguments: --([\w.-]+)", str(error))
        meant = found and nearest(found[1], [*keys_of(parser), *more])
        if not meant:
            raise
        raise ArgumentError(None, f"{error}; the nearest key is --{meant}") from error


def keys_of(parser: ArgumentParser) -> list[str]:
    """The keys of a parser, without dashes, down to those of its settings."""
    return list(parser.get_defaults(skip_validation=True).keys())


def nearest(name: str, keys: Iterable[str]) -> str | None:
    """The key that is most like a name, in its last part before all; None if none is.

    Example:
        >>> nearest("lr", ["model.hyp.lr0", "model.hyp.box", "trainer.max_epochs"])
        'model.hyp.lr0'
    """
    wanted = name.replace("-", "_").lower()
    last = wanted.rpartition(".")[2]

    def likeness(key: str) -> tuple[float, float, int]:
        own = key.rpartition(".")[2]
        alike = 0.99 if own.startswith(last) and own != last else SequenceMatcher(None, last, own).ratio()
        return alike, SequenceMatcher(None, wanted, key).ratio(), -len(key)

    best = max(keys, key=likeness, default=None)
    return best if best is not None and likeness(best)[0] >= _ALIKE else None
