"""A damaged training state is refused in one line before the first step, whatever is wrong with it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.helpers.detectors import data_for, detector_for, trainer_for
from yolo_slim.callbacks import GammaSparsity, WeightEMA
from yolo_slim.detection.files.checkpoints import check_resumable
from yolo_slim.detection.training.hyperparameters import Hyperparameters


def hyp(**settings) -> Hyperparameters:
    return Hyperparameters(**{"optimizer": "AdamW", "nbs": 4, "warmup_epochs": 0, **settings})


def fit(folder: Path, shapes_dir, epochs: int, resume=None, **settings):
    data = data_for(shapes_dir)
    detector = detector_for(data, hyp=hyp(**settings))
    callbacks = [
        WeightEMA(),
        GammaSparsity("growing"),
        ModelCheckpoint(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True),
    ]
    trainer = trainer_for(
        folder,
        max_epochs=epochs,
        limit_train_batches=2,
        limit_val_batches=0,
        enable_checkpointing=True,
        callbacks=callbacks,
    )
    trainer.fit(detector, datamodule=data, ckpt_path=None if resume is None else str(resume))
    return detector


@pytest.fixture(scope="module")
def state(tmp_path_factory, shapes_dir) -> dict:
    folder = tmp_path_factory.mktemp("state")
    fit(folder, shapes_dir, 2)
    return torch.load(folder / "last.ckpt", weights_only=True)


def saver_of(checkpoint: dict) -> dict:
    return next(state for name, state in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint"))


def weight(checkpoint: dict) -> str:
    return next(name for name in checkpoint["current_model_state"] if name.endswith("conv.weight"))


#: What is done to a sound checkpoint, by what it then is.
DAMAGES = {
    "no loops": lambda c: c.pop("loops"),
    "loops of text": lambda c: c.update(loops="x"),
    "no fit loop": lambda c: c.update(loops={}),
    "a count of text": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(completed="x"),
    "a count below zero": lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(completed=-1),
    "a progress of text": lambda c: c["loops"]["fit_loop"].update(epoch_progress="x"),
    "an epoch of text": lambda c: c.update(epoch="x"),
    "an epoch without end": lambda c: c.update(epoch=2**200),
    "no steps": lambda c: c.pop("global_step"),
    "a version of another kind": lambda c: c.update({"pytorch-lightning_version": [1]}),
    "a version that is none": lambda c: c.update({"pytorch-lightning_version": "x" * 1000}),
    "no optimizer": lambda c: c.update(optimizer_states=[]),
    "an optimizer of text": lambda c: c.update(optimizer_states=["x"]),
    "two optimizers": lambda c: c.update(optimizer_states=c["optimizer_states"] * 2),
    "an optimizer of other tensors": lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(1, 2)),
    "an optimizer that is not finite": lambda c: c["optimizer_states"][0]["state"][0]["exp_avg"].fill_(torch.nan),
    "no scheduler": lambda c: c.update(lr_schedulers=[]),
    "a scheduler of text": lambda c: c.update(lr_schedulers=["x"]),
    "a scheduler of another kind": lambda c: c["lr_schedulers"][0].update(step="x"),
    "a rate that is no number": lambda c: c["lr_schedulers"][0].update(base_lrs=[float("nan")] * 3),
    "callbacks of text": lambda c: c.update(callbacks="x"),
    "a callback's state of text": lambda c: c["callbacks"].update({next(iter(saver_keys(c))): "x"}),
    "scores of text": lambda c: saver_of(c).update(best_k_models="x"),
    "an average of other weights": lambda c: c["current_model_state"].pop(weight(c)),
    "an average of other shapes": lambda c: c["current_model_state"].update({weight(c): torch.zeros(1)}),
    "an average that is not finite": lambda c: c["current_model_state"][weight(c)].fill_(torch.inf),
    "an average's count of text": lambda c: c.update(averaging_state={"n_averaged": "x"}),
    "a sparse phase of text": lambda c: c["callbacks"].update(GammaSparsity="x"),
    "a sparse phase without its part": lambda c: c["callbacks"].update(GammaSparsity={"growing": {}}),
    "a sparse phase of other channels": lambda c: c["callbacks"]["GammaSparsity"]["growing"].update(
        chosen=torch.zeros(3, dtype=torch.bool)
    ),
    "a sparse phase of other layers": lambda c: c["callbacks"]["GammaSparsity"]["growing"].update(scores=["x"]),
    "an importance that is not finite": lambda c: c["callbacks"]["GammaSparsity"]["growing"]["scores"].fill_(torch.nan),
    "a pace of text": lambda c: c["callbacks"]["GammaSparsity"].update(pace="x"),
    "steps of text": lambda c: c["callbacks"]["GammaSparsity"].update(epoch_steps="x"),
}


def saver_keys(checkpoint: dict) -> list[str]:
    return [name for name in checkpoint["callbacks"] if name.startswith("ModelCheckpoint")]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_state_is_refused_in_one_line(state, shapes_dir, tmp_path, name):
    damaged = copy.deepcopy(state)
    DAMAGES[name](damaged)
    file = tmp_path / "damaged.ckpt"
    torch.save(damaged, file)

    def go_on() -> None:
        check_resumable(file)
        fit(tmp_path, shapes_dir, 3, file)

    with pytest.raises(Exception, match="damaged|no state of a training|another model") as stop:
        go_on()
    assert type(stop.value).__name__ in ("ValueError", "MisconfigurationException")
    assert "\n" not in str(stop.value)
    assert len(str(stop.value)) < 500
    assert any(words in str(stop.value) for words in ("take another checkpoint", "start a new training"))


def test_a_longer_fit_goes_on_at_its_own_rates(state, shapes_dir, tmp_path):
    """Its schedule holds from the first step, not from the second epoch on."""
    file = tmp_path / "finished.ckpt"
    torch.save(state, file)
    seen = []

    class Rates(ModelCheckpoint):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append((trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"]))

    data = data_for(shapes_dir)
    detector = detector_for(data, hyp=hyp())
    settings = {"limit_train_batches": 2, "limit_val_batches": 0, "enable_checkpointing": True}
    trainer = trainer_for(tmp_path, max_epochs=6, callbacks=[WeightEMA(), Rates(tmp_path)], **settings)
    trainer.fit(detector, datamodule=data, ckpt_path=str(file))
    expected = {epoch: detector.hyp.lr0 * detector.hyp.rate_factor(epoch, 6) for epoch in range(2, 6)}
    assert [rate for _, rate in seen] == pytest.approx([expected[epoch] for epoch, _ in seen])
    assert [epoch for epoch, _ in seen] == [2, 2, 3, 3, 4, 4, 5, 5]


def test_auto_goes_on_with_the_optimizer_of_the_checkpoint_and_another_is_named(state, shapes_dir, tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save(state, file)
    with pytest.raises(ValueError, match="has been trained with AdamW, and hyp.optimizer is SGD: go on with"):
        fit(tmp_path, shapes_dir, 3, file, optimizer="SGD")
    detector = fit(tmp_path, shapes_dir, 3, file, optimizer="auto")
    assert type(detector.optimizers().optimizer).__name__ == "AdamW"
