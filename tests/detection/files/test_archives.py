"""Archives that torch did not write, and pickles that would make a reader crash, hang or take all memory."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from tests.helpers.hostile.pickles import (
    Call,
    Name,
    Stored,
    floats,
    pickled,
    read_entries,
    tensor,
    write_archive,
    write_entries,
    write_tiny,
)
from yolo_slim.detection.files.scan import names_wanted
from yolo_slim.detection.files.weights import read_weights


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def refused(file: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError), match=file.name) as error:
        read_weights(file)
    assert str(error.value).isprintable()
    return str(error.value)


KINDS = pytest.mark.parametrize("kind", ["pt", "ckpt"])


@KINDS
def test_tiny_files_are_sound(tiny, kind):
    net, imgsz = read_weights(tiny[kind])
    assert (net.names, imgsz) == ({0: "car", 1: "bus"}, 64)


# Files


@KINDS
def test_what_is_no_file(tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    os.mkfifo(file)  # opening it would wait for ever
    assert "is not an ordinary file" in refused(file)
    file.unlink()
    file.symlink_to(file)
    assert "does not exist" in refused(file)


@KINDS
def test_other_formats(tmp_path, kind):
    import numpy as np

    file = tmp_path / f"x.{kind}"
    with file.open("wb") as out:
        np.savez(out, a=np.zeros(3))
    refused(file)
    torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=False)
    refused(file)
    file.write_bytes(pickle.dumps({"model": None}))
    refused(file)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    file.write_bytes(struct.pack("<Q", len(header)) + header + floats(0))  # safetensors
    refused(file)
    file.write_text("<!DOCTYPE html><title>404 Not Found</title>")
    refused(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2)), file)
    assert "TorchScript" in refused(file)


@KINDS
def test_cut_off_anywhere(tiny, tmp_path, kind):
    raw, file = tiny[kind].read_bytes(), tmp_path / f"x.{kind}"
    for length in [1, 4, 21, 22, 30, 100, *range(1000, len(raw), 9973), len(raw) - 99, len(raw) - 22, len(raw) - 1]:
        file.write_bytes(raw[:length])
        refused(file)


@KINDS
def test_flipped_anywhere(tiny, tmp_path, kind):
    """In local headers a bit may not matter; in data, names, directory and end it does."""
    raw, file = tiny[kind].read_bytes(), tmp_path / f"x.{kind}"
    with zipfile.ZipFile(tiny[kind]) as archive:
        start, entries = archive.start_dir, archive.infolist()
    data = [entry.header_offset + 30 + len(entry.filename) + 200 for entry in entries if entry.file_size > 400][::7]
    for place in [*data, 0, 3, start, start + 46, start + 10, len(raw) - 22, len(raw) - 98]:
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        refused(file)


@KINDS
def test_compressed_and_encrypted(tiny, tmp_path, kind):
    file = tmp_path / f"x.{kind}"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert file.stat().st_size < 100_000
    assert "could unpack to any size" in refused(file)
    raw = tiny[kind].read_bytes()
    with zipfile.ZipFile(tiny[kind]) as archive:
        place = archive.start_dir + 8
    file.write_bytes(raw[:place] + bytes([raw[place] | 1]) + raw[place + 1 :])
    assert "could unpack to any size" in refused(file)


@KINDS
def test_entries_that_overlap(tmp_path, kind):
    """One entry that many names point to, as in zip bombs that do not nest."""
    file = write_archive(tmp_path / f"x.{kind}", {"a": 1}, {str(i): bytes(10_000) for i in range(9)})
    raw = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        place, end = archive.start_dir, archive.start_dir
        directory = raw[place:-22]
    parts = directory.split(b"PK\x01\x02")[1:]
    first = next(part for part in parts if b"data/0" in part)
    shared = [part[:38] + first[38:42] + part[42:] if b"/data/" in part else part for part in parts]
    cut = raw[: struct.unpack("<I", first[38:42])[0] + 30 + len("archive/data/0") + 10_000]
    directory = b"".join(b"PK\x01\x02" + part for part in shared)
    tail = bytearray(raw[-22:])
    tail[12:20] = struct.pack("<2L", len(directory), len(cut))
    file.write_bytes(cut + directory + tail)
    assert end > len(cut)
    refused(file)


@pytest.mark.parametrize("entry", ["{}/DATA.PKL", "{}/Data.pkl", "other/data.pkl", "data.pkl", "first/x"])
@KINDS
def test_entries_that_torch_finds_elsewhere(tiny, tmp_path, kind, entry):
    """torch takes names in upper and lower case for the same: what was looked at would not be what it reads."""
    entries = read_entries(tiny[kind])
    evil = {entry.format(next(iter(entries)).partition("/")[0]): pickled({"model": Call(Name("torch", "FloatTensor"))})}
    assert "damaged, cut off or no checkpoint" in refused(write_entries(tmp_path / f"x.{kind}", {**evil, **entries}))
    assert "damaged, cut off or no checkpoint" in refused(write_entries(tmp_path / f"x.{kind}", {**entries, **evil}))


@KINDS
def test_two_archives_in_one_file(tiny, tmp_path, kind):
    """zipfile takes the directory before the end of the file, torch the one where the end says that it is."""
    other = write_entries(tmp_path / "other", read_entries(tiny[kind])).read_bytes()
    file = tmp_path / f"x.{kind}"
    for content in (other + tiny[kind].read_bytes(), tiny[kind].read_bytes() + other, b"PK\x03\x04" + other):
        file.write_bytes(content)
        assert "damaged, cut off or no checkpoint" in refused(file)
    file.write_bytes(tiny[kind].read_bytes() + b"PK\x05\x06" + bytes(18))
    refused(file)
    file.write_bytes(other)
    read_weights(file)


# Pickles

REPEATED = b"]q\x00(" + b"".join(b"J" + struct.pack("<i", i) for i in range(200_000)) + b"e"
DEEP = b"\x80\x02}N" + b"\x85" * 300_000
PICKLES = {
    "set of one list, often": b"\x80\x02(" + REPEATED + b"c__builtin__\nset\nh\x00\x85R" * 3000 + b"t.",
    "dict of one list, often": b"\x80\x02(" + REPEATED + b"ccollections\nOrderedDict\nh\x00\x85R" * 3000 + b"t.",
    "size of one list, often": b"\x80\x02(" + REPEATED + b"ctorch\nSize\nh\x00\x85R" * 3000 + b"t.",
    "bytearray": b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "hexadecimal of itself": b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x09\x00\x00\x00hex_codectR.",
    "slow encoding": b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00idnatR.",
    "deep key": DEEP + b"Ns.",
    "deep keys": b"\x80\x02}(N" + b"\x85" * 300_000 + b"Nu.",
    "deep in a set": b"\x80\x02c__builtin__\nset\n]N" + b"\x85" * 300_000 + b"a\x85R.",
    "memo of 2**31": b"\x80\x02Nr\x00\x00\x00\x80.",
    "long string": b"\x80\x02X\xff\xff\xff\xffab.",
    "long string of protocol 4": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fab.",
    "long bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b".",
    "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    "LONG4 below zero": b"\x80\x02\x8b\xff\xff\xff\xff\x01.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "INST": b"(S'ls'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nX\x02\x00\x00\x00lso.",
    "text persistent id": b"Pdata\n.",
    "marks": b"\x80\x02" + b"(" * 100_000 + b".",
    "too large": b"\x80\x02]." + bytes(6_000_000),
    "protocol 9": b"\x80\x09N.",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "name of any size": b"\x80\x02c" + b"a" * 300_000 + b"\nb\n.",
    "name that moves the cursor": b"\x80\x02cos\x1b[2J\nsystem\n.",
    "name in Latin-1": b"\x80\x02cos\xe9\nsystem\n.",
}


@pytest.mark.parametrize("what", PICKLES)
@KINDS
def test_malicious_pickles(tmp_path, kind, what):
    refused(write_archive(tmp_path / f"x.{kind}", PICKLES[what]))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_names_are_found_and_not_imported(tmp_path, protocol):
    evil = Call(Name("a.decoy.module", "function"), 1)
    file = write_archive(tmp_path / "x.pt", {"a": evil, "b": [Name("os", "system")]}, protocol=protocol)
    assert names_wanted(file) == {"a.decoy.module.function", "os.system"}


def test_old_names_are_said_as_today(tmp_path):
    assert names_wanted(write_archive(tmp_path / "x.pt", Name("__builtin__", "eval"))) == {"builtins.eval"}


@pytest.mark.parametrize(
    "stored",
    [
        Stored("0", 5),
        Stored("0", 3),
        Stored("0", 2**61 + 4),
        Stored("0", -4),
        Stored("0", 4.0),
        Stored("1", 4),
        Stored("../0", 4),
        Stored(0, 4),
        Stored((), 4),
        Stored("0", 4, Name("torch", "DoubleStorage")),
        Stored("0", 16, Name("torch.storage", "UntypedStorage")),
        Stored("0", 4, 7),
    ],
)
@KINDS
def test_storages_that_claim_other_data(tmp_path, kind, stored):
    """torch itself would read what lies behind the data in memory."""
    file = write_archive(tmp_path / f"x.{kind}", {"model": tensor(stored)}, {"0": floats(1, 2, 3, 4)})
    assert "cannot be read" in refused(file)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (2**62, (4,), (1,)),
        (-1, (4,), (1,)),
        (3, (4,), (-1,)),
        (0, (-4,), (1,)),
        (0, (2, 2), (2**63 - 1, 1)),
        (0, (2**32, 2**32), (2**32, 2**32)),
        (0, (2**62, 4), (0, 0)),
        (0, (2, 2), (1,)),
        ("0", (1,), (1,)),
        (0, 7, 7),
    ],
)
@KINDS
def test_tensors_outside_of_their_data(tmp_path, kind, offset, size, stride):
    view = tensor(Stored("0", 4), offset, size, stride)
    assert "cannot be read" in refused(write_archive(tmp_path / f"x.{kind}", [view], {"0": floats(1, 2, 3, 4)}))


@KINDS
def test_tensor_that_is_changed_after_it_was_made(tmp_path, kind):
    made = tensor(Stored("0", 4), 0, (4,), (1,))
    made.state = ()
    assert "cannot be read" in refused(write_archive(tmp_path / f"x.{kind}", [made], {"0": floats(1, 2, 3, 4)}))


# Plain data
