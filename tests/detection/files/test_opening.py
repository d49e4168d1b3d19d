"""Files that want to run something: refused by the name of what they want, and nothing of it happens."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.helpers.hostile.gadgets import GADGETS, MISUSES, MODEL, names_in
from tests.helpers.hostile.pickles import (
    Call,
    Name,
    floats,
    layer,
    pickled,
    read_entries,
    write_archive,
    write_entries,
    write_tiny,
)
from yolo_slim.detection.files.allowed import layer_class
from yolo_slim.detection.files.checkpoints import read_checkpoint
from yolo_slim.detection.files.opening import open_pt
from yolo_slim.detection.files.weights import read_weights
from yolo_slim.detection.plain import Inert
from yolo_slim.detection.trust import is_trusted, trusted

KINDS = pytest.mark.parametrize("kind", ["pt", "ckpt"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


class Auditor:
    """Notes what Python is asked to do while it is switched on; an audit hook cannot be removed, so there is one."""

    CALLS = frozenset(
        {
            *("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"),
            *("os.mkdir", "socket.connect", "webbrowser.open"),
        }
    )

    def __init__(self) -> None:
        self.on, self.started = False, []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: Any) -> None:
        if self.on and event in self.CALLS:
            self.started.append((event, arguments))


@pytest.fixture(scope="session")
def auditor() -> Auditor:
    return Auditor()


@pytest.fixture(autouse=True)
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auditor: Auditor) -> Any:
    """No test leaves anything in the folder that it runs in, starts a process or imports the decoy."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder.parent / "path")
    (folder.parent / "path").mkdir()
    (folder.parent / "path" / "decoy_of_yolo_slim.py").write_text("def function(*a):\n    return a\n")
    auditor.on, auditor.started = True, []
    yield
    auditor.on = False
    assert not os.listdir(folder)
    assert not auditor.started
    assert "decoy_of_yolo_slim" not in sys.modules


def test_the_auditor_sees_what_is_started(auditor):
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert "subprocess.Popen" in [event for event, _ in auditor.started]
    auditor.started.clear()


def refused(file: Path) -> str:
    with pytest.raises(ValueError, match=file.name) as error:
        read_weights(file)
    assert str(error.value).isprintable()
    return str(error.value)


PLACES = {
    "alone": lambda evil: evil,
    "model": lambda evil: {"model": evil, "state_dict": {}, "hyper_parameters": {}},
    "key": lambda evil: {"train_args": {"a": [({"b": evil},)]}, "model": None},
    "state": lambda evil: {"model": layer("ultralytics.nn.tasks.DetectionModel", yaml=evil)},
    "hook": lambda evil: {"model": layer("ultralytics.nn.tasks.DetectionModel", _forward_hooks={0: evil})},
}


@pytest.mark.parametrize("wanted", GADGETS)
@KINDS
def test_gadgets_are_refused_by_name(tmp_path, kind, wanted):
    for place, content in PLACES.items():
        message = refused(write_archive(tmp_path / f"{place}.{kind}", content(GADGETS[wanted])))
        found = re.search(r" wants ([\w.]+)[,;]", message)
        assert found, message
        assert found[1] in names_in(GADGETS[wanted]) | {MODEL}


@pytest.mark.parametrize("wanted", ["os.system", "builtins.eval", "subprocess.Popen", "torch.hub.load", "pip.main"])
@pytest.mark.parametrize("protocol", [2, 4])
@KINDS
def test_the_message_says_what_is_wanted(tmp_path, kind, protocol, wanted):
    file = write_archive(tmp_path / f"x.{kind}", {"model": GADGETS[wanted]}, protocol=protocol)
    assert f"{file} wants {wanted}" in refused(file)


@KINDS
def test_pickles_beside_the_first(tmp_path, tiny, kind):
    """Only data.pkl is read: what lies in other entries stays there."""
    evil, entries = pickled(GADGETS["os.mkdir"]), read_entries(tiny[kind])
    folder = next(iter(entries)).partition("/")[0]
    file = tmp_path / f"x.{kind}"
    write_entries(file, {**entries, f"{folder}/extra.pkl": evil, f"{folder}/data/data.pkl.bak": evil})
    assert read_weights(file)[0].names == {0: "car", 1: "bus"}
    write_entries(file, {**entries, f"{folder}/code/data.pkl": evil})
    refused(file)
    write_entries(file, {**entries, f"{folder}/constants.pkl": evil})
    assert "TorchScript" in refused(file)


@pytest.mark.parametrize("what", MISUSES)
@KINDS
def test_allowed_names_misused(tmp_path, kind, what):
    refused(write_archive(tmp_path / f"x.{kind}", {"model": MISUSES[what]}, {"0": floats(1, 2, 3, 4)}))


