"""Commands that are refused."""

from __future__ import annotations

import pytest

from yolo_slim.commands.entry import main


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], status: int = 1) -> str:
    """The one line that a command is refused with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]
