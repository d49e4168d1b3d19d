"""What the documents say is so: links lead somewhere, files exist, the network of the design is as told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.imports import document_files
from tests.helpers.places import ROOT


@pytest.mark.parametrize("file", document_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", file.read_text(encoding="utf-8"))
    gone = [link for link in links if "://" not in link and not (file.parent / link).exists()]
    assert not gone


@pytest.mark.parametrize("file", [ROOT / "CONTRIBUTING.md", ROOT / "README.md"], ids=lambda file: file.name)
def test_files_that_are_named_exist(file: Path) -> None:
    named = set(re.findall(r"`((?:yolo_slim|tests|docs|configs|benchmarks|examples)/[\w./]+)`", file.read_text()))
    named |= {
        f"yolo_slim/{name}"
        for name in re.findall(r"`((?:pruning|callbacks|detection|commands)/[\w./]+)`", file.read_text())
    }
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and f"]({p.name})" not in index] == []


def test_the_rooms_of_the_design_are_those_of_the_package() -> None:
    tree = re.search(r"```\n(train\.py.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)[1]
    told = set(re.findall(r"^ +(\w+)/ ", tree, re.MULTILINE))
    rooms = {p.name for p in (ROOT / "yolo_slim").rglob("*") if p.is_dir() and p.name not in ("__pycache__", "rules")}
    assert told == rooms


def test_the_network_of_the_design_has_the_groups_that_it_tells_of() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "design.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(block, names)
    graph = names["graph"]
    assert graph.num_groups == 9
    assert graph.fixed.tolist() == [False] * 4 + [True] * 5
    for tensor, axis in [("stem.weight", 0), ("body.weight", 0), ("body.weight", 1), ("head.weight", 1)]:
        assert graph.axes[tensor][axis].tolist() == [0, 1, 2, 3]
    assert graph.axes["stem.weight"][1].tolist() == [4, 5, 6]
    assert not any(layer.prunable.any() for layer in graph.prunable_layers("spare"))


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make (\w+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert targets == {"test", "lint", "format", "slow", "help"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