def test_hooks_of_a_file_are_not_those_of_the_network(tiny, tmp_path):
    """What a file says beside layers, settings and tensors has no effect."""
    content = torch.load(tiny["pt"], weights_only=False)
    for module in content["model"].modules():
        module._forward_hooks[0] = module._forward_pre_hooks[0] = module._load_state_dict_pre_hooks[0] = print
        module.__dict__["forward"] = module.__dict__["load_state_dict"] = 3
    torch.save(content, tmp_path / "x.pt")
    assert "wants builtins.print" in refused(tmp_path / "x.pt")
    for module in content["model"].modules():
        module._forward_hooks[0] = module._forward_pre_hooks[0] = module._load_state_dict_pre_hooks[0] = getattr
    torch.save(content, tmp_path / "x.pt")
    net, _ = read_weights(tmp_path / "x.pt")
    assert not any(module._forward_hooks or module._load_state_dict_pre_hooks for module in net.modules())
    assert net.eval()(torch.zeros(1, 3, 64, 64))[0].isfinite().all()


def test_shared_layers_without_end(tiny, tmp_path):
    """Each layer holds the next one ten times: ten to the power of 30 layers."""
    content = torch.load(tiny["pt"], weights_only=False)
    module: Any = torch.nn.SiLU()
    for _ in range(30):
        module = torch.nn.Sequential(*[module] * 10)
    content["model"].model.add_module("9", module)
    torch.save(content, tmp_path / "x.pt")
    assert "more layers than any detector" in refused(tmp_path / "x.pt")


# torch's list of what is safe


def decoy(*arguments: Any) -> None:
    os.mkdir("ran")


@KINDS
def test_what_others_call_safe_is_not_so_here(tiny, tmp_path, kind):
    evil = Call(Name(decoy.__module__, decoy.__qualname__), 1)
    file = write_archive(tmp_path / f"x.{kind}", {"model": evil})
    before = set(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([decoy, ModuleType])
    try:
        assert f"wants {decoy.__module__}.decoy" in refused(file)
        read_weights(tiny[kind])
        assert set(torch.serialization.get_safe_globals()) == before | {decoy, ModuleType}
        with pytest.raises(ValueError, match="decoy"), trusted(False):
            read_weights(file)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


def test_classes_that_others_call_safe_are_not_made_here(tiny):
    """Programs with Ultralytics often allow its classes; torch would then fill real layers with what a file says."""
    classes = {type(module) for module in read_weights(tiny["pt"])[0].modules()}
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    try:
        left, found = [open_pt(tiny["pt"], "")["model"]], 0
        while left:
            module = left.pop()
            assert isinstance(module, Inert)
            left += module.state.get("_modules", {}).values()
            found += 1
        assert found > 90
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_list_is_given_back_after_a_failure(tmp_path):
    torch.serialization.add_safe_globals([ModuleType])
    try:
        broken = write_archive(tmp_path / "x.pt", b"\x80\x02K\x01K\x02s.")
        refused(broken)
        assert ModuleType in torch.serialization.get_safe_globals()
    finally:
        torch.serialization._weights_only_unpickler._remove_safe_globals([ModuleType])


def test_two_threads_at_once(tiny):
    found: list[Any] = []

    def read(file: Path) -> None:
        for _ in range(4):
            try:
                found.append(read_weights(file)[0].names)
            except Exception as error:
                found.append(error)

    threads = [threading.Thread(target=read, args=(tiny[kind],)) for kind in ("pt", "ckpt")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{0: "car", 1: "bus"}] * 8


def test_trust_is_of_one_thread_and_ends():
    seen: list[bool] = []
    with trusted():
        assert is_trusted()
        thread = threading.Thread(target=lambda: seen.append(is_trusted()))
        thread.start()
        thread.join()
        with trusted(False):  # changes nothing
            assert is_trusted()
    assert not is_trusted()
    assert seen == [False]
    with pytest.raises(KeyError), trusted():
        raise KeyError
    assert not is_trusted()


def test_trust_does_not_open_checkpoints(tmp_path):
    file = write_archive(tmp_path / "x.ckpt", {"model": GADGETS["os.mkdir"]})
    with trusted(), pytest.raises(ValueError, match="wants os.mkdir"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("ultralytics.nn.modules.conv.Conv", "Conv"),
        ("ultralytics.nn.modules.Conv", "Conv"),
        ("torch.nn.modules.conv.Conv2d", "Conv2d"),
        ("ultralytics.nn.tasks.DetectionModel", "DetectionModel"),
        ("torch.nn.modules.linear.Identity", "Identity"),
        ("torch.nn.modules.container.os", None),
        ("torch.nn.modules.module.torch", None),
        ("torch.nn.Conv2d.forward", None),
        ("ultralytics.nn.tasks.attempt_download_asset", None),
        ("ultralytics.nn.tasks.torch", None),
        ("ultralytics.engine.model.Model", None),
        ("evil.Conv", None),
        ("torchvision.models.resnet.ResNet", None),
        ("Conv", None),
        ("", None),
    ],
)
def test_layer_class(wanted, expected):
    assert layer_class(wanted) == expected


def test_pickle_alone_is_no_file(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    refused(tmp_path / "x.ckpt")
