from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.detection.data.augmentation import Augmentation
from yolo_slim.detection.files.stock import save_ultralytics
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.detection.training.hyperparameters import Hyperparameters


class Gradients(Callback):
    """Keeps the gradient of every optimizer step; BatchNorm stays in eval, where a batch's split does not matter."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        found = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.steps.append(torch.cat(found).clone())


NETWORKS = pytest.mark.parametrize("model", ["yolov8n.yaml", "yolo26n.yaml"])


@NETWORKS
def test_gradient_does_not_depend_on_the_split(tmp_path, shapes_dir, model):
    """12 images: one batch, three accumulated batches, or six."""
    hyp = Hyperparameters(optimizer="SGD", lr0=1e-4, warmup_epochs=0, nbs=12)
    plain = Augmentation(mosaic=0, close_mosaic=0)
    steps = {}
    for batch in (12, 4, 2):
        data, watch = data_for(shapes_dir, batch=batch, augment=plain), Gradients()
        trainer_for(tmp_path, max_epochs=2, limit_val_batches=0, callbacks=[watch]).fit(
            detector_for(data, hyp=hyp, model=model), data
        )
        assert len(watch.steps) == 2
        steps[batch] = watch.steps
    for whole, four, two in zip(*steps.values(), strict=True):
        assert (four - whole).norm() < 1e-4 * whole.norm()
        assert (two - whole).norm() < 1e-4 * whole.norm()


@NETWORKS
def test_gradient_is_that_of_ultralytics_for_one_batch(tmp_path, shapes_dir, model):
    hyp = Hyperparameters(optimizer="SGD", lr0=1e-4, warmup_epochs=0, nbs=12)
    data, watch = data_for(shapes_dir, batch=12, augment=Augmentation(mosaic=0, close_mosaic=0)), Gradients()
    detector = detector_for(data, hyp=hyp, model=model)
    net = copy.deepcopy(detector.net)
    trainer_for(tmp_path, max_epochs=1, limit_val_batches=0, callbacks=[watch]).fit(detector, data)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    net.loss(batch)[0].sum().backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])
    assert (watch.steps[0] - expected).norm() < 1e-4 * expected.norm()


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        groups = {g["param_group"]: g for g in trainer.optimizers[0].param_groups}
        self.seen.append((trainer.accumulate_grad_batches, groups["bias"]["lr"], groups["weight"]["lr"]))


def test_warm_up_accumulation_and_weight_decay(tmp_path, shapes_dir):
    hyp = Hyperparameters(optimizer="SGD", lr0=0.001, warmup_epochs=1, warmup_bias_lr=0.01, nbs=12)
    data, rates = data_for(shapes_dir), Rates()
    trainer = trainer_for(tmp_path, max_epochs=3, limit_val_batches=0, callbacks=[rates])
    trainer.fit(detector_for(data, hyp=hyp), data)
    accumulate, bias, weight = zip(*rates.seen, strict=True)
    assert accumulate[0] == 1
    assert accumulate[3:] == (3,) * 6
    assert (bias[0], weight[0]) == (0.01, 0.0)
    assert bias[3:5] == weight[3:5] == pytest.approx((0.001 * (2 / 3 * 0.99 + 0.01),) * 2)
    assert bias[6:8] == weight[6:8] == pytest.approx((0.001 * (1 / 3 * 0.99 + 0.01),) * 2)
    assert trainer.accumulate_grad_batches == 1
    groups = {g["param_group"]: g for g in trainer.optimizers[0].param_groups}
    assert [groups[k]["weight_decay"] for k in ("weight", "bn", "bias")] == [0.0005, 0, 0]


def test_straight_run_equals_interrupted_and_resumed(tmp_path, shapes_dir):
    class StopAfter(Callback):
        def __init__(self, epochs):
            self.epochs = epochs

        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch + 1 >= self.epochs

    def fit(stop, folder, resume=None):
        data = data_for(shapes_dir, augment=Augmentation(close_mosaic=1))
        hyp = Hyperparameters(optimizer="SGD", lr0=0.001, warmup_epochs=1, nbs=8)
        sparsity = GammaSparsity(penalty="growing", ratio=0.5)
        saver = ModelCheckpoint(dirpath=folder, save_last=True)
        parts = [WeightEMA(), sparsity, saver, StopAfter(stop)]
        trainer = trainer_for(tmp_path, max_epochs=4, enable_checkpointing=True, callbacks=parts)
        detector = detector_for(data, hyp=hyp)
        trainer.fit(detector, data, ckpt_path=resume)
        return detector.state_dict(), trainer.callback_metrics["val/map"]

    straight, score = fit(4, tmp_path / "straight")
    fit(2, tmp_path / "first")
    resumed, again = fit(4, tmp_path / "second", tmp_path / "first" / "last.ckpt")
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)
    assert score == again


@pytest.fixture(scope="module")
def slim_folder(tmp_path_factory, shapes_dir):
    folder = tmp_path_factory.mktemp("slim")
    data = data_for(shapes_dir)
    pruning = ChannelPruning(ratio=0.5)
    saver = ModelCheckpoint(dirpath=folder, filename="dense")
    detector = detector_for(data, hyp=Hyperparameters(optimizer="AdamW", lr0=1e-3, nbs=4))
    trainer_for(folder, max_epochs=1, enable_checkpointing=True, callbacks=[saver, WeightEMA(), pruning]).fit(
        detector, data
    )
    return folder, detector


def test_slim_checkpoint_goes_everywhere(tmp_path, shapes_dir, slim_folder):
    folder, detector = slim_folder
    images, data = torch.rand(1, 3, 64, 64), data_for(shapes_dir)
    expected = detector.eval()(images)
    sizes = [p.shape for p in detector.parameters()]
    assert sum(p.numel() for p in detector.parameters()) < 0.6 * 3.0e6

    loaded = YOLODetector.load_from_checkpoint(folder / "slim.ckpt").eval()
    assert torch.equal(loaded(images), expected)

    started = YOLODetector(weights=str(folder / "slim.ckpt"), names=data.names).eval()
    assert torch.equal(started(images), expected)

    dense_built = detector_for(data)
    trainer_for(tmp_path).validate(dense_built, data, ckpt_path=folder / "slim.ckpt", verbose=False)
    assert torch.equal(dense_built.eval()(images), expected)

    # Finetuned, saved, resumed: never grows back.
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    hyp = Hyperparameters(optimizer="AdamW", lr0=1e-3, nbs=4)
    trainer = trainer_for(tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=[WeightEMA(), saver])
    trainer.fit(YOLODetector(weights=str(folder / "slim.ckpt"), names=data.names, hyp=hyp), data)
    resumed = detector_for(data, hyp=hyp)
    trainer = trainer_for(tmp_path, max_epochs=2, callbacks=[WeightEMA()])
    trainer.fit(resumed, data, ckpt_path=tmp_path / "last.ckpt")
    assert [p.shape for p in resumed.parameters()] == sizes


def test_slim_weights_meet_other_classes(slim_folder):
    folder, detector = slim_folder
    other = YOLODetector(weights=str(folder / "slim.ckpt"), names={0: "plate"})
    assert other.eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5, 84)
    widths = [m.out_channels for m in other.net.modules() if isinstance(m, nn.Conv2d)]
    slim = [m.out_channels for m in detector.net.modules() if isinstance(m, nn.Conv2d)]
    assert [a for a, b in zip(widths, slim, strict=True) if a != b] == [1, 1, 1]
    rebuilt = YOLODetector(names={0: "plate"})
    checkpoint = {"hyper_parameters": dict(other.hparams), "state_dict": other.state_dict()}
    rebuilt.on_load_checkpoint(checkpoint)
    rebuilt.load_state_dict(checkpoint["state_dict"])


def test_ultralytics_file_goes_both_ways(tmp_path, slim_folder):
    _, detector = slim_folder
    save_ultralytics(detector.net, tmp_path / "slim.pt", imgsz=64)
    images = torch.rand(1, 3, 64, 64)
    back = YOLODetector(model=str(tmp_path / "slim.pt")).eval()
    assert torch.allclose(back(images), detector.eval()(images), rtol=0.05, atol=0.5)  # saved in half precision
    assert [p.shape for p in back.parameters()] == [p.shape for p in detector.parameters()]


def test_a_validated_detector_can_be_fitted(tmp_path, shapes_dir):
    data = data_for(shapes_dir)
    detector = YOLODetector(names=data.names, imgsz=64, hyp=Hyperparameters(optimizer="SGD", nbs=4))
    before = [p.detach().clone() for p in detector.parameters()]
    trainer_for(tmp_path).validate(detector, data, verbose=False)
    trainer_for(tmp_path, max_epochs=1).fit(detector, data)
    assert any(not torch.equal(b, p) for b, p in zip(before, detector.parameters(), strict=True))


class StepsTaken(Callback):
    """Epoch, rates and momenta of every optimizer step: as planned before the first one, and as taken."""

    def __init__(self):
        self.planned, self.taken = [], []

    def on_train_start(self, trainer, pl_module):
        self.planned = [(epoch, self._values(groups)) for epoch, groups in pl_module.planned_steps()]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.taken.append((trainer.current_epoch, self._values(optimizer.param_groups)))

    @staticmethod
    def _values(groups):
        return [(group["lr"], group["momentum"]) for group in groups]


@pytest.mark.parametrize(("nbs", "warmup"), [(2, 0.0), (6, 0.0), (6, 1.0), (2, 1.5)])
def test_the_steps_to_come_are_foreseen(tmp_path, shapes_dir, nbs, warmup):
    data, steps = data_for(shapes_dir, batch=2), StepsTaken()
    detector = YOLODetector(names=data.names, hyp=Hyperparameters(optimizer="SGD", nbs=nbs, warmup_epochs=warmup))
    trainer_for(tmp_path, max_epochs=3, callbacks=[steps], limit_val_batches=0).fit(detector, data)
    assert [epoch for epoch, _ in steps.planned] == [epoch for epoch, _ in steps.taken]
    for (_, planned), (_, taken) in zip(steps.planned, steps.taken, strict=True):
        assert planned == [pytest.approx(pair) for pair in taken]
    assert len({values[0] for _, values in steps.taken}) > 2


def test_other_number_of_classes_is_refused(tmp_path, shapes_dir, slim_folder):
    folder, _ = slim_folder
    data = data_for(shapes_dir, single_cls=True)
    with pytest.raises(ValueError, match="the checkpoint does not know item of the data.s classes"):
        trainer_for(tmp_path).validate(YOLODetector(names=data.names), data, ckpt_path=folder / "slim.ckpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a checkpoint", "no checkpoint at all"),
        (b"<html>404</html>", "no checkpoint at all"),
    ],
)
@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_bad_weights_files(tmp_path, content, message, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        YOLODetector(weights=str(file))


def test_missing_and_foreign_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        YOLODetector(weights=str(tmp_path / "nothing.ckpt"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        YOLODetector(model=str(tmp_path / "nothing.pt"))
    torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="another project"):
        YOLODetector(weights=str(tmp_path / "foreign.ckpt"))


class Runs:
    """A gadget: opening it as an ordinary pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_opening_a_file_runs_nothing(tmp_path, suffix):
    torch.save({"model": Runs(tmp_path / "ran"), "state_dict": {}}, tmp_path / f"gadget{suffix}")
    with pytest.raises(ValueError, match="wants _?io.open"):
        YOLODetector(weights=str(tmp_path / f"gadget{suffix}"))
    assert not (tmp_path / "ran").exists()
