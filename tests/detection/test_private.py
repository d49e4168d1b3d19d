"""Contracts: what the detectors take from others without a promise. A failing test says what breaks."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from yolo_slim.detection import private


def test_the_unpickler_in_python_can_be_narrowed_by_opcode():
    class Narrow(private.PythonUnpickler):
        dispatch = {  # noqa: RUF012 - as in the class itself
            key: value for key, value in private.PythonUnpickler.dispatch.items() if key != pickle.EMPTY_LIST[0]
        }

    assert Narrow(io.BytesIO(pickle.dumps({"a": 1}, 2))).load() == {"a": 1}
    with pytest.raises(KeyError):
        Narrow(io.BytesIO(pickle.dumps([1], 2))).load()
    stack = private.PythonUnpickler(io.BytesIO(pickle.dumps(1, 2)))
    stack.load()
    assert hasattr(stack, "stack")


def test_operations_are_counted_by_their_packet():
    counted = []

    class Count(private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            packet = private.overload_packet(func)
            if packet in private.flop_registry:
                counted.append(private.flop_registry[packet](*args, **(kwargs or {}), out_val=result))
            return result

    with Count(), torch.device("meta"):
        torch.nn.Conv2d(3, 4, 1)(torch.zeros(1, 3, 5, 5))
    assert counted == [2 * 3 * 4 * 25]


def test_foreach_multiplies_in_place():
    tensors = [torch.ones(2), torch.ones(1)]
    private.foreach_mul_(tensors, torch.tensor(3.0))
    assert [t.tolist() for t in tensors] == [[3.0, 3.0], [3.0]]


@pytest.mark.parametrize("static", [True, False])
def test_ddp_says_whether_its_graph_is_static(static, tmp_path):
    strategy = DDPStrategy(static_graph=static)
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, default_root_dir=tmp_path)
    assert private.has_static_graph(trainer) is static
    assert not private.has_static_graph(Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path))


def test_a_module_knows_whether_it_has_a_trainer(tmp_path):
    module, trainer = LightningModule(), Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    assert private.trainer_of(module) is None
    module.trainer = trainer
    assert private.trainer_of(module) is trainer
