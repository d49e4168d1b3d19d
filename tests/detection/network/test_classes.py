"""Classes belong together by name: which relation there is, and what each verb makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.detectors import trainer_for
from tests.helpers.hostile.pickles import TINY
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.datamodule import YOLODataModule
from yolo_slim.detection.files.checkpoints import save_weights
from yolo_slim.detection.files.weights import read_weights
from yolo_slim.detection.network.classes import match_classes
from yolo_slim.detection.training.detector import YOLODetector


def named(*names: str) -> dict[int, str]:
    return dict(enumerate(names))


@pytest.mark.parametrize(
    ("known", "wanted", "relation", "rows"),
    [
        (["a", "b"], ["a", "b"], "equal", [0, 1]),
        (["a", "b"], ["b", "a"], "permuted", [1, 0]),
        (["a", "b", "c"], ["c", "a"], "subset", [2, 0]),
        (["a"], ["b", "a"], "superset", [None, 0]),
        (["a", "b"], ["b", "c"], "partly", [1, None]),
        (["a", "b"], ["c", "d"], "foreign", [None, None]),
        (["Car", "car"], ["car", "Car"], "permuted", [1, 0]),  # by case alone, each is itself
        (["Car", "car"], ["CAR"], "foreign", [None]),  # and in doubt neither
        (["traffic  light"], ["Traffic Light"], "equal", [0]),
        (["Car"], ["car", "CAR"], "foreign", [None, None]),
        (["Car", "bus"], ["car", "Car"], "partly", [None, 0]),
        (["a", "a"], ["a", "a"], "equal", [0, 1]),
        (["a", "b", "a"], ["a", "a"], "subset", [0, 2]),
        (["a", "b"], ["class_0", "class_1"], "equal", [0, 1]),  # made up where the data gives a number alone
        (["0", "1"], ["x", "y"], "equal", [0, 1]),
        (["0", "1"], ["1", "0"], "equal", [0, 1]),
        (["0", "1"], ["x"], "foreign", [None]),
        (["plate"], ["item"], "equal", [0]),  # all classes count as one
        (["a", "b"], ["item"], "foreign", [None]),
    ],
)
def test_relations(known, wanted, relation, rows):
    match = match_classes(named(*known), named(*wanted))
    assert (match.relation, list(match.rows)) == (relation, rows)


NAMES = ("red", "green", "blue")
COLOURS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # as OpenCV has them


@pytest.fixture(scope="module")
def knows(tmp_path_factory) -> Path:
    """A detector whose score of a class depends on that class alone: row i of the head has its own bias."""
    torch.manual_seed(0)
    detector = YOLODetector(TINY, names=named(*NAMES), imgsz=64)
    for branch in detector.net.model[-1].cv3:
        branch[-1].weight.data.zero_()
        branch[-1].bias.data.copy_(torch.tensor([math.log(p / (1 - p)) for p in (0.2, 0.5, 0.8)]))
    path = tmp_path_factory.mktemp("knows") / "knows.ckpt"
    save_weights(detector.net, path, imgsz=64)
    return path


def scores_by_name(detector: YOLODetector) -> dict[str, float]:
    """What the head says of each class, by its name."""
    found = detector.net.eval()(torch.zeros(1, 3, 64, 64))[0][0, 4:, 0]
    return {name: round(found[index].item(), 3) for index, name in detector.net.names.items()}


SCORES = {"red": 0.2, "green": 0.5, "blue": 0.8}


def dataset(root: Path, names: tuple[str, ...]) -> Path:
    """A data set of those classes, each of which occurs."""
    import cv2
    import numpy as np

    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index, name in enumerate(names):
            image = np.zeros((64, 64, 3), np.uint8)
            image[16:48, 16:48] = COLOURS.get(name, (90, 90, 90))
            cv2.imwrite(str(root / "images" / split / f"{index}.png"), image)
            (root / "labels" / split / f"{index}.txt").write_text(f"{index} 0.5 0.5 0.5 0.5\n")
    info = {"path": str(root), "train": "images/train", "val": "images/val", "names": list(names)}
    (root / "data.yaml").write_text(yaml.safe_dump(info))
    return root / "data.yaml"


RELATIONS = {
    "equal": NAMES,
    "permuted": ("blue", "red", "green"),
    "subset": ("blue", "green"),
    "superset": (*NAMES, "grey"),
    "partly": ("blue", "grey"),
    "foreign": ("grey", "black", "white"),
}
USABLE = ("equal", "permuted", "subset")
#: Runs of few steps: what counts is whether they are refused, and in which order the classes are.
SMALL = ["--data.imgsz=64", "--data.workers=0", "--data.batch=4", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module", params=RELATIONS)
def related(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, dataset(tmp_path_factory.mktemp("set"), RELATIONS[request.param])


@pytest.mark.parametrize("way", ["--ckpt_path", "--model.weights"])
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_judging_is_by_name_or_refused(related, knows, tmp_path, monkeypatch, capsys, verb, way):
    relation, data = related
    monkeypatch.chdir(tmp_path)
    arguments = [verb, f"{way}={knows}", f"--data.data={data}", *SMALL]
    if relation not in USABLE:
        line = refused(capsys, arguments)
        assert "does not know" in line
        assert "grey" in line
        assert not (tmp_path / "runs").exists()
        return
    seen = {}
    monkeypatch.setattr(YOLODetector, "on_validation_epoch_end", lambda self: seen.update(scores_by_name(self)))
    monkeypatch.setattr(YOLODetector, "on_test_epoch_end", lambda self: seen.update(scores_by_name(self)))
    main(arguments)
    assert seen == {name: SCORES[name] for name in RELATIONS[relation]}
    assert list(seen) == list(RELATIONS[relation])  # in the order of the data's labels


@pytest.mark.parametrize("way", ["--ckpt_path", "--model.weights"])
def test_predict_finds_what_the_file_knows(related, knows, tmp_path, monkeypatch, way):
    _, data = related
    monkeypatch.chdir(tmp_path)
    seen = {}
    monkeypatch.setattr(YOLODetector, "on_predict_end", lambda self: seen.update(scores_by_name(self)), raising=False)
    main(["predict", f"{way}={knows}", f"--data.data={data}", *SMALL])
    assert seen == SCORES


def test_a_new_training_keeps_rows_by_name_and_says_so(related, knows, tmp_path, caplog):
    relation, data = related
    detector = YOLODetector(weights=str(knows), names=YOLODataModule(str(data)).names)
    found = scores_by_name(detector)
    assert list(found) == list(RELATIONS[relation])
    assert {name: found[name] for name in found if name in SCORES} == {k: v for k, v in SCORES.items() if k in found}
    with caplog.at_level("INFO"):
        detector.setup("fit")
    assert ("knows.ckpt: the" in caplog.text) == (relation != "equal")


@pytest.mark.parametrize("importance", ["taylor", "gamma"])
def test_prune_reads_gradients_by_name(related, knows, tmp_path, monkeypatch, capsys, importance):
    relation, data = related
    monkeypatch.chdir(tmp_path)
    arguments = ["prune", f"--model.weights={knows}", f"--importance.kind={importance}", "--selection.ratio=0.2"]
    arguments += [f"--data.data={data}", "--data.batch=4", "--recalibrate=true"]
    if importance == "taylor" and relation not in USABLE:
        assert "does not know grey" in refused(capsys, arguments)
        return
    main(arguments)
    net, imgsz = read_weights("runs/prune/slim.ckpt")
    assert net.names == named(*NAMES)
    assert imgsz == 64


def test_taylor_sees_the_labels_of_the_file(knows, tmp_path):
    """Data in another order gives the very same importance."""
    from yolo_slim.detection.data.plain import training_batches
    from yolo_slim.detection.training.calibration import observe_gradients, relabelled

    found = []
    for relation in ("equal", "permuted"):
        data = YOLODataModule(str(dataset(tmp_path / relation, RELATIONS[relation])), imgsz=64, batch=4, workers=0)
        detector = YOLODetector(weights=str(knows))
        indices = match_classes(detector.hparams["names"], data.names).indices("knows.ckpt")
        batches = relabelled(training_batches(data, 4), indices)
        assert sorted(batches[0]["cls"].flatten().tolist()) == [0, 1, 2]
        order = batches[0]["cls"].flatten()[batches[0]["batch_idx"].long()].argsort()
        images = batches[0]["img"][order]
        found.append((images, observe_gradients(detector, detector.trace_channels(), batches).scores()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-3)


def test_export_judges_by_name(related, knows, tmp_path, monkeypatch, capsys):
    relation, data = related
    monkeypatch.chdir(tmp_path)
    arguments = ["export", f"--model.weights={knows}", "--format=ckpt", f"--data.data={data}"]
    if relation in USABLE:
        main(arguments)
    else:
        assert "does not know" in refused(capsys, arguments)


FIT = ["fit", *SMALL, "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0", "--model.hyp.optimizer=AdamW"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """The last checkpoint of a fit of one epoch."""
    folder = tmp_path_factory.mktemp("begun")
    data = dataset(folder / "set", NAMES)
    main([*FIT, f"--data.data={data}", "--trainer.max_epochs=1", f"--project={folder / 'runs'}", "--name=mine"])
    return folder / "runs" / "mine" / "last.ckpt"


def test_a_fit_goes_on_with_the_same_classes_in_the_same_order_alone(related, begun, tmp_path, monkeypatch, capsys):
    relation, data = related
    monkeypatch.chdir(tmp_path)
    arguments = [*FIT, f"--data.data={data}", "--trainer.max_epochs=2", f"--ckpt_path={begun}"]
    if relation == "equal":
        main(arguments)
    else:
        assert "not the same in the same order" in refused(capsys, arguments)
        assert not Path("runs").exists()


def test_a_slim_run_without_a_baseline_needs_weights_that_know_the_classes(knows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = dataset(tmp_path / "set", RELATIONS["foreign"])
    arguments = ["slim", f"--data.data={data}", f"--model.weights={knows}", "--baseline.enabled=false", *SMALL]
    assert "does not know grey, black, white" in refused(capsys, arguments)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "key", ["model.weights", "ckpt_path", "data.data", "data.source", "name", "checkpoint.dirpath"]
)
@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_path_is_refused(tmp_path, monkeypatch, capsys, key, blank):
    monkeypatch.chdir(tmp_path)
    given = ["fit", "--data.data=shapes"] if key != "data.data" else ["fit"]
    assert "empty" in refused(capsys, [*given, f"--{key}={blank}"])
    if key in ("model.weights", "data.data"):
        given = ["--model.weights=x.ckpt"] if key == "data.data" else []
        assert "empty" in refused(capsys, ["prune", *given, f"--{key}={blank}"])
    assert not any(tmp_path.iterdir())


def test_the_image_size_of_a_checkpoint_is_the_default_of_every_verb(knows, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    data = dataset(tmp_path / "set", NAMES)
    seen = []

    def see(self, batch, batch_idx):
        seen.append(tuple(batch["img"].shape[2:]))

    for step in ("validation_step", "test_step", "predict_step"):
        monkeypatch.setattr(YOLODetector, step, see)
    for epoch_end in ("on_validation_epoch_end", "on_test_epoch_end"):
        monkeypatch.setattr(YOLODetector, epoch_end, lambda self: None)
    monkeypatch.setattr(
        "yolo_slim.detection.training.prediction_writer.PredictionWriter.on_predict_batch_end", lambda *a, **k: None
    )
    rest = [f"--data.data={data}", *SMALL[1:]]
    for verb in ("validate", "test", "predict"):
        for way in ("--ckpt_path", "--model.weights"):
            main([verb, f"{way}={knows}", *rest])
    assert set(seen) == {(64, 64)}
    caplog.clear()
    with caplog.at_level("INFO"):
        main(["validate", f"--ckpt_path={knows}", *rest, "--data.imgsz=96"])
    assert seen[-1] == (96, 96)
    assert "Images of 96 pixels are used" in caplog.text
    main(["prune", f"--model.weights={knows}", "--selection.ratio=0.1"])
    assert read_weights("runs/prune/slim.ckpt")[1] == 64


def test_a_data_module_alone_follows_the_detector(knows, tmp_path):
    data = YOLODataModule(str(dataset(tmp_path / "set", NAMES)), batch=2, workers=0)
    assert data.imgsz == 640
    detector = YOLODetector(weights=str(knows))
    trainer_for(tmp_path).validate(detector, data, verbose=False)
    assert data.imgsz == 64
