"""Kills a verb at random moments, goes on with it, and prints what was wrong with the outcomes; see test_kills.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from benchmarks.reliability.interruptions import kills, straight_run
from benchmarks.reliability.work import works


def main() -> None:
    """The verb, how many kills, a data YAML, and an empty folder."""
    verb, count, data, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    unused = place / "unused.ckpt"
    work = next(w for w in works(data, unused, unused) if w.verb == verb)
    straight, seconds = straight_run(work, place)
    for what, wrong in kills(work, straight, seconds, count, place, random.Random(count)):
        print(f"{'FAILED' if wrong else 'survived'}: {what} {wrong}", flush=True)


if __name__ == "__main__":
    main()
