"""Files that torch.save wrote, looked at before anything in them is used: is this one sound, and what does it want?"""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

#: How files begin that torch wrote before version 1.6: a pickled number.
_OLD_FORMAT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


# The records at the end of a zip file. Last: signature, four numbers of disks and entries, the directory's size and
# offset, the length of a comment.
_END = struct.Struct("<4s4H2LH")
# Of large files, before that: signature, number of a disk, where the record is that comes before this one, disks.
_LARGE_PLACE = struct.Struct("<4sLQL")
# Signature, its size, two versions, two disks, two numbers of entries, the directory's size and offset.
_LARGE_END = struct.Struct("<4sQ2H2L4Q")


def expect_archive(path: Path, remedy: str) -> None:
    """Refuses what torch did not write, and what has changed since: torch itself does not look at the checksums.

    Args:
        path: The file.
        remedy: What to do instead, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, damaged, or of another kind.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not an ordinary file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"weights file {path} {what}; {remedy}")
    if path.stat().st_size == 0:
        raise ValueError(f"weights file {path} is empty; {remedy}")
    with path.open("rb") as file:
        if file.read(len(_OLD_FORMAT)) == _OLD_FORMAT:
            raise ValueError(
                f"weights file {path} is in the format that torch wrote before version 1.6; save it again with the "
                f"Ultralytics that wrote it, or {remedy}"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            script = any(entry.filename.endswith("/constants.pkl") for entry in entries)
            # torch stores without compressing: anything else could unpack to any size.
            regular = all(
                entry.compress_type == zipfile.ZIP_STORED
                and entry.compress_size == entry.file_size
                and not entry.flag_bits & 1
                for entry in entries
            )
            if not script and (not regular or sum(entry.file_size for entry in entries) > path.stat().st_size):
                raise ValueError(
                    f"weights file {path} is compressed or packed in a way that torch does not use, it could unpack "
                    f"to any size; {remedy}"
                )
            names = [entry.filename for entry in entries]
            sound = not script and archive.testzip() is None and _reads_alike(path, names)
    # zipfile fails in many ways on what is damaged; NotImplementedError is a RuntimeError.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, UnicodeError, OSError):
        sound = script = False
    if script:
        raise ValueError(f"weights file {path} is a TorchScript program and cannot be trained or pruned; {remedy}")
    if not sound:
        raise ValueError(f"weights file {path} is damaged, cut off or no checkpoint at all; {remedy}")


def _reads_alike(path: Path, names: list[str]) -> bool:
    """Whether torch, which reads archives in its own way, finds the entries that Python's zipfile finds.

    torch takes names in upper and lower case for the same, reads the folder of the first entry, and does not look for
    a directory in other places than the end of the file.
    """
    if len({name.lower() for name in names}) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        return False
    large = _LARGE_END.size + _LARGE_PLACE.size
    with path.open("rb") as file:
        end = file.seek(0, 2) - _END.size
        file.seek(max(end - large, 0))
        tail = file.read()
    signature, *_, size, offset, comment = _END.unpack(tail[-_END.size :])
    if len(tail) == large + _END.size:
        mark, _, place, _ = _LARGE_PLACE.unpack(tail[_LARGE_END.size : large])
        if mark == b"PK\6\7":
            end -= large
            record, *_, size, offset = _LARGE_END.unpack(tail[: _LARGE_END.size])
            if record != b"PK\6\6" or place != end:
                return False
    return bool(signature == b"PK\5\6" and comment == 0 and offset + size == end)
