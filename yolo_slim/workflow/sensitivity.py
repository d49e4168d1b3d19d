"""Measuring how sensitive the units of a detector are, in a folder that an interrupted run goes on in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch

from yolo_slim.callbacks import Target
from yolo_slim.detection import (
    Evaluation,
    Metric,
    YOLODataModule,
    YOLODetector,
    as_deployed,
    match_classes,
    observe_gradients,
    relabelled,
    training_batches,
)
from yolo_slim.files import write_whole
from yolo_slim.pruning import (
    RATIOS,
    Importance,
    Row,
    Selection,
    Sensitivity,
    check_ratios,
    importance_scores,
    latency_ms,
)
from yolo_slim.reporting import heat_map, sensitivity_markdown
from yolo_slim.version import __version__
from yolo_slim.workflow.run_folder import LOCK, discard_untrained, held, make
from yolo_slim.workflow.sensitivity_files import (
    ABOUT,
    MEASURED_BEFORE,
    Table,
    digest_of,
    expect_same,
    finished_rows,
    read_about,
    write_about,
)
from yolo_slim.workflow.sensitivity_progress import Progress
from yolo_slim.workflow.settings import PruneSettings
from yolo_slim.workflow.signals import Stopped


@dataclass
class SensitivitySettings:
    """What is measured, and how.

    Raises:
        ValueError: If a value is out of range.
    """

    ratios: list[float] = field(default_factory=lambda: list(RATIOS))
    """Shares of a unit's channels that are silenced, ascending in [0, 1)."""
    metric: Metric = "loss"
    """"loss", or "map", or "both", which takes two to three times as long."""
    images: int = 128
    """Images that are measured on, at most."""
    split: Literal["train", "val", "test"] = "train"
    """Where they come from; on "val" the channels are chosen by what the result is judged by."""
    stop_rise: float = 1.0
    """Larger ratios of a unit are skipped once the loss has risen by more than this share of the dense model's."""
    statistics: bool = False
    """Measure BatchNorm's statistics anew on the images for each row, as ``--recalibrate`` does after a prune."""
    latency: bool = False
    """Time a network from which the channels are really gone, too: milliseconds per image in PyTorch."""
    min_channels: int = 8
    """Channels that every layer keeps."""
    shortcuts: Literal["couple", "spare"] = "couple"
    """"couple" measures channels that meet in a residual addition together; "spare" leaves them out."""
    ignore: list[str] = field(default_factory=list)
    """Patterns (fnmatch) of module names that are left out, with all modules inside."""
    importance: Importance = field(default_factory=Importance)
    """How channels are scored: the lowest of a unit are silenced first."""
    batches: int = 16
    """Batches of training images for taylor."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_ratios(self.ratios)
        if not self.stop_rise > 0:
            raise ValueError(f"stop_rise={self.stop_rise}: expected a share above 0")
        _ = self.rules

    @property
    def rules(self) -> Selection:
        """What a selection of any width would be held to."""
        return Selection(
            round_to=1, min_channels=self.min_channels, shortcuts=self.shortcuts, ignore=tuple(self.ignore)
        )


def measure_sensitivity(
    weights: str | Path,
    data: YOLODataModule,
    settings: SensitivitySettings,
    folder: Path,
    part: tuple[int, int] = (1, 1),
    imgsz: int | None = None,
) -> list[Row]:
    """Measures the units of a detector, or goes on with that, and writes the table, the picture and a summary.

    Args:
        weights: Checkpoint or .pt file.
        data: What it is measured on.
        settings: What is measured.
        folder: A new folder, or that of an earlier start with the same settings.
        part: Which part of how many, for several machines; see :func:`merge_sensitivities`.
        imgsz: Side of the images in pixels; by default the one it was trained with.

    Returns:
        All rows.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the folder holds another measurement or is damaged, or the file or data do not fit.
    """
    new = not (folder / ABOUT).is_file()
    if new and folder.is_dir() and any(file.name != LOCK for file in folder.iterdir()):
        raise ValueError(f"{folder} exists and is no measurement of 'sensitivity'; give this one another --name")
    if new and not folder.is_dir():
        make(folder)
    with held(folder):
        try:
            return _measure(Path(weights), data, settings, folder, part, imgsz)
        except BaseException as stop:
            go_on = ""
            if not (folder / ABOUT).is_file():
                discard_untrained(folder)
            elif not isinstance(stop, ValueError):
                go_on = stop.go_on = "the same command goes on"  # type: ignore[attr-defined]
            if type(stop) is KeyboardInterrupt:
                raise Stopped(go_on=go_on) from None
            raise


def _measure(
    weights: Path,
    data: YOLODataModule,
    settings: SensitivitySettings,
    folder: Path,
    part: tuple[int, int],
    imgsz: int | None,
) -> list[Row]:
    detector = YOLODetector(weights=str(weights), imgsz=imgsz)
    detector.to("cuda" if torch.cuda.is_available() else "cpu")
    side, target = detector.hparams["imgsz"], Target(detector)
    sized = data.fresh(imgsz=side)
    evaluate = Evaluation(detector, sized, settings.split, settings.images, settings.metric, settings.statistics)
    cut = None
    if settings.latency:
        example = detector.pruning_example

        def cut(network: Any) -> Mapping[str, float]:
            return {"inference_ms": latency_ms(as_deployed(network.eval()), example)}

    measurement = Sensitivity(
        detector.net,
        target.graph,
        evaluate,
        detector.pruning_example,
        ratios=settings.ratios,
        scores=_scores(detector, target, sized, settings, weights),
        selection=settings.rules,
        stop_rise=settings.stop_rise,
        part=part,
        measure_cut=cut,
    )
    about: dict[str, Any] = {
        "weights": {"file": str(weights), "sha256": digest_of(weights)},
        "data": {"file": str(data.data), "split": settings.split, "images": len(evaluate.files)},
        "imgsz": side,
        "settings": _plain(settings),
        "units": len(measurement.units),
        "part": f"{part[0]}/{part[1]}",
    }
    about["data"]["sha256"] = sha256("\n".join(Path(file).name for file in evaluate.files).encode()).hexdigest()[:16]
    if (folder / ABOUT).is_file():
        expect_same(folder, read_about(folder), about, ("versions", "dense", "noise"))
    dense = measurement.evaluate_dense()
    noise = evaluate.spread()
    versions = {"yolo_slim": __version__, "torch": str(torch.__version__)}
    about |= {"dense": {k: float(v) for k, v in dense.items()}, "noise": float(noise), "versions": versions}
    table = Table(folder, tuple(dense))
    write_about(folder, about)
    rows = table.rows()
    with Progress(len(measurement), rows) as progress:
        for row in measurement.rows(rows):
            table.add(row, noise)
            rows.append(row)
            progress.show(row)
    _summarise(folder, about, rows)
    return rows


def by_its_sensitivity(
    weights: str | Path, data: YOLODataModule, settings: PruneSettings, folder: Path, imgsz: int
) -> PruneSettings:
    """The same prune by the sensitivity of the model that it will work on, which is measured, or gone on with.

    Args:
        weights: The model.
        data: What it is measured on.
        settings: What is pruned.
        folder: Of the measurement.
        imgsz: Side of the images in pixels.
    """
    rules = settings.selection
    asked = SensitivitySettings(
        min_channels=rules.min_channels,
        shortcuts="spare" if rules.shortcuts == "spare" else "couple",
        ignore=list(rules.ignore),
        importance=settings.importance,
        batches=settings.batches,
        metric="both" if rules.allocate == "fzi" else "loss",
    )
    measure_sensitivity(weights, data, asked, folder, imgsz=imgsz)
    return replace(settings, selection=replace(rules, sensitivity=str(folder)))


def merge_sensitivities(parts: Sequence[str | Path], folder: Path) -> list[Row]:
    """Joins the parts of a measurement to one, as if it had been made in one go.

    Args:
        parts: Their folders, in any order.
        folder: A new folder.

    Returns:
        All rows.

    Raises:
        FileNotFoundError: If one of them holds no measurement.
        ValueError: If one is not finished or missing, they were made with other settings, or the folder exists.
    """
    folders = [Path(part) for part in parts]
    abouts = [read_about(part) for part in folders]
    for part, about in zip(folders[1:], abouts[1:], strict=True):
        expect_same(part, about, abouts[0], MEASURED_BEFORE)
    total = int(abouts[0]["part"].partition("/")[2])
    places = [int(about["part"].partition("/")[0]) for about in abouts]
    if sorted(places) != list(range(1, total + 1)) or any(a["part"].partition("/")[2] != str(total) for a in abouts):
        given = ", ".join(about["part"] for about in abouts)
        raise ValueError(f"the parts are {given}: expected each of 1/{total} to {total}/{total} once")
    by_ratio: dict[float, dict[int, list[Row]]] = {}
    for place, part, about in zip(places, folders, abouts, strict=True):
        for row in finished_rows(part, about):
            by_ratio.setdefault(row.ratio, {}).setdefault(place, []).append(row)
    # A part has every so-manieth unit.
    joined = []
    for own in by_ratio.values():
        longest = max(len(rows) for rows in own.values())
        joined += [own[place][i] for i in range(longest) for place in range(1, total + 1) if i < len(own[place])]
    if folder.exists():
        raise ValueError(f"{folder} exists: give the merged measurement another --name")
    make(folder)
    try:
        about = abouts[0] | {"part": "1/1", "units": sum(about["units"] for about in abouts)}
        table = Table(folder, tuple(about["dense"]))
        table.rows()
        for row in joined:
            table.add(row, float(about["noise"]))
        write_about(folder, about)
        _summarise(folder, about, joined)
    except BaseException:
        discard_untrained(folder)
        raise
    return joined


def _scores(
    detector: YOLODetector, target: Target, data: YOLODataModule, settings: SensitivitySettings, weights: Path
) -> torch.Tensor:
    taylor = None
    if settings.importance.kind == "taylor":
        indices = match_classes(detector.hparams["names"], data.names or {}).indices(str(weights))
        taylor = observe_gradients(
            detector, target.graph, relabelled(training_batches(data, settings.batches), indices)
        )
    return importance_scores(detector.net, target.graph, settings.importance, taylor)


def _summarise(folder: Path, about: Mapping[str, Any], rows: Sequence[Row]) -> None:
    heat_map(rows, folder / "sensitivity.png")
    write_whole(folder / "sensitivity.md", sensitivity_markdown(rows, about))


def _plain(settings: SensitivitySettings) -> dict[str, Any]:
    values = asdict(settings)
    return {**values, "ratios": [float(ratio) for ratio in settings.ratios]}
