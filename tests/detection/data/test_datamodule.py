from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from yolo_slim.detection.data import datamodule as data_module
from yolo_slim.detection.data import shapes
from yolo_slim.detection.data.augmentation import Augmentation
from yolo_slim.detection.data.datamodule import YOLODataModule

PLAIN = dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mosaic"), 0.0)


@pytest.fixture(autouse=True)
def _unseeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def module(root: Path, **options: Any) -> YOLODataModule:
    return YOLODataModule(str(root / "data.yaml"), **{"imgsz": 64, "batch": 4, "workers": 0, **options})


def fitted(root: Path, **options: Any) -> YOLODataModule:
    data = module(root, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def epoch_of(data: YOLODataModule, epoch: int) -> list[dict[str, Any]]:
    """The batches of one epoch, made as Lightning makes them: an iterator first, the epoch's number after it."""
    loader = data.train_dataloader()
    batches = iter(loader)
    loader.sampler.set_epoch(epoch)
    return list(batches)


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a["im_file"] == b["im_file"] for a, b in pairs) and all(
        torch.equal(a[key], b[key]) for a, b in pairs for key in ("img", "bboxes", "cls", "batch_idx")
    )


def test_names_need_no_images(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("{train: nowhere, val: nowhere, names: [cat, dog]}")
    assert module(tmp_path).names == {0: "cat", 1: "dog"}
    assert module(tmp_path, single_cls=True).names == {0: "item"}
    assert YOLODataModule("shapes").names == dict(enumerate(shapes.CLASSES))
    assert len(YOLODataModule("coco128.yaml").names) == 80


def test_shapes_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes_dir: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shapes, "generate_shapes", lambda root: shutil.copytree(shapes_dir, root))
    data = YOLODataModule("shapes", imgsz=64)
    data.prepare_data()
    data.setup("validate")
    assert len(data.datasets["val"]) == 6
    assert (tmp_path / "datasets/shapes/data.yaml").is_file()


def test_batches(shapes_copy: Path) -> None:
    data = fitted(shapes_copy)
    for loader, total in ((data.train_dataloader(), 12), (data.val_dataloader(), 6)):
        batches = list(loader)
        files = [file for batch in batches for file in batch["im_file"]]
        assert len(files) == len(set(files)) == total
        assert batches[0]["img"].shape == (4, 3, 64, 64)
        assert batches[0]["img"].dtype == torch.uint8
    raw = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    batch = data.on_after_batch_transfer({"img": raw.contiguous()}, 0)
    assert batch["img"][1, :, 3, 4].tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_labels_match_the_files(shapes_copy: Path) -> None:
    data = module(shapes_copy, single_cls=True)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    rows = np.array([line.split() for line in (shapes_copy / "labels/val/00000.txt").read_text().splitlines()], float)
    boxes = batch["bboxes"][batch["batch_idx"] == 0].numpy()
    np.testing.assert_allclose(np.sort(boxes, 0), np.sort(rows[:, 1:], 0), atol=1e-5)
    assert set(batch["cls"].flatten().tolist()) == {0.0}


def test_test_split_falls_back_to_val_with_a_warning(shapes_copy: Path) -> None:
    data = module(shapes_copy)
    with pytest.warns(UserWarning, match="has no test images: the val images are used instead"):
        data.setup("test")
    assert len(list(data.test_dataloader())) == 2


