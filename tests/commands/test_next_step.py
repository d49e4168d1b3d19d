"""Commands that are printed for the user to paste."""

from __future__ import annotations

import shlex

import pytest
import yaml

from tests.helpers.hostile.pickles import write_tiny
from yolo_slim.commands.entry import main
from yolo_slim.detection.data.shapes import CLASSES

QUICK = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--data.workers", "0", "--data.batch", "4"]


def pasted(printed: str) -> list[str]:
    """The arguments of the one command in what was printed, as a shell reads them."""
    (line,) = [line for line in printed.splitlines() if line.startswith("next: ")]
    python, script, *arguments = shlex.split(line.removeprefix("next: "), comments=True)
    assert python == "python"
    assert script.endswith("train.py")
    return arguments


@pytest.mark.parametrize("known", ["given", "beside", "above"])
def test_what_a_prune_says_comes_next_does(tmp_path, monkeypatch, capsys, shapes_dir, known):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "it's my run"
    run.mkdir()
    write_tiny(run, CLASSES)
    data = str(shapes_dir / "data.yaml")
    settings = {"beside": run / "config.yaml", "above": tmp_path / "recipe.yaml"}
    if known in settings:
        settings[known].write_text(yaml.safe_dump({"data": {"data": data}}))
    more = ["--data.data", data] if known == "given" else []
    main(["prune", "--model.weights", f"{run}/tiny.ckpt", "--project", "the runs", "--selection.min_channels=2", *more])
    arguments = pasted(capsys.readouterr().out)
    assert arguments[-2:] == ["--data.data", data]
    main([*arguments, *QUICK])
    assert (tmp_path / "runs" / "finetune" / "last.ckpt").is_file()


@pytest.mark.parametrize("beside", [None, "data: {data: gone.yaml}", "data: 5", "[", "data:\n  data: [1]"])
def test_data_that_is_not_known_is_asked_for(tmp_path, monkeypatch, capsys, beside):
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path)
    if beside is not None:
        (tmp_path / "config.yaml").write_text(beside)
    main(["prune", "--model.weights", "tiny.ckpt", "--selection.min_channels=2"])
    printed = capsys.readouterr().out
    assert "--data.data DATA.yaml  # DATA.yaml: what it was trained on" in printed
    assert pasted(printed)[-1] == "DATA.yaml"
