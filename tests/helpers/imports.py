"""What the code imports, read from its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.helpers.places import ROOT

PACKAGE = ROOT / "yolo_slim"


def face(folder: str) -> set[str]:
    """The names that a folder offers."""
    from importlib import import_module

    return set(import_module(f"yolo_slim.{folder}").__all__)


def below(name: str, top: str) -> bool:
    """Whether a module is the given one or lies in it."""
    return name == top or name.startswith(f"{top}.")


def folder_of(path: Path) -> str | None:
    """The folder of the package that a file is in."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if parts[0] == "yolo_slim" and len(parts) > 2 else None


def folder_named(name: str) -> str | None:
    """The folder or file of the package that an imported name is in."""
    parts = name.split(".")
    return parts[1] if parts[0] == "yolo_slim" and len(parts) > 1 else None


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def module_of(name: str, names: dict[str, Path]) -> str | None:
    """The module of the package that an imported name is or comes from; packages without a face are none."""
    for found in (name, name.rpartition(".")[0]):
        if found in names:
            is_face = names[found].name != "__init__.py" or bool(names[found].read_text())
            return found if is_face else None
    return None


def no_circle(arrows: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        raise AssertionError("a circle: " + " <- ".join(error.args[1])) from error


def all_imports(folder: Path) -> Iterator[tuple[Path, int, str]]:
    for path in sorted(folder.rglob("*.py")):
        yield from ((path, line, name) for line, name in imports(path))


def outside_imports() -> Iterator[tuple[Path, int, str]]:
    """Imports of the package's own folders, and of what is beside it."""
    yield from ((ROOT / "train.py", line, name) for line, name in imports(ROOT / "train.py"))
    for folder in (PACKAGE, ROOT / "benchmarks", ROOT / "examples"):
        yield from all_imports(folder)


def document_files() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")]


def documents() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in document_files())


def imports_in_documents() -> Iterator[tuple[Path, int, str]]:
    """What the Python in documents imports."""
    for path in document_files():
        for block in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            try:
                tree = ast.parse(block)
            except SyntaxError:  # a part of something
                continue
            yield from ((path, line, name) for line, name in names_in(tree, ()))


def imports(path: Path, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a file imports anywhere, in functions and by string as well."""
    yield from names_in(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).parent.parts)


def names_in(tree: ast.AST, folder: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
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