def test_test_split_is_used_where_there_is_one(shapes_copy: Path) -> None:
    with (shapes_copy / "data.yaml").open("a") as file:
        file.write("test: images/train\n")
    data = module(shapes_copy)
    data.setup("test")
    assert len(data.datasets["test"]) == 12


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_epoch_depends_on_seed_and_number_alone(shapes_copy: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    straight = fitted(shapes_copy, augment=Augmentation(mixup=0.5, cutmix=0.5), cache=cache)
    earlier = [epoch_of(straight, epoch) for epoch in range(3)]
    third = epoch_of(straight, 3)
    assert not same(earlier[0], earlier[1])
    for workers in (0, 2):
        random.seed(workers)
        np.random.seed(workers)
        resumed = fitted(shapes_copy, workers=workers, augment=Augmentation(mixup=0.5, cutmix=0.5), cache=cache)
        assert same(epoch_of(resumed, 3), third)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not same(epoch_of(fitted(shapes_copy), 3), third)


def by_file(batches: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {file: image for batch in batches for file, image in zip(batch["im_file"], batch["img"], strict=True)}


def test_each_epoch_augments_anew(shapes_copy: Path) -> None:
    data = fitted(shapes_copy)
    first, second = by_file(epoch_of(data, 0)), by_file(epoch_of(data, 1))
    assert not any(torch.equal(first[file], second[file]) for file in first)
    data.on_epoch_start(0, max_epochs=99)
    again = by_file(list(data.train_dataloader()))
    assert all(torch.equal(first[file], again[file]) for file in first)


def test_loading_leaves_the_generators_alone(shapes_copy: Path) -> None:
    data = fitted(shapes_copy)
    python_state, numpy_state = random.getstate(), np.random.get_state()[1].tolist()
    epoch_of(data, 0)
    assert random.getstate() == python_state
    assert np.random.get_state()[1].tolist() == numpy_state


def test_images_kept_in_memory_are_not_changed(shapes_copy: Path) -> None:
    data = fitted(shapes_copy, augment=Augmentation(**{**PLAIN, "hsv_v": 0.9}))
    assert same(epoch_of(data, 1), epoch_of(data, 1))


class Recorder(L.LightningModule):
    """Trains one number and keeps the sum of every image of every epoch."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight, self.fail_at = nn.Parameter(torch.zeros(1)), fail_at
        self.seen: dict[int, list[float]] = {}

    def on_train_epoch_start(self) -> None:
        self.trainer.datamodule.on_epoch_start(self.current_epoch, self.trainer.max_epochs)  # type: ignore[attr-defined]

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        if self.current_epoch == self.fail_at:
            raise KeyboardInterrupt
        self.seen.setdefault(self.current_epoch, []).extend(batch["img"].double().sum((1, 2, 3)).tolist())
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any]) -> None:
        self.log("score", 0.0, batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(recorder: Recorder, data: YOLODataModule, folder: Path, resume: Path | None = None, **options: Any) -> None:
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"num_sanity_val_steps": 0, **options},
    )
    trainer.fit(recorder, data, ckpt_path=resume)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("workers", "on_train_end"), [(0, True), (2, True), (2, False)])
def test_resumed_fit_sees_what_a_straight_one_sees(
    shapes_copy: Path, tmp_path: Path, workers: int, on_train_end: bool
) -> None:
    augment = Augmentation(close_mosaic=1)
    straight = Recorder()
    fit(straight, module(shapes_copy, workers=workers, augment=augment), tmp_path, enable_checkpointing=False)

    saver = L.pytorch.callbacks.ModelCheckpoint(
        tmp_path / "saved", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=on_train_end
    )
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Recorder(fail_at=2), module(shapes_copy, workers=workers, augment=augment), tmp_path, callbacks=[saver])
    resumed = Recorder()
    checkpoint = tmp_path / "saved" / "epoch=1.ckpt"
    fit(
        resumed,
        module(shapes_copy, workers=workers, augment=augment),
        tmp_path,
        resume=checkpoint,
        enable_checkpointing=False,
    )
    assert sorted(straight.seen) == [0, 1, 2]
    assert resumed.seen == {2: straight.seen[2]}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_mosaic_is_off_in_the_last_epochs_of_each_fit(shapes_copy: Path, tmp_path: Path, workers: int) -> None:
    data = module(shapes_copy, workers=workers, augment=Augmentation(**{**PLAIN, "mosaic": 1.0}, close_mosaic=2))
    for _ in range(2):
        recorder = Recorder()
        fit(recorder, data, tmp_path, enable_checkpointing=False)
        plain = fitted(shapes_copy, augment=Augmentation(**PLAIN))
        images = sorted(float((b["img"].float() / 255).double().sum()) for b in epoch_images(plain))
        for epoch, closed in ((0, False), (1, True), (2, True)):
            assert (sorted(recorder.seen[epoch]) == pytest.approx(images)) is closed


def epoch_images(data: YOLODataModule) -> Iterator[dict[str, torch.Tensor]]:
    for batch in epoch_of(data, 0):
        for image in batch["img"]:
            yield {"img": image}


def test_every_image_is_evaluated_by_one_process(shapes_copy: Path) -> None:
    shares = []
    for rank in range(4):
        data = module(shapes_copy)
        data.trainer = SimpleNamespace(world_size=4, global_rank=rank, num_devices=1)  # type: ignore[assignment]
        data.setup("fit")
        shares.append([file for batch in data.val_dataloader() for file in batch["im_file"]])
        assert len(data.train_dataloader().sampler) == 3  # type: ignore[arg-type]
    files = [file for share in shares for file in share]
    assert len(files) == len(set(files)) == 6
    data.trainer = SimpleNamespace(world_size=7, global_rank=0, num_devices=1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="6 val images do not suffice for 7 processes"):
        data.val_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 100}, "imgsz=100 is not a positive multiple of 32 up to 8192: use for example 96"),
        ({"imgsz": 0}, "imgsz=0 is not"),
        ({"batch": 0}, "batch=0"),
        ({"workers": -1}, "workers=-1"),
        ({"cache": "tape"}, "'tape' is unknown"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YOLODataModule("shapes", **options)


@pytest.mark.parametrize("wrong", [{"fliplr": 1.5}, {"degrees": -1}, {"degrees": 181}, {"close_mosaic": -1}])
def test_augmentation_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"augment.{next(iter(wrong))}="):
        Augmentation(**wrong)


def test_augmentation_has_the_defaults_of_ultralytics() -> None:
    for name, value in vars(Augmentation()).items():
        assert getattr(data_module.DEFAULT_CFG, name) == value
