"""Which layers, images and classes a fit is about, and at which sizes, by the settings of Ultralytics' users."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import GammaSparsity
from yolo_slim.detection.data.augmentation import Augmentation
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.training.hyperparameters import Hyperparameters

BAD_LAYERS = [
    (99, "no layer 23"),
    ([-1], "no layer -1"),
    (["22.cv9"], "no layer 22.cv9"),
    (23, "leaves nothing to train"),
]


@pytest.mark.parametrize("layers", [10, [0, 2, "22.cv2"]])
def test_frozen_layers_stay_as_they_are(tmp_path, shapes_dir, layers):
    data = data_for(shapes_dir)
    hyp = Hyperparameters(optimizer="SGD", lr0=0.01, warmup_epochs=0, nbs=4, freeze=layers)
    detector = detector_for(data, hyp=hyp)
    before = {name: value.clone() for name, value in detector.net.state_dict().items()}
    sparsity = GammaSparsity("proximal", 0.1, ratio=0.5)
    trainer_for(tmp_path, max_epochs=2, limit_val_batches=1, callbacks=[sparsity]).fit(detector, data)
    still = tuple(f"model.{name}." for name in (range(layers) if isinstance(layers, int) else layers))
    moved = {name for name, value in detector.net.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith(still) or ".dfl" in name}
    others = {name for name in before if "bn.running_mean" in name and not name.startswith(still)}
    assert others <= moved
    assert {name.replace("running_mean", "weight") for name in others} & moved


@pytest.mark.parametrize(("layers", "message"), BAD_LAYERS)
def test_layers_that_cannot_be_frozen(layers, message):
    with pytest.raises(ValueError, match=rf"hyp\.freeze=.*{message}"):
        YOLODetector(hyp=Hyperparameters(freeze=layers))


def test_a_share_of_the_training_images(shapes_dir):
    data = data_for(shapes_dir, fraction=0.5)
    data.setup("fit")
    assert [len(data.datasets[split]) for split in ("train", "val")] == [6, 6]
    with pytest.raises(ValueError, match=r"data\.fraction=0 is out of range"):
        data_for(shapes_dir, fraction=0)


def test_labels_of_some_classes(shapes_dir):
    every, some = data_for(shapes_dir), data_for(shapes_dir, classes=[1, 3])
    for data in (every, some):
        data.setup("fit")
    for split in ("train", "val"):
        wanted = [label["cls"][(label["cls"] == 1) | (label["cls"] == 3)] for label in every.datasets[split].labels]
        found = [label["cls"][:, 0] for label in some.datasets[split].labels]
        assert [list(part) for part in found] == [list(part) for part in wanted]
    with pytest.raises(ValueError, match=r"data\.classes=\[7\]: the data has no class 7"):
        data_for(shapes_dir, classes=[7]).setup("fit")


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yolo26n.yaml"])
def test_rare_classes_weigh_more(tmp_path, shapes_dir, model):
    data = data_for(shapes_dir, batch=12)
    detector = detector_for(data, model=model, hyp=Hyperparameters(cls_pw=0.5))
    trainer_for(tmp_path, max_epochs=1, num_sanity_val_steps=1).fit(detector, data)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    labels = np.concatenate([label["cls"][:, 0] for label in data.datasets["train"].labels])
    rarity = np.bincount(labels.astype(int), minlength=5).clip(1) ** -0.5
    detector.net.class_weights = torch.from_numpy(rarity / rarity.mean())  # as Ultralytics' trainer sets it
    outputs = detector.net.train()(batch["img"])
    expected = detector.net.init_criterion()(outputs, batch)[0]
    losses, _, _ = detector._loss(outputs, batch)
    assert rarity.std() > 0.01
    torch.testing.assert_close(losses.sum(0), expected.float(), rtol=1e-5, atol=1e-6)


def test_classes_of_other_data_cannot_be_weighed(tmp_path, shapes_dir):
    data = data_for(shapes_dir)
    data.setup("fit")
    detector = detector_for(data, hyp=Hyperparameters(cls_pw=0.5))
    with pytest.raises(MisconfigurationException, match=r"hyp\.cls_pw counts the labels"):
        trainer_for(tmp_path, max_epochs=1).fit(detector, data.train_dataloader())


class Sides(Callback):
    def __init__(self):
        self.trained, self.validated = [], set()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.trained.append(tuple(batch["img"].shape[2:]))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.add(tuple(batch["img"].shape[2:]))


def test_sizes_are_drawn_by_the_seed_and_the_batch_alone(tmp_path, shapes_dir):
    def sides(epochs, resume=None):
        watch = Sides()
        data = data_for(shapes_dir, imgsz=128, augment=Augmentation(multi_scale=0.5))
        trainer = trainer_for(tmp_path, max_epochs=4, limit_val_batches=1, callbacks=[watch])
        trainer.fit_loop.max_epochs = epochs
        trainer.fit(detector_for(data), data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return watch

    straight = sides(4)
    assert {width for width, _ in straight.trained} == {64, 96, 128, 160, 192}
    assert all(height == width for height, width in straight.trained)
    assert straight.validated == {(128, 128)}
    first = sides(2)
    rest = sides(4, tmp_path / "last.ckpt")
    assert first.trained + rest.trained == straight.trained
