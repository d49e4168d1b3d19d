"""Topologies of ours: model YAMLs that come with the package, beside those of Ultralytics."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
#: Installed, or beside the package in a checkout.
_FOLDERS = (_PACKAGE / "configs" / "models", _PACKAGE.parent / "configs" / "models")


def shipped_model(name: str) -> Path | None:
    """The model YAML of that name which comes with the package; None if there is none, or one of that name is here.

    Args:
        name: A file name without folders, such as ``yolov7-tiny.yaml``.
    """
    if Path(name).name != name or Path(name).is_file():
        return None
    return next((file for folder in _FOLDERS if (file := folder / name).is_file()), None)
