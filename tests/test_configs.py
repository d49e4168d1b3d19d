"""Every shipped YAML parses, key by key, and says what its penalty and selection are."""

from __future__ import annotations

import pytest
import yaml
from jsonargparse import set_parsing_settings

from tests.helpers.places import ROOT
from yolo_slim.commands.fit import SlimCLI
from yolo_slim.commands.prune import parser as prune_parser
from yolo_slim.commands.slim import parser as slim_parser

FIT = ("baseline", "sparse", "growing", "finetune", "paper")
SLIM = ("configs/slim.yaml", "configs/demo.yaml", *(str(p.relative_to(ROOT)) for p in ROOT.glob("benchmarks/*.yaml")))


@pytest.fixture(scope="module", autouse=True)
def settings():
    set_parsing_settings(docstring_parse_attribute_docstrings=True)


@pytest.fixture(scope="module")
def fit_parser():
    class ParserOnly(SlimCLI):
        def parse_arguments(self, parser, args):
            raise StopIteration

    made = object.__new__(ParserOnly)
    with pytest.raises(StopIteration):
        made.__init__([])
    return made._subcommand_parsers["fit"]


@pytest.mark.parametrize("name", FIT)
def test_fit_configs(fit_parser, name):
    given = fit_parser.parse_args(["-c", str(ROOT / "configs" / f"{name}.yaml"), "--data.data", "shapes"])
    assert given.name in (name, "sparse")
    assert given.trainer.max_epochs >= 30


def test_paper_is_the_published_rule(fit_parser):
    given = fit_parser.parse_args(["-c", str(ROOT / "configs" / "paper.yaml"), "--data.data", "shapes"])
    arguments = given.trainer.callbacks[0].init_args
    assert (arguments.penalty, arguments.strength, arguments.final_fraction) == ("subgradient", 0.01, 0.1)
    assert arguments.shortcuts == "spare"


def test_prune_config():
    given = prune_parser().parse_args(["-c", str(ROOT / "configs" / "prune.yaml"), "--model.weights", "x.ckpt"])
    assert given.selection.ratio == 0.5


@pytest.mark.parametrize("file", SLIM)
def test_slim_configs(file):
    given = slim_parser().parse_args(["-c", str(ROOT / file), "--data.data", "shapes"])
    assert given.sparse.sparsity.penalty == "growing"
    parts = slim_parser().instantiate_classes(given)
    assert parts.sparse.sparsity.selection == parts.prune.selection
    assert parts.sparse.sparsity.selection.ratio == given.prune.selection.ratio


def test_every_config_is_listed_here_and_commented():
    listed = {f"configs/{n}.yaml" for n in (*FIT, "prune")} | set(SLIM)
    found = {str(p.relative_to(ROOT)) for folder in ("configs", "benchmarks") for p in ROOT.glob(f"{folder}/*.yaml")}
    assert found == listed
    for file in found:
        text = (ROOT / file).read_text()
        assert text.startswith("# ")
        assert yaml.safe_load(text)
