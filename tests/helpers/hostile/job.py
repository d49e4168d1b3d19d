"""Reads changed files in a process of its own, so that a crash, a hang or an explosion of memory is seen.

``python -m tests.helpers.hostile.job FOLDER KINDS FIRST COUNT`` changes the files ``tiny.*`` of a folder and prints a
line of JSON per file and kind of change. Before each file it writes down which one it is, so that the one that ends the
process is known.
"""

from __future__ import annotations

import collections
import io
import json
import logging
import os
import pickletools
import random
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What a name in a pickle, or any value in a checkpoint, is replaced with.
_NAMES = [b"os\nsystem\n", b"builtins\neval\n", b"torch\nLongStorage\n", b"torch._utils\n_rebuild_qtensor\n"]
_VALUES: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1,
        3,
        2**31,
        10**12,
        -(2**63),
        10**40,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "nc",
        "model.0",
    ),
    *([], [1], [[[]]], (), {}, {0: "a"}, {"a": {"b": 1}}, {1}, "__import__('os').mkdir('ran')", b"x"),
]


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three changes anywhere."""
    raw = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(raw)), rng.choice([1, 1, 2, 4, 8, 64, 1000])
        how = rng.randrange(7)
        if how == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            raw[at] = rng.randrange(256)
        elif how == 2:
            del raw[at : at + length]
        elif how == 3:
            raw[at:at] = raw[at : at + length]
        elif how == 4:
            raw[at : at + length] = bytes(length)
        elif how == 5:
            raw[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\x10\0"])
        else:
            raw[at : at + length] = rng.randbytes(length)
        if not raw:
            raw = bytearray(b"x")
    return bytes(raw)


def changed_pickle(data: bytes, rng: random.Random) -> bytes:
    """A pickle with one to three instructions removed, doubled, exchanged or given another operand."""
    places = [place for *_, place in pickletools.genops(data)]
    parts = [data[a:b] for a, b in zip(places, [*places[1:], len(data)], strict=True)]
    for _ in range(rng.randint(1, 3)):
        i, j, how = rng.randrange(1, len(parts)), rng.randrange(1, len(parts)), rng.randrange(6)
        if how == 0:
            parts[i] = b""
        elif how == 1:
            parts[i] = parts[i] * rng.choice([2, 2, 50])
        elif how == 2:
            parts[i], parts[j] = parts[j], parts[i]
        elif how == 3:
            parts[i] = parts[j]
        elif how == 4:  # another operand for a number
            numbers = [k for k, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"h", b"j", b"q", b"r")]
            k = rng.choice(numbers)
            parts[k] = parts[k][:1] + rng.choice([rng.randbytes(len(parts[k]) - 1), b"\xff" * (len(parts[k]) - 1)])
        else:  # another class
            names = [k for k, part in enumerate(parts) if part[:1] == b"c"]
            parts[rng.choice(names)] = rng.choice([parts[rng.choice(names)], b"c" + rng.choice(_NAMES)])
    return b"".join(parts)


def change_content(content: Any, rng: random.Random) -> None:
    """Drops, renames or replaces one to three entries anywhere in a checkpoint or in the attributes of its layers."""
    from torch import nn

    for _ in range(rng.randint(1, 3)):
        holders: list[Any] = []
        left, seen = [content], set()
        while left:
            value = left.pop()
            if isinstance(value, nn.Module):
                value = vars(value)
            if id(value) in seen or not isinstance(value, (dict, list)):
                continue
            seen.add(id(value))
            if value:
                holders.append(value)
            left += value.values() if isinstance(value, dict) else value
        if not holders:
            return
        holder, value = rng.choice(holders), rng.choice(_VALUES)
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        how = rng.randrange(5)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice([0, None, "x", f"{key}_", (1, 2), 1.5])] = holder.pop(key)
        elif how == 2:
            holder[key] = holder  # itself
        elif how == 3:
            holder[key] = changed_tensor(holder[key], rng) if hasattr(holder[key], "dtype") else value
        else:
            holder[key] = value


def changed_tensor(tensor: Any, rng: random.Random) -> Any:
    """A tensor of another shape or type."""
    import torch

    tensor = tensor.detach()
    ways = [
        lambda: tensor.double(),
        lambda: tensor.int(),
        lambda: tensor.bool(),
        lambda: tensor.flatten(),
        lambda: tensor[..., None],
        lambda: tensor[:0],
        lambda: tensor.reshape(-1)[:1].expand(10**9),
        lambda: tensor.reshape(-1)[:1].expand(3, 10**7, 2, 2),
        lambda: torch.zeros(1).expand(tensor.shape),
        lambda: torch.cat((tensor, tensor)) if tensor.dim() else tensor,
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to_sparse() if tensor.dim() else tensor,
        lambda: tensor.to("meta"),
        lambda: torch.nn.Parameter(tensor.float()),
    ]
    return rng.choice(ways)()


def changed_file(kind: str, sound: Path, seed: int, file: Path) -> None:
    """Writes the file of a seed: ``bytes`` changes any byte, ``pickle`` the pickle alone, ``content`` the values."""
    import torch

    from tests.helpers.hostile.pickles import read_entries, write_entries
    from tests.helpers.stock.original import importable

    rng = random.Random(f"{kind} {sound.suffix} {seed}")
    if kind == "bytes":
        file.write_bytes(changed_bytes(sound.read_bytes(), rng))
    elif kind == "pickle":
        entries = read_entries(sound)
        name = next(name for name in entries if name.endswith("/data.pkl"))
        change = rng.choice([changed_bytes, changed_pickle, changed_pickle])
        write_entries(file, {**entries, name: change(entries[name], rng)})
    else:
        with importable():
            content = torch.load(sound, weights_only=False)
            change_content(content, rng)
            torch.save(content, file)


def outcome(file: Path) -> str:
    """``refused`` or ``read``; anything else is a defect."""
    import torch

    from yolo_slim.detection.files.weights import read_weights

    signal.alarm(30)
    try:
        net, imgsz = read_weights(file)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        if "\n" in message or file.name not in message or len(message) > 1000 or not message.isprintable():
            return f"message {message[:1500]!r}"
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:500]
    finally:
        signal.alarm(0)
    with torch.no_grad():
        boxes = net.eval()(torch.rand(1, 3, 64, 64))[0]
    if boxes.shape != (1, 4 + len(net.names), 20) and boxes.shape[:2] != (1, 4 + len(net.names)):
        return f"boxes {tuple(boxes.shape)}"
    return "read" if boxes.isfinite().all() and 0 < imgsz <= 65536 else "boxes that are not finite"


def run(folder: Path, kinds: list[str], first: int, count: int) -> Iterator[dict[str, Any]]:
    """Reads ``count`` changed files of each kind and ending."""
    from yolo_slim.detection.files.weights import read_weights

    logging.disable(logging.INFO)
    endings = sorted(file.suffix[1:] for file in folder.glob("tiny.*"))
    for ending in endings:
        read_weights(folder / f"tiny.{ending}")  # what is imported late is so by now
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2_000_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    names = set(os.listdir(folder))
    for kind in kinds:
        for ending in endings:
            found: collections.Counter[str] = collections.Counter()
            for seed in range(first, first + count):
                file = folder / f"changed.{ending}"
                (folder / "last").write_text(f"{kind} {ending} {seed}")
                try:
                    changed_file(kind, folder / f"tiny.{ending}", seed, file)
                except Exception:  # what cannot be written cannot be read
                    found["not written"] += 1
                    continue
                printed = io.StringIO()
                with warnings.catch_warnings(record=True) as warned:
                    sys.stdout, out = printed, sys.stdout
                    try:
                        what = outcome(file)
                    finally:
                        sys.stdout = out
                new = set(os.listdir(folder)) - names - {"last", "changed.pt", "changed.ckpt"}
                if new or len(warned) > 3 or printed.getvalue():
                    what = f"leaves {sorted(new)}, warns {len(warned)} times, prints {printed.getvalue()[:100]!r}"
                found[what if what in ("read", "refused") else f"{seed}: {what}"] += 1
            yield {"kind": kind, "ending": ending, **found}


def main() -> None:
    """Runs what the command line says."""
    folder, kinds, first, count = Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]), int(sys.argv[4])
    os.chdir(folder)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError("takes more than 30 s")))
    for line in run(folder, kinds, first, count):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
