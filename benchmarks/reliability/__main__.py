"""What the program survives, tried for real on tiny data: prints the table of docs/reliability.md.

python -m benchmarks.reliability                      # everything, about an hour on two cores
python -m benchmarks.reliability --only kills --kills 60 --seed 1
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.reliability import disks
from benchmarks.reliability.files import damaged, hostile
from benchmarks.reliability.inputs import bad_inputs
from benchmarks.reliability.interruptions import Try, kills, signals, straight_run, two_starts
from benchmarks.reliability.running import keep
from benchmarks.reliability.work import works
from yolo_slim.detection import generate_shapes

SECTIONS = {
    "kills": "killed at a random moment, or while a file was being written; gone on with",
    "signals": "ended by SIGINT, SIGTERM or SIGHUP; gone on with",
    "starts": "the same command twice at the same time",
    "disks": "a full disk, or a full folder for temporary files; gone on with once there is space",
    "damaged": "checkpoints cut off, with bytes changed, blocks zeroed, or empty",
    "hostile": "files made to hang, to fill the memory, to run something, or to reach the terminal",
    "inputs": "bad input, verb by verb",
}


def main() -> int:
    """Runs the sections and prints the table; the exit status says whether all was survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--kills", type=int, default=44, help="number of kills, over the four verbs")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and damages")
    parser.add_argument("--keep", type=Path, help="file that gets a line for every try")
    given = parser.parse_args()
    torch.set_num_threads(1)
    place = Path(tempfile.mkdtemp(prefix="yolo_slim-reliability-"))
    lines: list[str] = []
    counts: dict[str, list[int]] = {}
    try:
        for section, (what, wrong) in tries(given.only, given.kills, given.seed, place):
            tried = counts.setdefault(section, [0, 0])
            tried[0] += 1
            tried[1] += not wrong
            line = f"{'survived' if not wrong else 'FAILED'}  {section}: {what}" + "".join(f"\n    {w}" for w in wrong)
            print(line.encode("ascii", "backslashreplace").decode(), flush=True)
            lines.append(line)
            if given.keep:
                keep(given.keep, "\n".join(lines))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print("\n| kind of fault | tried | survived |\n| --- | ---: | ---: |")
    for section, (count, survived) in counts.items():
        print(f"| {SECTIONS[section]} | {count} | {survived} |")
    return int(any(count != survived for count, survived in counts.values()))


def tries(only: list[str], count: int, seed: int, place: Path) -> Iterator[tuple[str, Try]]:
    """All tries of the sections that are asked for, in turn."""
    draw = random.Random(seed)
    data = generate_shapes(place / "set", train=12, val=6, imgsz=64)
    began = time.monotonic()
    # A trained and a sparse checkpoint are what the other verbs begin with.
    fit, slim = works(data, place / "trained.ckpt", place / "sparse.ckpt")[:2]
    straight = {work.verb: straight_run(work, place) for work in (fit, slim)}
    shutil.copy(straight["fit"][0] / "best.ckpt", place / "trained.ckpt")
    shutil.copy(straight["slim"][0] / "sparse" / "last.ckpt", place / "sparse.ckpt")
    verbs = works(data, place / "trained.ckpt", place / "sparse.ckpt")
    straight |= {work.verb: straight_run(work, place) for work in verbs[2:]}
    seconds = ", ".join(f"{verb} {seconds:.1f} s" for verb, (_, seconds) in straight.items())
    print(f"straight runs: {seconds}; {time.monotonic() - began:.0f} s in all", file=sys.stderr, flush=True)
    shares = {"fit": 0.3, "slim": 0.3, "prune": 0.2, "export": 0.2}
    for section in only:
        if section == "kills":
            for work in verbs:
                number = max(1, round(count * shares[work.verb]))
                found = kills(work, *straight[work.verb], number, place, draw)
                yield from ((section, each) for each in found)
        elif section == "signals":
            for work in verbs:
                yield from ((section, each) for each in signals(work, *straight[work.verb], place, draw))
        elif section == "starts":
            for work in verbs:
                yield from ((section, each) for each in two_starts(work, straight[work.verb][0], place))
        elif section == "disks":
            if not disks.available():
                print("no file system of one's own on this system: full disks are not tried", file=sys.stderr)
                continue
            for work in verbs:
                found = disks.full_disks(work, straight[work.verb][0], 4, place, draw)
                yield from ((section, each) for each in found)
                yield from ((section, each) for each in disks.full_temporary(work, straight[work.verb][0], place))
        elif section == "damaged":
            files = [place / "trained.ckpt", straight["slim"][0] / "finetune" / "last.ckpt"]
            yield from ((section, each) for each in damaged(files, data, 40, place, draw))
        elif section == "hostile":
            yield from ((section, each) for each in hostile(place / "trained.ckpt", data, place))
        else:
            yield from ((section, each) for each in bad_inputs(place / "trained.ckpt", data, place))


if __name__ == "__main__":
    sys.exit(main())
