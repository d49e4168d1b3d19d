from __future__ import annotations

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.pruning import Importance, PruningPlan, Selection, apply_plan, profile, restore_structure, trace


class Slimmable(ToyClassifier):
    """Somebody's module with the one line that lets it load slim checkpoints."""

    def on_load_checkpoint(self, checkpoint):
        restore_structure(self, checkpoint)


def test_prunes_saves_and_reloads(tmp_path):
    module = Slimmable()
    torch.nn.init.uniform_(module.tail[1].weight)
    pruning = ChannelPruning(ratio=0.4, min_channels=2)
    toy_trainer(tmp_path, callbacks=[pruning]).fit(module, toy_loader())
    assert pruning.report.reached == pytest.approx(0.4, abs=0.05)
    assert module.gammas().numel() < 40

    images = torch.rand(2, 3, 8, 8)
    reloaded = Slimmable.load_from_checkpoint(tmp_path / "slim.ckpt").eval()
    assert torch.equal(reloaded(images), module.eval()(images))
    toy_trainer(tmp_path).validate(Slimmable(), toy_loader(), ckpt_path=tmp_path / "slim.ckpt", verbose=False)

    dense = ToyClassifier()
    apply_plan(dense, PruningPlan.load(tmp_path / "plan.yaml"))
    assert {k: v.shape for k, v in dense.state_dict().items()} == {k: v.shape for k, v in module.state_dict().items()}
    assert yaml.safe_load((tmp_path / "pruning.yaml").read_text())["asked"] == 0.4


def test_prunes_the_average(tmp_path):
    class Note(Callback):
        def on_train_end(self, trainer, pl_module):
            self.average = ema.average_model.head.bias.detach().clone()

    ema, note = WeightEMA(0.9, 5.0), Note()
    module = ToyClassifier()
    pruning = ChannelPruning(ratio=0.5, min_channels=2, compensation="none")  # a fold would change the bias
    toy_trainer(tmp_path, callbacks=[pruning, note, ema]).fit(module, toy_loader())
    assert torch.equal(module.head.bias, note.average)


def test_after_growing_the_prune_changes_nothing(tmp_path):
    """The sparse phase has made the channels dispensable: outputs before and after surgery agree."""
    module = ToyClassifier(momentum=0.9)
    sparsity = GammaSparsity(penalty="growing", ratio=0.5, min_channels=2)
    images = torch.rand(4, 3, 8, 8)

    class Before(Callback):
        def on_train_end(self, trainer, pl_module):
            with torch.no_grad():
                self.output = pl_module.eval()(images)

    before = Before()
    pruning = ChannelPruning(ratio=0.5, min_channels=2)
    toy_trainer(tmp_path, max_epochs=6, callbacks=[sparsity, before, pruning]).fit(module, toy_loader())
    assert pruning.report.parameters_after < 0.6 * pruning.report.parameters_before
    with torch.no_grad():
        assert torch.allclose(module.eval()(images), before.output, atol=1e-6)


def test_interrupted_fits_are_not_pruned(tmp_path):
    class Interrupt(Callback):
        def on_train_batch_end(self, *args):
            raise KeyboardInterrupt

    module = ToyClassifier()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        toy_trainer(tmp_path, callbacks=[ChannelPruning(ratio=0.5), Interrupt()]).fit(module, toy_loader())
    assert module.gammas().numel() == 40
    assert not (tmp_path / "slim.ckpt").exists()


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 3])
def test_ratio_out_of_range(ratio):
    with pytest.raises(MisconfigurationException, match="ratio"):
        ChannelPruning(ratio=ratio)


def test_a_pattern_that_matches_nothing_is_found_before_the_fit(tmp_path):
    module = ToyClassifier()
    with pytest.raises(MisconfigurationException, match="nothing"):
        toy_trainer(tmp_path, callbacks=[ChannelPruning(ignore=["nothing.*"])]).fit(module, toy_loader())
    assert torch.equal(module.gammas(), torch.ones(40))


def test_a_budget_is_met_at_the_size_of_the_example(tmp_path):
    module = ToyClassifier()
    dense = 2 * profile(module, module.example_input_array).macs
    pruning = ChannelPruning(selection=Selection(max_flops=0.5 * dense, min_channels=2))
    toy_trainer(tmp_path, callbacks=[pruning]).fit(module, toy_loader())
    left = 2 * profile(module, module.example_input_array).macs
    assert 0.45 * dense < left <= 0.5 * dense
    assert (pruning.report.flops_before, pruning.report.flops_after) == (dense, left)
    assert "FLOPs" in pruning.report.request


def test_a_budget_without_an_example_is_refused_before_the_fit(tmp_path):
    class Traced(ToyClassifier):
        def __init__(self):
            super().__init__()
            self.example, self.example_input_array = self.example_input_array, None

        def trace_channels(self):
            return trace(self, self.example)

    pruning = ChannelPruning(selection=Selection(max_flops=1e6))
    with pytest.raises(MisconfigurationException, match="1,000,000 FLOPs needs an input .* self.example_input_array"):
        toy_trainer(tmp_path, callbacks=[pruning]).fit(Traced(), toy_loader())


def test_taylor_sees_the_gradients_of_the_last_epoch(tmp_path):
    """Channels of the tail that the head does not read have no gradient, however large their gamma."""
    module = ToyClassifier()
    unread = [1, 4, 5, 11]
    with torch.no_grad():
        module.head.weight[:, unread] = 0
        module.tail[1].weight[unread] = 5.0
    module.head.weight.requires_grad_(False)
    pruning = ChannelPruning(selection=Selection(0.1, min_channels=2, round_to=1), importance=Importance("taylor"))
    toy_trainer(tmp_path, max_epochs=3, callbacks=[pruning]).fit(module, toy_loader())
    assert pruning.report.plan.entries["tail.1"]["out"] == [i for i in range(16) if i not in unread]
    assert list(pruning.report.plan.entries) == ["tail.0", "tail.1", "head"]


def test_constants_of_small_gammas_are_given_to_what_stays(tmp_path):
    outputs = {}
    images = torch.rand(4, 3, 8, 8)
    for compensation in ("none", "exact"):
        torch.manual_seed(0)
        module = ToyClassifier(lr=1e-6)
        with torch.no_grad():
            module.tail[1].weight[::2] = 1e-7
            module.tail[1].bias[::2] = 1.0
        pruning = ChannelPruning(selection=Selection(0.2, min_channels=2, round_to=1), compensation=compensation)
        before = module.eval()(images)
        toy_trainer(tmp_path, max_epochs=1, limit_train_batches=0, callbacks=[pruning]).fit(module, toy_loader())
        outputs[compensation] = float((module.eval()(images) - before).abs().max())
        assert len(module.tail[1].weight) == 8
    assert outputs["exact"] < 1e-5 < 1e-2 < outputs["none"]
    with pytest.raises(MisconfigurationException, match="compensation='some'"):
        ChannelPruning(compensation="some")
