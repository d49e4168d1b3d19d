"""The house: floors, faces, no arrow up, no circle; see ``docs/design.md``."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests.helpers.imports import (
    PACKAGE,
    all_imports,
    below,
    documents,
    face,
    folder_named,
    folder_of,
    imports,
    imports_in_documents,
    module_name,
    module_of,
    no_circle,
    outside_imports,
)
from tests.helpers.places import ROOT

#: Files of the ground floor, of the standard library alone but for one package.
GROUND = {"files": set(), "wording": set(), "documents": {"yaml"}, "version": set(), "lazy": set()}
#: Folder -> the folders that it may import from.
FLOORS = {
    "pruning": set(),
    "callbacks": {"pruning"},
    "detection": {"pruning"},
    "reporting": {"pruning"},
    "workflow": {"pruning", "callbacks", "detection", "reporting"},
    "commands": {"pruning", "callbacks", "detection", "reporting", "workflow"},
}
LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities")
#: What may not be loaded by importing a folder with everything in it, besides other folders.
HEAVY = {
    "pruning": (*LIGHTNING, "ultralytics", "torchmetrics", "torchvision"),
    "callbacks": ("ultralytics",),
    "detection": (),
    "reporting": ("ultralytics", *LIGHTNING),
}
ALLOWED_IN_PRUNING = {*sys.stdlib_module_names, "torch", "numpy", "yaml", "yolo_slim"}

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

# Imports every module, and then looks whether each name of a folder is still the module of that name.
NAME_MODULES = """
import importlib, pkgutil, types
import yolo_slim
for info in pkgutil.walk_packages(yolo_slim.__path__, "yolo_slim."):
    if not info.name.endswith("__main__"):
        importlib.import_module(info.name)
        parent, _, name = info.name.rpartition(".")
        parent = importlib.import_module(parent)
        assert isinstance(getattr(parent, name), types.ModuleType), f"something shadows {info.name}"
        assert name not in getattr(parent, "__all__", ()), f"a face offers {info.name}, which is a module"
"""


# What is loaded


@pytest.mark.parametrize("folder", HEAVY)
def test_fresh_interpreter_loads_nothing_from_above_or_beside(folder: str) -> None:
    others = [f"yolo_slim.{other}" for other in FLOORS if other != folder and other not in FLOORS[folder]]
    result = run(IMPORT_ALL, f"yolo_slim.{folder}", *HEAVY[folder], *others)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) >= 4


def test_package_root_is_light() -> None:
    heavy = ("torch", "lightning", "ultralytics", "numpy", "torchmetrics")
    result = run(IMPORT_ALL, "yolo_slim", *heavy)
    assert result.returncode == 0, result.stderr
    code = "import sys, yolo_slim; print({'torch', 'lightning', 'ultralytics'} & set(sys.modules) or yolo_slim.load)"
    assert "function load" in run(code).stdout


def test_pruning_imports_where_nothing_else_is_installed() -> None:
    blocked = [*LIGHTNING, "ultralytics", "torchvision", "onnx", "onnxruntime", "cv2", "matplotlib"]
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import yolo_slim.pruning as p; print(p.prune)"
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_no_name_shadows_a_module() -> None:
    result = run(NAME_MODULES)
    assert result.returncode == 0, result.stderr


# What is named


def test_imports_go_down() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, line, name in all_imports(PACKAGE)
        if (home := folder_of(path)) in FLOORS
        and (there := folder_named(name)) is not None
        and there not in {home, *FLOORS[home], *GROUND}
    ]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_floor_needs_the_standard_library_only(name: str) -> None:
    tops = {full.split(".")[0] for _, full in imports(PACKAGE / f"{name}.py")} - {"__future__"}
    assert tops <= {*sys.stdlib_module_names, *GROUND[name], "yolo_slim"}
    inside = {folder_named(full) for _, full in imports(PACKAGE / f"{name}.py")} - {None}
    assert inside <= set(GROUND)


def test_only_detection_names_ultralytics() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, line, name in all_imports(PACKAGE)
        if folder_of(path) != "detection" and below(name, "ultralytics")
    ]
    assert not offences, "\n".join(offences)


def test_callbacks_name_lightning_in_one_file_only() -> None:
    """All others take it from there, and so work with the one of Lightning's two packages that is installed."""
    offences = {
        f"{path.name}:{line} imports {name}"
        for path, line, name in all_imports(PACKAGE / "callbacks")
        if path.name != "framework.py" and any(below(name, top) for top in LIGHTNING)
    }
    assert not offences, "\n".join(offences)


