"""Help that fits a screen, and says what is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.places import ROOT
from yolo_slim.commands.entry import VERBS, main
from yolo_slim.commands.short_help import PAGES, about, page
from yolo_slim.commands.words import spelled_out


def test_every_verb_has_a_page():
    assert set(PAGES) == set(VERBS)


@pytest.mark.parametrize("verb", PAGES)
def test_a_page_fits_a_screen(verb, capsys):
    main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 120
    assert len(PAGES[verb].examples) == 3


@pytest.mark.parametrize("verb", PAGES)
def test_every_key_of_a_page_is_one_of_the_verb(verb, capsys):
    main([verb, "--help", "all"])
    text = capsys.readouterr().out
    for key in PAGES[verb].keys:
        value = "cpu" if key == "device" else "x"
        option = spelled_out([verb, f"--{key}", value])[1]
        assert about(option, text), option


def test_a_page_needs_neither_torch_nor_lightning():
    code = (
        "import sys; from yolo_slim.commands.entry import main; main(['slim', '--help']);"
        "print({'torch', 'lightning', 'jsonargparse'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_help_about_a_key(capsys):
    main(["fit", "--help", "lr0"])
    shown = capsys.readouterr().out
    assert "--model.hyp.lr0" in shown
    assert "--data.batch" not in shown
    with pytest.raises(SystemExit):
        main(["fit", "--help", "nothing-like-it"])
    assert "fit has no key like 'nothing-like-it'" in capsys.readouterr().err


def test_examples_are_commands_that_can_be_spelled_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("fit", "slim"):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        (tmp_path / "runs" / folder / "best.ckpt").touch()
    for verb in PAGES:
        for example in PAGES[verb].examples:
            words = spelled_out([word.strip("'") for word in example.split()])
            assert verb == "compare" or words[1].startswith("-"), words
        assert page(verb, "yolo-slim").startswith(f"yolo-slim {verb} ")
