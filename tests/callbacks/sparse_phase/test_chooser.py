"""The channels of a sparse phase are chosen once: on plain images where the module has some, else in training."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from tests.helpers.toy_module import ToyClassifier, toy_loader, toy_trainer
from yolo_slim.callbacks import ChannelPruning, GammaSparsity, WeightEMA
from yolo_slim.pruning import Importance, Selection, Taylor, select, trace, train_but_statistics

pytestmark = pytest.mark.filterwarnings("ignore:GammaSparsity")
LOOKS: list[int] = []
GAMMAS = ("stem.1", "branch.1", "tail.1")


class Plain(ToyClassifier):
    """Knows images that are not those of its training."""

    def __init__(self, batches=3, **settings):
        super().__init__(**settings)
        generator = torch.Generator().manual_seed(7)
        self.plain = [
            (torch.randn(8, 3, 8, 8, generator=generator), torch.randint(0, 4, (8,), generator=generator))
            for _ in range(batches)
        ]

    def plain_losses(self):
        LOOKS.append(1)
        torch.rand(3)  # whatever a loader draws
        return (nn.functional.cross_entropy(self(images), labels) for images, labels in self.plain)


def module_of(kind=Plain, seed=0, **settings):
    torch.manual_seed(seed)
    LOOKS.clear()
    module = kind(**settings)
    for norm in (module.stem[1], module.branch[1], module.tail[1]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return module


def chosen_by_hand(module, selection, batches):
    """What a Taylor prune of the module as it is would take."""
    module = copy.deepcopy(module)
    graph, taylor = trace(module, module.example_input_array), Taylor(module, graph_of(module))
    train_but_statistics(module)
    for images, labels in batches:
        module.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        taylor.observe()
    dropped = select(graph, taylor.scores(), selection).dropped
    return {name: dropped[graph.gammas[name]] for name in GAMMAS}


def graph_of(module):
    return trace(module, module.example_input_array)


def gammas(module):
    return {name: module.get_submodule(name).weight.detach().clone() for name in GAMMAS}


def sparsity(penalty, **settings):
    strength = {} if penalty == "growing" else {"strength": "auto", "choose": "taylor"}
    return GammaSparsity(penalty, selection=Selection(0.4, min_channels=2, round_to=1), **strength, **settings)


@pytest.mark.parametrize("penalty", ["proximal", "subgradient"])
def test_what_a_taylor_prune_would_take_fades_and_nothing_else(tmp_path, penalty):
    module = module_of(lr=0.01)
    expected = chosen_by_hand(module, Selection(0.4, min_channels=2, round_to=1), module.plain)
    toy_trainer(tmp_path, max_epochs=15, callbacks=[sparsity(penalty)]).fit(module, toy_loader())
    found = gammas(module)
    for name in GAMMAS:
        assert (found[name][expected[name]].abs() < 0.02).all()
        assert (found[name][~expected[name]].abs() > 0.3).all()
    assert sum(int(chosen.sum()) for chosen in expected.values()) >= 10
    assert len(LOOKS) == 1


@pytest.mark.parametrize("penalty", ["proximal", "growing"])
def test_the_prune_takes_what_was_chosen(tmp_path, penalty):
    module, outputs = module_of(lr=0.01), []

    class Before(Callback):
        def on_train_end(self, trainer, pl_module):
            outputs.append(pl_module.eval()(torch.ones(1, 3, 8, 8)))
            pl_module.train()

    pruning = ChannelPruning(selection=Selection(0.4, min_channels=2, round_to=1))
    callbacks = [WeightEMA(), sparsity(penalty, beta_strength=0.0), pruning, Before()]
    toy_trainer(tmp_path, max_epochs=15, callbacks=callbacks).fit(module, toy_loader())
    assert pruning.report.reached == pytest.approx(0.4, abs=0.06)
    assert torch.allclose(module.eval()(torch.ones(1, 3, 8, 8)), outputs[0], atol=1e-5)


@pytest.mark.parametrize("penalty", ["proximal", "subgradient"])
@pytest.mark.parametrize("kind", [ToyClassifier, "none today"])
def test_without_plain_images_the_first_epoch_tells(tmp_path, penalty, kind):
    class NoneToday(Plain):
        def plain_losses(self):
            return None

    module = module_of(NoneToday if kind == "none today" else kind, lr=1e-4)
    before, seen = gammas(module), []
    graph = graph_of(module)
    taylor = Taylor(module, graph)

    class Look(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.current_epoch == 0:
                taylor.observe()

        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(gammas(pl_module))

    toy_trainer(tmp_path, max_epochs=8, callbacks=[sparsity(penalty), Look()]).fit(module, toy_loader())
    assert all(torch.allclose(seen[0][name], before[name], atol=1e-3) for name in GAMMAS), "nothing fades yet"
    gone = {name: (seen[-1][name].abs() < 0.1) for name in GAMMAS}
    dropped = select(graph, taylor.scores(), Selection(0.4, min_channels=2, round_to=1)).dropped
    assert all(torch.equal(gone[name], dropped[graph.gammas[name]]) for name in GAMMAS)


def test_a_look_leaves_everything_as_it_was(tmp_path):
    """With and without one, a fit whose penalty is next to nothing takes the same steps."""

    class Noisy(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0] + 0.1 * torch.rand_like(batch[0]), batch[1]), batch_idx)

    def fit(choose):
        seed_everything(0, verbose=False)
        module = module_of(Noisy, momentum=0.9)
        callback = GammaSparsity("proximal", 1e-12, choose=choose)
        toy_trainer(tmp_path, max_epochs=2, callbacks=[callback]).fit(module, toy_loader())
        return module

    looked, looks = fit("taylor"), len(LOOKS)
    did_not = fit("none")
    assert (looks, len(LOOKS)) == (1, 0)
    for name, value in did_not.state_dict().items():
        assert torch.allclose(looked.state_dict()[name], value, atol=1e-7), name


class Still(Callback):
    """Keeps a part in eval mode: it rests."""

    def on_train_epoch_start(self, trainer, pl_module):
        pl_module.stem.eval()


def fit_until(folder, epochs, kind, callbacks, stop=None, resume=None):
    """A fit that is stopped after an epoch, or goes on."""
    seed_everything(0, verbose=False)
    module = module_of(kind, momentum=0.9)

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == stop

    callbacks = [*callbacks, ModelCheckpoint(dirpath=folder, save_last=True), Stop()]
    trainer = toy_trainer(folder, max_epochs=epochs, enable_checkpointing=True, callbacks=callbacks)
    trainer.fit(module, toy_loader(), ckpt_path=resume)
    return module


def assert_going_on_is_going_straight(folder, epochs, kind, callbacks, stop):
    """Callbacks are made anew for each fit."""
    straight = fit_until(folder / "straight", epochs, kind, callbacks())
    fit_until(folder / "broken", epochs, kind, callbacks(), stop=stop)
    resumed = fit_until(folder / "resumed", epochs, kind, callbacks(), resume=folder / "broken" / "last.ckpt")
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("penalty", ["proximal", "subgradient", "growing"])
@pytest.mark.parametrize("kind", [Plain, ToyClassifier])
@pytest.mark.parametrize("stop", [0, 2])
def test_a_resumed_fit_equals_a_straight_one(tmp_path, penalty, kind, stop):
    assert_going_on_is_going_straight(tmp_path, 6, kind, lambda: [WeightEMA(), sparsity(penalty)], stop)
    assert not LOOKS


@pytest.mark.parametrize("kind", [Plain, ToyClassifier])
@pytest.mark.parametrize("stop", [0, 1])
def test_a_resumed_fit_knows_who_rested(tmp_path, kind, stop):
    assert_going_on_is_going_straight(tmp_path, 5, kind, lambda: [Still(), sparsity("proximal")], stop)


def test_averages_are_zero_where_the_weights_are(tmp_path):
    module = module_of(lr=0.01)
    callbacks = [WeightEMA(decay=0.99, tau=1.0), sparsity("proximal")]  # reaches over the whole fit
    toy_trainer(tmp_path, max_epochs=8, callbacks=callbacks).fit(module, toy_loader())
    assert 10 <= sum(int((gamma == 0).sum()) for gamma in gammas(module).values()) <= 16


def test_layers_that_begin_to_train_are_looked_at_again(tmp_path):
    class Thaws(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                pl_module.tail.requires_grad_(True)

    module = module_of(lr=0.01)
    module.tail.requires_grad_(False)
    toy_trainer(tmp_path, max_epochs=16, callbacks=[Thaws(), sparsity("proximal")]).fit(module, toy_loader())
    assert len(LOOKS) == 2
    zeros = sum(int((gamma == 0).sum()) for gamma in gammas(module).values())
    assert 14 <= zeros <= 16, "40% of all 40 channels; those of the two layers that train from the start are 24"


def test_a_look_without_a_finite_gradient_is_refused(tmp_path):
    class Broken(Plain):
        def plain_losses(self):
            return (loss * float("nan") for loss in super().plain_losses())

    with pytest.raises(Exception, match="plain_losses.. gave no loss with finite gradients"):
        toy_trainer(tmp_path, callbacks=[sparsity("proximal")]).fit(module_of(Broken), toy_loader())


def test_an_unknown_way_to_choose_is_refused():
    with pytest.raises(Exception, match="choose='gamma' is unknown; expected one of none, taylor"):
        GammaSparsity("proximal", choose="gamma")


def test_a_taylor_prune_at_the_end_of_a_fit_looks_at_plain_images_too(tmp_path):
    module, expected = module_of(lr=0.05), {}
    selection = Selection(0.4, min_channels=2, round_to=1)

    class Before(Callback):
        def on_train_end(self, trainer, pl_module):
            expected.update(chosen_by_hand(pl_module, selection, pl_module.plain))

    pruning = ChannelPruning(selection=selection, importance=Importance("taylor"), compensation="none")
    toy_trainer(tmp_path, callbacks=[pruning, Before()]).fit(module, toy_loader())
    assert len(LOOKS) == 1
    for name in GAMMAS:
        kept = (~expected[name]).nonzero().flatten().tolist()
        assert pruning.report.plan.entries.get(name, {"out": list(range(len(expected[name])))})["out"] == kept


def test_layers_that_come_to_rest_do_not_end_the_fit(tmp_path):
    class Freezes(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            pl_module.tail.requires_grad_(trainer.current_epoch < 2)
            pl_module.stem.requires_grad_(trainer.current_epoch < 3)
            pl_module.branch.requires_grad_(trainer.current_epoch < 3)

    for penalty in ("proximal", "growing"):
        choose = {} if penalty == "growing" else {"strength": "auto", "choose": "taylor"}
        asked = Selection(0.0, ratios={"tail.0": 0.5}, min_channels=2)
        callbacks = [Freezes(), GammaSparsity(penalty, selection=asked, **choose)]
        toy_trainer(tmp_path, max_epochs=5, callbacks=callbacks).fit(module_of(lr=0.01), toy_loader())


@pytest.mark.parametrize(
    ("ratio", "epochs", "kind", "said"),
    [
        (0.01, 3, Plain, "choose='taylor' has nothing to act on: a prune of 1.0% of the channels takes none"),
        (0.4, 1, ToyClassifier, "got max_epochs=1; set max_epochs to 2 or more"),
    ],
)
def test_a_choice_that_cannot_act_is_refused(tmp_path, ratio, epochs, kind, said):
    callback = GammaSparsity("proximal", "auto", ratio=ratio, min_channels=2, choose="taylor")
    with pytest.raises(Exception, match=said):
        toy_trainer(tmp_path, max_epochs=epochs, callbacks=[callback]).fit(module_of(kind), toy_loader())
