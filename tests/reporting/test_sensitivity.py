"""The picture and the summary of a measured sensitivity."""

from __future__ import annotations

import pytest

from yolo_slim.pruning import Row
from yolo_slim.reporting import heat_map, sensitivity_markdown

ABOUT = {
    "weights": {"file": "runs/fit/best.ckpt"},
    "data": {"file": "data.yaml", "split": "train", "images": 128},
    "imgsz": 192,
    "settings": {"stop_rise": 1.0},
    "dense": {"loss": 2.0, "map": 0.5},
    "noise": 0.02,
}


def row(unit: str, ratio: float, rise: float | None, figures: tuple[str, ...] = ("loss",)) -> Row:
    status = "skipped" if rise is None else "measured"
    counts = {"channels": 10, "removed": int(10 * ratio), "parameters_saved": 5, "flops_saved": int(2e6 * ratio)}
    measured = {} if rise is None else dict.fromkeys(figures, 1.0)
    return Row(unit, (unit,), ratio=ratio, **counts, status=status, rise=rise, figures=measured, seconds=30.0)


ROWS = [
    *(row("robust", 0.3, -0.01), row("fragile", 0.3, 1.5), row("middling", 0.3, 0.1)),
    *(row("robust", 0.6, 0.01), row("fragile", 0.6, None), row("middling", 0.6, 0.4)),
]


def test_what_bears_most_and_least():
    """A unit that was not measured at large ratios is compared by its rise for each channel."""
    text = sensitivity_markdown(ROWS, ABOUT)
    assert "3 units of `runs/fit/best.ckpt`, one at a time, on 128 train images of `data.yaml` at 192 px." in text
    assert "As it is: loss 2, map 0.5." in text
    assert "5 rows measured, 1 skipped because a smaller ratio raised the loss by more than 100%." in text
    assert "lies 2.0% apart; 2 rows rise by no more than that." in text
    least, most = text.partition("## Least sensitive")[2].split("## Most sensitive")
    for part, order in ((least, ["robust", "middling", "fragile"]), (most, ["fragile", "middling", "robust"])):
        assert [line.split("`")[1] for line in part.splitlines() if line.startswith("| `")] == order
    assert "| `robust` | 10 | 6 | +1.0% | 1.2 |" in least
    assert "| `fragile` | 10 | 3 | +150.0% | 0.6 |" in most
    assert "Measured in 3.0 minutes." in text


@pytest.mark.parametrize(("figures", "what"), [(("loss", "map"), "rise of the loss"), (("map",), "fall of mAP50-95")])
def test_what_the_rise_is_of(figures, what):
    assert f"| silenced | {what} |" in sensitivity_markdown([row("a", 0.3, 0.1, figures)], ABOUT)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [row("a", 0.5, 1e9), row("b", 0.5, 0.0)],
        [row("a", 0.5, 0.0)],
        [row("a", 0.3, None), row("a", 0.5, None)],
        [row("cost $a$ \\frac{ _^\x1b[31m", 0.5, 0.1), row("$\\x$", 0.5, 0.1)],
    ],
    ids=["usual", "lost", "flat", "skipped", "names"],
)
def test_a_picture_of_anything(tmp_path, rows):
    heat_map(rows, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]
    assert "\x1b" not in sensitivity_markdown(rows, ABOUT)
