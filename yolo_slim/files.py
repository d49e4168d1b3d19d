"""Files that appear whole or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_ENDING = ".partial"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its place once the block has ended well.

    Whatever happens in between, a kill or a full disk, ``path`` holds what it held before or all of what is new. What
    a killed process has left of an earlier attempt is removed.

    Args:
        path: The file that shall appear; its folder exists. Where it is a link, what it points to is replaced.

    Yields:
        A path in the same folder, and so on the same file system, of a file that does not exist yet.

    Raises:
        OSError: If the folder cannot be written to, or is full; the message names the file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}{_ENDING}")
    try:
        _remove_leftovers(target)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # some file systems replace first and write later
        os.replace(temporary, target)
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(
            f"{path} cannot be written ({why}); what was there before is unchanged: make room, or give another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes text, as UTF-8, or bytes to a file that appears whole or not at all; see :func:`whole`."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, as UTF-8, to a file that appears whole or not at all; what is None or nan stays empty."""
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([None if cell != cell else cell for cell in row] for row in rows)  # nan is not itself


def inside(path: str, folders: list[Path]) -> bool:
    """Whether a path, with all its links and ``..`` followed, is that of something below one of the folders.

    An address such as ``s3://bucket/file`` is not.
    """
    if "://" in path or "\0" in path:
        return False
    real = Path(os.path.realpath(path))
    return any(Path(os.path.realpath(folder)) in real.parents for folder in folders)


def _remove_leftovers(path: Path) -> None:
    for file in path.parent.glob(f".*.*{_ENDING}"):
        name, _, process = file.name.removesuffix(_ENDING).rpartition(".")
        if name == f".{path.name}" and process.isdecimal() and not _runs(int(process)):
            with suppress(OSError):
                file.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True
