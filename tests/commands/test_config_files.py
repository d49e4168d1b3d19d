from __future__ import annotations

from pathlib import Path

import pytest

from yolo_slim.commands.complaints import shorten
from yolo_slim.commands.config_files import check_config_files, files_first

UNION = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[Callback], <class 'Callback'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'yolo_slim.callbacks.GammaSparsity':
        Option 'strenght' is not accepted
    - Not a valid subclass of Callback
      Subclass types expect one of:
      - a class path (str)
      - a dict with class_path entry
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: [1]"""
WORKER = """Caught ValueError in DataLoader worker process 1.
Original Traceback (most recent call last):
  File "worker.py", line 1, in _worker_loop
ValueError: image a.jpg cannot be read; replace or remove it
"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("a: [b", "is not valid YAML"),
        ("a:\n\tb: 1", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
        ("- 1", r"holds \[1\]"),
        ("hello", "holds 'hello'"),
        ("data: 5", "has data: 5"),
        ("trainer:", "has trainer: None"),
    ],
)
@pytest.mark.parametrize("option", ["-c", "--config", "--config="])
def test_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | bytes, expected: str, option: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    arguments = [option + str(file)] if option.endswith("=") else [option, str(file)]
    with pytest.raises(ValueError, match=f"mine.yaml {expected}"):
        check_config_files(["fit", *arguments, "--name", "x"])


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing.yaml does not exist"):
        check_config_files(["-c", str(tmp_path / "nothing.yaml")])
    with pytest.raises(ValueError, match="is a folder"):
        check_config_files(["-c", str(tmp_path)])


def test_good_files_and_none(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {imgsz: 64}")
    check_config_files(["fit", "-c", str(file), "--name=-c-"])
    check_config_files(["fit"])


def test_what_is_wrong_stays_of_a_long_message() -> None:
    assert shorten(UNION) == (
        "Parser key \"trainer.callbacks\": Problem with given class_path 'yolo_slim.callbacks.GammaSparsity': "
        "Option 'strenght' is not accepted Given value: [1]"
    )
    assert shorten(WORKER) == "image a.jpg cannot be read; replace or remove it"
    assert shorten("one line") == "one line"


@pytest.mark.parametrize(
    "option", [["-c", "a.yaml"], ["-c=a.yaml"], ["-ca.yaml"], ["--config", "a.yaml"], ["--config=a.yaml"]]
)
def test_the_command_line_comes_after_the_files_wherever_they_stand(option: list[str]) -> None:
    keys = ["--a", "-1", "--b=2"]
    expected = ["fit", *option, "-c", "b.yaml", *keys]
    for given in (["fit", *keys, *option, "-c", "b.yaml"], ["fit", *keys[:2], *option, "--b=2", "-c", "b.yaml"]):
        assert files_first(given) == expected
    assert files_first(expected) == expected


def test_the_file_of_a_group_comes_before_its_keys() -> None:
    assert files_first(["fit", "--m.hyp.lr0", "1", "--x", "--m.hyp", "r.yaml"]) == [
        *("fit", "--m.hyp", "r.yaml", "--m.hyp.lr0", "1", "--x")
    ]
    appended = ["fit", "--t.callbacks+=A", "--t.callbacks.x=1", "--t.callbacks+=B", "--t.callbacks.x=2"]
    assert files_first(appended) == appended
    twice = ["fit", "--t.logger", "A", "--t.logger.x", "1", "--t.logger", "B"]
    assert files_first(twice) == twice


@pytest.mark.parametrize("arguments", [[], ["fit"], ["--help"], ["fit", "-c"]])
def test_little_stays_as_it_is(arguments: list[str]) -> None:
    assert files_first(arguments) == arguments
