"""Times of layers over their widths, and the file that keeps them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.clocks import stairs_ms
from yolo_slim.pruning import Latency
from yolo_slim.pruning.measure.layer_times import layer_times
from yolo_slim.pruning.measure.times_cache import TimesCache


class Net(nn.Module):
    """Convolutions of every kind, one of them called on two maps, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 64, 1, groups=4)
        self.up = nn.ConvTranspose2d(64, 24, 2, stride=2)
        self.shared = nn.Conv2d(24, 24, 1)
        self.last = nn.Linear(24, 40)
        self.unused = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.up(self.grouped(self.depthwise(self.first(x))))
        x = self.shared(x) + self.shared(x[..., ::2, ::2]).mean()
        return self.last(x.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


IMAGES = torch.zeros(1, 3, 16, 16)


def timed(net, cache=None):
    looks = []

    def clock(layer, inputs):
        looks.append((layer.weight.shape, inputs.shape))
        assert layer(inputs).isfinite().all()
        return stairs_ms(layer, inputs)

    return layer_times(net, IMAGES, Latency(), clock, TimesCache(None) if cache is None else cache), looks


def test_every_layer_that_runs_is_timed_over_its_widths(net):
    times, looks = timed(net)
    assert set(times) == {"first", "depthwise", "grouped", "up", "shared", "last"}
    assert times["first"].ins.tolist() == [1, 2, 3]
    assert times["first"].outs.tolist() == [8, 16, 24, 32]
    assert (times["depthwise"].ins.tolist(), times["depthwise"].outs.tolist()) == ([32], [8, 16, 24, 32])
    assert times["grouped"].ms.shape == (1, 1)
    assert times["up"].ins.tolist() == [8, 16, 32, 48, 64]
    assert times["last"].outs.tolist() == [8, 16, 32, 40]
    assert len(looks) == len(set(looks))


def test_between_and_beyond_the_widths(net):
    times, _ = timed(net)
    shared = times["shared"]
    full = sum(stairs_ms(net.shared, torch.zeros(1, 24, side, side)) for side in (16, 8))
    assert shared.at(24, 24) == pytest.approx(full)
    assert shared.at(20, 24) == pytest.approx((shared.at(16, 24) + shared.at(24, 24)) / 2)
    assert shared.at(2, 24) == shared.at(8, 24)
    assert times["up"].slopes()[0] > 0


def test_a_measurement_leaves_the_model_and_the_random_numbers_alone(net):
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    timed(net.train())
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_machine_measures_once(net, tmp_path):
    path = tmp_path / "folder" / "times.json"
    first, looks = timed(net, TimesCache(path))
    again, none = timed(net, TimesCache(path))
    assert looks
    assert none == []
    assert all((first[name].ms == again[name].ms).all() for name in first)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b"}', '{"a": NaN}', "\x00"])
def test_a_file_that_is_damaged_is_measured_anew(net, tmp_path, content):
    path = tmp_path / "times.json"
    path.write_text(content)
    _, looks = timed(net, TimesCache(path))
    assert looks
    assert timed(net, TimesCache(path))[1] == []


def test_what_cannot_be_written_is_no_error(net, tmp_path):
    (tmp_path / "file").write_text("")
    times, _ = timed(net, TimesCache(tmp_path / "file" / "times.json"))
    assert times


def test_two_processes_keep_what_both_have_measured(tmp_path):
    one, two = TimesCache(tmp_path / "t.json"), TimesCache(tmp_path / "t.json")
    one["a"], two["b"] = 1.0, 2.0
    one.save()
    two.save()
    assert dict(TimesCache(tmp_path / "t.json")) == {"a": 1.0, "b": 2.0}


def test_a_file_of_its_own_for_each_runtime_and_number_of_threads(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kinds = [Latency(), Latency("onnxruntime"), Latency("openvino"), Latency(threads=7)]
    paths = {TimesCache.of_machine(latency).path for latency in kinds}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path / "yolo_slim"}
    assert TimesCache.of_machine(Latency()).path == TimesCache.of_machine(Latency(threads=torch.get_num_threads())).path
