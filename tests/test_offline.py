"""Nothing goes over the network on its own: neither when Ultralytics is imported, nor in use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hostile.pickles import write_tiny
from tests.helpers.places import ROOT
from yolo_slim.detection.data.shapes import CLASSES

#: Every way to another machine is recorded in the file `tried`, and fails.
GUARD = """
import os, socket, subprocess, sys

here = os.getcwd()

def refuse(name):
    def call(*arguments, **keywords):
        if name == "connect" and isinstance(arguments[1], str):  # a socket of this machine
            raise ConnectionRefusedError
        with open(os.path.join(here, "tried"), "a") as file:
            file.write(f"{name} {arguments}\\n")
        raise OSError("no network here")
    return call

socket.socket.connect = refuse("connect")
socket.socket.connect_ex = refuse("connect")
socket.socket.sendto = refuse("sendto")
socket.getaddrinfo = refuse("getaddrinfo")
socket.gethostbyname = refuse("gethostbyname")
socket.create_connection = refuse("create_connection")

def audit(event, arguments):
    if event == "subprocess.Popen" and any(w in str(arguments[1]) for w in ("pip", "curl", "wget", "ping", "uv ")):
        refuse("Popen")(arguments[1])

sys.addaudithook(audit)
"""


def run(folder: Path, script: str, **environment: str | None) -> str:
    """What a fresh interpreter prints that cannot reach another machine."""
    (folder / "tried").unlink(missing_ok=True)
    given = {name: value for name, value in os.environ.items() if not name.startswith("YOLO_")}
    given |= {"YOLO_CONFIG_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    given |= {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-c", GUARD + script]
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    tried = folder / "tried"
    assert not tried.exists(), tried.read_text()
    return done.stdout


VARIABLES = "import os, yolo_slim.detection\nprint(os.environ['YOLO_OFFLINE'], os.environ['YOLO_AUTOINSTALL'])"


@pytest.mark.parametrize(
    ("offline", "install", "expected"),
    [(None, None, "true false"), ("false", None, "false false"), (None, "true", "true true"), ("0", "1", "0 1")],
)
def test_variables_are_set_where_they_are_not(tmp_path, offline, install, expected):
    assert run(tmp_path, VARIABLES, YOLO_OFFLINE=offline, YOLO_AUTOINSTALL=install).split() == expected.split()


@pytest.mark.slow
def test_ultralytics_sees_them(tmp_path):
    script = """
import yolo_slim.detection.training.detector
import ultralytics.utils as u
from ultralytics.utils.events import events
print(events.enabled, u.ONLINE, u.AUTOINSTALL)
"""
    assert run(tmp_path, script).splitlines()[-1] == "False False False"


def test_the_guard_sees_what_is_tried(tmp_path):
    with pytest.raises(AssertionError, match="create_connection"):
        run(
            tmp_path, "import urllib.request\ntry:\n    urllib.request.urlopen('http://a.b')\nexcept OSError:\n    pass"
        )


def test_reading_building_and_training_reach_nobody(tmp_path):
    write_tiny(tmp_path, CLASSES)
    script = """
import torch
import yolo_slim
from yolo_slim.detection.training.detector import YOLODetector
from yolo_slim.commands.entry import main
from tests.helpers.hostile.pickles import TINY

torch.set_num_threads(1)
images = torch.zeros(1, 3, 64, 64)
print("found", len(yolo_slim.load("tiny.pt").detect(images)), len(yolo_slim.load("tiny.ckpt").detect(images)))
YOLODetector(TINY, names={0: "a", 1: "b"})
data = ["--data.data", "shapes", "--data.imgsz", "64", "--data.batch", "4", "--data.workers", "0"]
quick = ["--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
main(["validate", *data, *quick, "--model.weights", "tiny.pt"])
print("done")
"""
    printed = run(tmp_path, script)
    assert "found 1 1" in printed
    assert "val/map50" in printed
    assert printed.rstrip().endswith("done")


@pytest.mark.slow
def test_no_command_line_leaves_settings_that_would_send(tmp_path):
    """What Ultralytics writes into its settings folder has no say over the variables."""
    (tmp_path / "settings.json").write_text('{"sync": true}')
    script = "import yolo_slim.detection.training.detector\n"
    script += "from ultralytics.utils.events import events\nprint(events.enabled)"
    assert run(tmp_path, script).splitlines()[-1] == "False"
