from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.places import ROOT
from yolo_slim import __version__
from yolo_slim.commands.entry import VERBS, Verb, main


def test_help_names_every_verb_and_imports_nothing_heavy():
    script = (
        "import sys\nfrom yolo_slim.commands.entry import main\nmain(['--help'])\n"
        "assert not {'torch', 'lightning', 'jsonargparse'} & set(sys.modules), 'too much imported'"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(f"  {verb} " in done.stdout for verb in VERBS)


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


def test_unknown_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown verb 'train'; expected one of fit, validate")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_reads_its_files_before_the_keys_of_the_command_line(verb, tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text("project: there")
    seen: list[str] = []
    monkeypatch.setattr(Verb, "load", lambda verb: seen.extend)
    main([verb, "--project", "here", "-c", str(file)])
    assert seen == [verb, "-c", str(file), "--project", "here"]
