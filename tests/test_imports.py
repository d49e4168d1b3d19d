"""Imports go one way: pruning <- callbacks | detection | reporting <- trainer, recipe, cli <- train.py."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

PACKAGE = ROOT / "yolo_slim"

# Imports every module of a package while some modules are banned: asking for one fails, and none may be loaded.
IMPORT_ALL = """
import importlib, pkgutil, sys

package_name, *banned = sys.argv[1:]

def is_banned(name):
    return any(name == top or name.startswith(top + ".") for top in banned)

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if is_banned(name):
            raise ImportError(f"{package_name} may not import {name}")

sys.meta_path.insert(0, Refuse())
package = importlib.import_module(package_name)
modules = [package_name]
if package_name != "yolo_slim":
    modules += [info.name for info in pkgutil.walk_packages(package.__path__, package_name + ".")]
for name in modules:
    importlib.import_module(name)
loaded = sorted(filter(is_banned, sys.modules))
assert not loaded, f"{package_name} loads {loaded}"
print(len(modules))
"""

#: Files of the ground floor, of the standard library alone but for one package.
GROUND = {"files": set(), "wording": set(), "documents": {"yaml"}}
ABOVE = ("train", *(f"yolo_slim.{path.stem}" for path in PACKAGE.glob("[!_]*.py") if path.stem not in GROUND))
LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities")
BANNED = {
    "yolo_slim": ("torch", "lightning", "ultralytics", "numpy", "torchmetrics"),
    "yolo_slim.pruning": (
        *LIGHTNING,
        *("ultralytics", "torchmetrics", "torchvision"),
        *("yolo_slim.callbacks", "yolo_slim.detection", "yolo_slim.reporting", *ABOVE),
    ),
    "yolo_slim.callbacks": ("ultralytics", "yolo_slim.detection", *ABOVE),
    "yolo_slim.detection": ("yolo_slim.callbacks", *ABOVE),
    "yolo_slim.reporting": (
        *("ultralytics", *LIGHTNING),
        *("yolo_slim.callbacks", "yolo_slim.detection", *ABOVE),
    ),
}
ALLOWED_IN_PRUNING = {*sys.stdlib_module_names, "torch", "numpy", "yaml", "yolo_slim"}


@pytest.mark.parametrize("package", BANNED)
def test_fresh_interpreter_loads_nothing_that_is_banned(package: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, package, *BANNED[package]], cwd=ROOT, text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) >= (1 if package == "yolo_slim" else 2)


@pytest.mark.parametrize("package", BANNED)
def test_no_file_names_a_banned_module(package: str) -> None:
    folder = ROOT / package.replace(".", "/")
    paths = [folder / "__init__.py"] if package == "yolo_slim" else sorted(folder.rglob("*.py"))
    assert paths
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in paths
        for line, name in imports(path)
        if any(below(name, top) for top in BANNED[package])
    ]
    assert not offences, "\n".join(offences)


def test_only_detection_names_ultralytics() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in [ROOT / "train.py", *sorted(PACKAGE.rglob("*.py"))]
        if PACKAGE / "detection" not in path.parents
        for line, name in imports(path)
        if below(name, "ultralytics")
    ]
    assert not offences, "\n".join(offences)


def test_callbacks_name_lightning_in_one_file_only() -> None:
    """All others take it from there, and so work with the one of Lightning's two packages that is installed."""
    offences = {
        f"{path.name}:{line} imports {name}"
        for path in sorted((PACKAGE / "callbacks").rglob("*.py"))
        if path.name != "framework.py"
        for line, name in imports(path)
        if any(below(name, top) for top in LIGHTNING)
    }
    assert not offences, "\n".join(offences)


def test_pruning_needs_torch_numpy_and_yaml_only() -> None:
    """The one function that times ONNX Runtime imports it itself."""
    offences = {
        f"{path.name} imports {name}"
        for path in sorted((PACKAGE / "pruning").rglob("*.py"))
        for _, name in imports(path)
        if name.split(".")[0] not in ALLOWED_IN_PRUNING
    }
    assert offences == {"latency.py imports onnx", "latency.py imports onnxruntime"}


def test_pruning_imports_where_nothing_else_is_installed() -> None:
    blocked = ["lightning", "ultralytics", "torchvision", "onnx", "onnxruntime", "cv2", "matplotlib"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import yolo_slim.pruning as p; print(p.prune)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_floor_needs_the_standard_library_only(name: str) -> None:
    found = {top for _, full in imports(PACKAGE / f"{name}.py") if (top := full.split(".")[0]) != "__future__"}
    assert found <= {*sys.stdlib_module_names, *GROUND[name], "yolo_slim"}


def test_package_root_is_light() -> None:
    code = "import sys, yolo_slim; print({'torch', 'lightning', 'ultralytics'} & set(sys.modules) or yolo_slim.load)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert "function load" in found.stdout


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c as d", {"a.b", "c"}),
        ("from a import b", {"a", "a.b"}),
        ("def f():\n    from a.b import c", {"a.b", "a.b.c"}),
        ("from ..detection import x", {"yolo_slim.detection", "yolo_slim.detection.x"}),
        ("from . import y", {"yolo_slim.folder", "yolo_slim.folder.y"}),
        ("importlib.import_module('a.b')", {"a.b"}),
        ("__import__('a')", {"a"}),
        ("print('import a')", set()),
    ],
)
def test_imports_are_found_in_every_form(tmp_path: Path, source: str, names: set[str]) -> None:
    path = tmp_path / "yolo_slim" / "folder" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert {name for _, name in imports(path, tmp_path)} == names


def below(name: str, top: str) -> bool:
    """Whether a module is the given one or lies in it."""
    return name == top or name.startswith(f"{top}.")


def imports(path: Path, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports anywhere, in functions and by string as well."""
    folder = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else ()
            source = ".".join([*start, *([node.module] if node.module else [])])
            yield node.lineno, source
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)
