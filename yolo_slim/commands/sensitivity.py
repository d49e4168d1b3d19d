"""The verb sensitivity: how the loss of a detector rises when channels of one unit at a time are silenced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from yolo_slim.commands.keys import add_measuring_data, parsed, verb_parser
from yolo_slim.commands.next_step import prune_by
from yolo_slim.detection import YOLODataModule, expect_given
from yolo_slim.pruning import RATIOS, Importance
from yolo_slim.wording import brief, say
from yolo_slim.workflow import SensitivitySettings, measure_sensitivity, merge_sensitivities, sanitize


def parser() -> ArgumentParser:
    """The keys of the verb ``sensitivity``."""
    keys = verb_parser(
        "sensitivity",
        "Measure how the loss rises when the lowest channels of one unit (layers that are pruned together) at a time "
        "are silenced, at several ratios. Started again after an interruption, it goes on. prune takes its ratios from "
        "it: --selection.sensitivity FOLDER.",
        name_help="Name of the run folder; the same name goes on.",
    )
    keys.add_argument("--model.weights", type=str | None, default=None, help="Checkpoint or Ultralytics .pt file.")
    keys.add_argument("--imgsz", type=int | None, default=None, help="Image side in pixels; by default the weights'.")
    keys.add_argument("--part", type=str, default="1/1", help="Of several machines: 2/4 measures every fourth unit.")
    keys.add_argument(
        "--merge", type=str, nargs="+", default=None, help="Folders of all parts, to be joined in place of measuring."
    )
    ratios = "Shares of a unit's channels that are silenced, ascending in [0, 1)."
    keys.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), help=ratios)
    keys.add_class_arguments(SensitivitySettings, skip={"importance", "ratios"}, instantiate=False, as_group=False)
    keys.add_class_arguments(Importance, "importance")
    add_measuring_data(keys)
    return keys


def main(arguments: Sequence[str]) -> None:
    """Runs the verb ``sensitivity``; ``arguments`` begin with the verb."""
    keys = parser()
    values = parsed(keys, arguments[1:])
    expect_given(project=values.project, **{"model.weights": values.model.weights, "data.data": values.data.data})
    folder = Path(values.project) / sanitize(values.name)
    if values.merge is not None:
        rows = merge_sensitivities(values.merge, folder)
    else:
        weights = values.model.weights
        if weights is None:
            raise ValueError("there is nothing to measure: give --model.weights with a checkpoint or .pt file")
        chosen = {f.name: values[f.name] for f in fields(SensitivitySettings) if f.name != "importance"}
        settings = SensitivitySettings(**chosen, importance=keys.instantiate(values).importance)
        data = YOLODataModule(**vars(values.data))
        rows = measure_sensitivity(weights, data, settings, folder, _part(values.part), values.imgsz)
    units = len({row.unit for row in rows})
    skipped = sum(row.rise is None for row in rows)
    say(f"{units} units, {len(rows)} rows, {skipped} of them skipped: {folder / 'sensitivity.md'}")
    if values.merge is None and _part(values.part)[1] > 1:
        say("next: the other parts, then --merge with the folders of all of them")
    else:
        say(f"next: {prune_by(folder)}")


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"part={brief(text)}: expected the number of a part and how many there are, e.g. 2/4")
    return int(found[1]), int(found[2])
