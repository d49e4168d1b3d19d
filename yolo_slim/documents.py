"""YAML from outside, read within bounds: a small file can stand for more than any memory holds."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from yolo_slim.wording import printable

#: The largest file that is read, in bytes, and what its aliases may expand to, in entries.
MAX_BYTES, MAX_ENTRIES = 32_000_000, 4_000_000
#: How deeply lists and mappings may lie in each other.
MAX_DEPTH = 60


def read_text(path: str | Path) -> str:
    """The text of an ordinary file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is a pipe, a device or a folder, too large, or no UTF-8.
    """
    path = Path(path)
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{path} is no ordinary file")
    if state.st_size > MAX_BYTES:
        raise ValueError(f"{path} has {state.st_size / 1e6:.0f} MB, expected at most {MAX_BYTES / 1e6:.0f} MB")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start})") from error


def whole_lines(text: str) -> str:
    r"""A table without a last line that a kill has cut off: half a number is a number, too.

    Example:
        >>> whole_lines("a,0.5\nb,0.2")
        'a,0.5\n'
    """
    return text[: text.rfind("\n") + 1]


def parse_yaml(text: str, texts: tuple[str, ...] = ()) -> Any:
    """What a YAML text holds, as plain data.

    Args:
        text: The document.
        texts: Keys of the document below which every plain value is text as it is written: ``no`` is not False there.

    Raises:
        ValueError: If it is not valid, nested too deeply, or would expand to more than can be held.
    """
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:  # a character that no text has
        raise ValueError(" ".join(printable(str(error)).split())[:300]) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _expect_bounded(node)
        if texts and isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value in texts:
                    _as_text(value)
        return loader.construct_document(node)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    except (yaml.YAMLError, TypeError, OverflowError) as error:
        raise ValueError(" ".join(printable(str(error)).split())[:300]) from error
    finally:
        loader.dispose()


def read_yaml(path: str | Path, texts: tuple[str, ...] = ()) -> Any:
    """What a YAML file holds; see :func:`read_text` and :func:`parse_yaml` for the errors."""
    return parse_yaml(read_text(path), texts)


def _expect_bounded(root: yaml.Node) -> None:
    """Refuses aliases that expand without bound: counts what each node stands for, once."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        known = sizes.get(id(node))
        if known is not None:
            return known
        if isinstance(node, yaml.ScalarNode):
            return 1
        sizes[id(node)] = MAX_ENTRIES + 1  # what contains itself has no end
        total = 1
        for entry in node.value:
            for child in entry if isinstance(entry, tuple) else (entry,):
                total += size(child, depth + 1)
                if total > MAX_ENTRIES:
                    raise ValueError(f"its aliases expand to more than {MAX_ENTRIES:,} entries")
        sizes[id(node)] = total
        return total

    size(root, 0)


def _as_text(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        node.tag = "tag:yaml.org,2002:str"
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _as_text(child)
    elif isinstance(node, yaml.MappingNode):
        for _, child in node.value:
            _as_text(child)