def test_pruning_needs_torch_numpy_and_yaml_only() -> None:
    """What times ONNX Runtime and OpenVINO imports them itself."""
    offences = {
        f"{path.name} imports {name}"
        for path, _, name in all_imports(PACKAGE / "pruning")
        if name.split(".")[0] not in ALLOWED_IN_PRUNING
    }
    assert offences == {"latency.py imports onnx", "latency.py imports onnxruntime", "runtimes.py imports openvino"}


def test_private_names_of_others_are_in_four_files_only() -> None:
    """Ruff's SLF001 sees those that are reached as attributes; these are the ones that are imported."""
    rooms = {"torch_private.py", "framework.py", "private.py", "lightning_private.py"}
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, line, name in all_imports(PACKAGE)
        if path.name not in rooms
        and any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
        and not below(name, "yolo_slim")
    ]
    assert not offences, "\n".join(offences)


# Faces


def test_who_is_outside_of_a_folder_imports_from_its_face() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, line, name in [*outside_imports(), *imports_in_documents()]
        if (there := folder_named(name)) in FLOORS
        and folder_of(path) != there
        and name.count(".") > 1
        and name.split(".")[2] not in face(there)
    ]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize("folder", FLOORS)
def test_a_face_offers_what_somebody_outside_names(folder: str) -> None:
    used = {
        name.split(".")[2]
        for path, _, name in [*outside_imports(), *imports_in_documents()]
        if folder_named(name) == folder and folder_of(path) != folder and name.count(".") > 1
    }
    used |= set(re.findall(rf"yolo_slim\.{folder}\.(\w+)", documents() + (ROOT / "train.py").read_text()))
    assert sorted(face(folder) - used) == []


def test_type_checkers_see_the_names_that_a_lazy_face_offers() -> None:
    lazy = [path for path in PACKAGE.rglob("__init__.py") if "import face" in path.read_text()]
    assert {path.parent.name for path in lazy} == {"detection", "reporting", "workflow"}
    for path in lazy:
        table = {}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                table = {ast.literal_eval(k): set(ast.literal_eval(v).split()) for k, v in pairs}
        seen: dict[str, set[str]] = {}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"yolo_slim.{path.parent.name}."):
                module = node.module.removeprefix(f"yolo_slim.{path.parent.name}.")
                seen.setdefault(module, set()).update(alias.name for alias in node.names)
                assert all(alias.asname == alias.name for alias in node.names), "not said to be offered"
        assert seen == table


# Tests


def test_no_test_imports_from_another() -> None:
    offences = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path, line, name in all_imports(ROOT / "tests")
        if below(name, "tests") and not below(name, "tests.helpers") and name != "tests"
    ]
    assert not offences, "\n".join(offences)


def test_files_are_short() -> None:
    folders = [PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "examples"]
    lengths = {path: len(path.read_text().splitlines()) for folder in folders for path in folder.rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 300} == {}


# Circles


def test_no_circle_of_files() -> None:
    """Imports for type checkers count, and those inside of functions."""
    names = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    arrows: dict[str, set[str]] = {}
    for name, path in names.items():
        named = list(imports(path))
        # ``from a import b`` is not an import of a's own names where b is a module.
        modules = {(line, full.rpartition(".")[0]) for line, full in named if full in names}
        found = {module_of(full, names) for line, full in named if (line, full) not in modules}
        arrows[name] = {other for other in found if other and other != name}
    no_circle(arrows)


@pytest.mark.parametrize("folder", ["pruning", "callbacks", "detection"])
def test_no_circle_of_rooms(folder: str) -> None:
    arrows: dict[str, set[str]] = {}
    for path, _, name in all_imports(PACKAGE / folder):
        parts, here = name.split("."), path.relative_to(PACKAGE / folder).parts
        if parts[:2] == ["yolo_slim", folder] and len(parts) > 2 and len(here) > 1:
            room = parts[2] if (PACKAGE / folder / parts[2]).is_dir() else f"{parts[2]}.py"
            if room != here[0]:
                arrows.setdefault(here[0], set()).add(room)
    assert arrows
    no_circle(arrows)


# Reading the code


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, capture_output=True)
