"""When a growing set grows, by which gradients, and where it ends."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import GammaSparsity, WeightEMA
from yolo_slim.pruning import Choice, Selection, Taylor, trace
from yolo_slim.pruning.sparsity.growing import growing_share

GAMMAS = ("stem.1", "branch.1", "tail.1")


class Zeros(Callback):
    """The channels that are zero after each batch, in the module."""

    def __init__(self):
        self.sets = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        norms = [pl_module.get_submodule(name) for name in GAMMAS]
        gone = [torch.nonzero((norm.weight == 0) & (norm.bias == 0)).flatten().tolist() for norm in norms]
        self.sets.append({(name, channel) for name, found in zip(GAMMAS, gone, strict=True) for channel in found})

    @property
    def sizes(self):
        return [len(found) for found in self.sets]


def grow(tmp_path, epochs, images=80, extra=(), **settings):
    torch.manual_seed(0)
    module, zeros = ToyClassifier(lr=0.02, momentum=0.9), Zeros()
    sparsity = GammaSparsity("growing", selection=Selection(0.5, min_channels=2, round_to=1))
    callbacks = [WeightEMA(tau=3.0), sparsity, zeros, *extra]
    toy_trainer(tmp_path, max_epochs=epochs, callbacks=callbacks, **settings).fit(module, toy_loader(images))
    return module, zeros


@pytest.mark.parametrize("epochs", [1, 2, 6, 12])
def test_it_grows_within_the_first_third_and_never_gives_back(tmp_path, epochs):
    """20 batches an epoch: every fifth one at most, and the whole first epoch where there is no third of the fit."""
    module, zeros = grow(tmp_path, epochs)
    assert all(before <= after for before, after in zip(zeros.sets, zeros.sets[1:], strict=False))
    until = 20 * max(1, epochs // 3)
    assert zeros.sizes[until - 1] == zeros.sizes[-1] == 20
    grown = [i for i, (a, b) in enumerate(zip([0, *zeros.sizes], zeros.sizes, strict=False)) if b > a]
    assert len(grown) >= 4
    assert all((i + 1) % 5 == 0 for i in grown)
    assert sum(int((module.get_submodule(name).weight == 0).sum()) for name in GAMMAS) == 20


def test_each_time_the_gradients_since_the_last_time_rank(tmp_path):
    """The first ones that go are those that matter least in the first five steps."""
    graph_of = ToyClassifier()
    graph = trace(graph_of, graph_of.example_input_array)

    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 0:
                self.taylor = Taylor(pl_module, graph)
            if trainer.global_step < 5:
                self.taylor.observe()

    seen = Gradients()
    _, zeros = grow(tmp_path, 12, extra=[seen])
    first = next(found for found in zeros.sets if found)
    choice = Choice(graph, Selection(0.5, min_channels=2, round_to=1))
    choice.rank(seen.taylor.scores())
    choice.advance(growing_share(5 / 20 / 4))
    assert first == {
        (name, i) for name in GAMMAS for i in choice.chosen[graph.gammas[name]].nonzero().flatten().tolist()
    }


def test_no_layer_starves(tmp_path):
    """What is left takes over, and matters more for it: no layer is cut down to its floor."""
    module, _ = grow(tmp_path, 9)
    left = [int((module.get_submodule(name).weight != 0).sum()) for name in GAMMAS]
    assert min(left) > 2
    assert all(module.get_submodule(name).weight.abs().max() > 0.3 for name in GAMMAS)


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 3}, {"precision": "bf16-mixed"}])
def test_accumulation_and_mixed_precision(tmp_path, settings):
    _, zeros = grow(tmp_path, 6, **settings)
    assert zeros.sizes[39] == zeros.sizes[-1] == 20


def test_epochs_of_unknown_length_grow_at_their_ends(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(toy_loader(40).dataset)

    torch.manual_seed(0)
    module, zeros = ToyClassifier(lr=0.02), Zeros()
    callbacks = [GammaSparsity("growing", selection=Selection(0.5, min_channels=2, round_to=1)), zeros]
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    toy_trainer(tmp_path, max_epochs=6, callbacks=callbacks).fit(module, loader)
    assert [zeros.sizes[i] for i in (8, 18, 19)] == [0, zeros.sizes[9], 20]


def test_a_frozen_layer_keeps_its_channels(tmp_path):
    torch.manual_seed(0)
    module = ToyClassifier(lr=0.02)
    module.tail.requires_grad_(False)
    sparsity = GammaSparsity("growing", selection=Selection(0.5, min_channels=2, round_to=1))
    toy_trainer(tmp_path, max_epochs=6, callbacks=[sparsity]).fit(module, toy_loader(80))
    assert (module.tail[1].weight == 1).all()
    assert int((module.stem[1].weight == 0).sum()) == 6


@pytest.mark.parametrize("penalty", [{"penalty": "growing"}, {"penalty": "proximal", "choose": "taylor"}])
def test_the_steps_of_other_optimizers_say_nothing_of_channels(tmp_path, penalty):
    class Two(ToyClassifier):
        """Steps a part without BatchNorm by itself."""

        def __init__(self):
            super().__init__(lr=0.02)
            self.automatic_optimization = False
            self.critic = torch.nn.Linear(4, 1)

        def configure_optimizers(self):
            network = [p for name, p in self.named_parameters() if not name.startswith("critic")]
            return torch.optim.SGD(network, lr=0.02), torch.optim.SGD(self.critic.parameters(), lr=0.02)

        def training_step(self, batch, batch_idx):
            network, critic = self.optimizers()
            for optimizer, loss in (
                (critic, lambda: self.critic(self(batch[0]).detach()).square().mean()),
                (network, lambda: ToyClassifier.training_step(self, batch, batch_idx)),
            ):
                optimizer.zero_grad()
                self.manual_backward(loss())
                optimizer.step()

    torch.manual_seed(0)
    module = Two()
    sparsity = GammaSparsity(**penalty, strength=40.0, selection=Selection(0.5, min_channels=2, round_to=1))
    toy_trainer(tmp_path, max_epochs=6, callbacks=[sparsity]).fit(module, toy_loader(80))
    assert sum(int((module.get_submodule(name).weight == 0).sum()) for name in GAMMAS) == 20
