"""Rounds: the way of each, when they end, and a run of two that is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers.hostile.pickles import write_small
from tests.helpers.hostile.refused import refused
from yolo_slim.commands.entry import main
from yolo_slim.detection import YOLODataModule
from yolo_slim.pruning import Selection
from yolo_slim.workflow import RecipeSettings, RoundSettings, recipe
from yolo_slim.workflow.phases import phases_of
from yolo_slim.workflow.rounds import ends, left_after, rounds_within, selection_in

DENSE = {"max_params": 3_000_000.0, "max_flops": 8e9}


@pytest.mark.parametrize(("schedule", "wanted"), [("geometric", [0.8, 0.64]), ("linear", [0.82, 0.64])])
def test_the_way_of_each_round(schedule, wanted):
    rounds = RoundSettings(count=2, schedule=schedule)
    assert [left_after(0.64, number, rounds) for number in (0, 1, 2)] == pytest.approx([1.0, *wanted])


def test_budgets_are_of_the_dense_model_and_ratios_of_the_one_at_hand():
    rounds = RoundSettings(count=3)
    by_flops = [selection_in(Selection(max_flops="50%"), n, rounds, DENSE).max_flops for n in (1, 2, 3)]
    assert by_flops == pytest.approx([8e9 * 0.5 ** (n / 3) for n in (1, 2, 3)])
    by_number = [selection_in(Selection(max_params=1_500_000), n, rounds, DENSE).max_params for n in (1, 2, 3)]
    assert by_number == pytest.approx([3e6 * 0.5 ** (n / 3) for n in (1, 2, 3)])
    left = 1.0
    for number in (1, 2, 3):
        asked = selection_in(Selection(ratio=0.4, ratios={"head": 0.2}), number, rounds, {})
        left *= 1 - asked.ratio
        assert asked.ratio_list == [("head", pytest.approx(1 - 0.8 ** (1 / 3)))]
    assert left == pytest.approx(0.6)
    time = [selection_in(Selection(max_latency="60%"), n, rounds, {}).max_latency for n in (1, 2, 3)]
    assert [float(share.rstrip("%")) for share in time] == pytest.approx([100 * 0.6 ** (1 / 3)] * 3, rel=1e-5)


def test_one_round_asks_for_what_is_asked():
    whole = Selection(max_flops="50%", ratios={"head": 0.2})
    assert selection_in(whole, 1, RoundSettings(), {}) is whole


def test_a_budget_above_the_dense_model_asks_for_nothing():
    assert selection_in(Selection(max_flops=9e9), 1, RoundSettings(count=2), DENSE).max_flops == 8e9


@pytest.mark.parametrize(
    ("scores", "patience", "end", "result"),
    [
        ([0.50, 0.495], 1, False, 2),
        ([0.50, 0.48], 1, True, 1),
        ([0.48], 1, True, 0),
        ([0.48], 2, False, 0),
        ([0.48, 0.47], 2, True, 0),
        ([0.48, 0.495], 2, False, 2),
        ([0.495, 0.48, 0.47], 2, True, 1),
    ],
)
def test_rounds_end_where_too_much_is_lost(scores, patience, end, result):
    rounds = RoundSettings(count=5, max_drop=0.01, patience=patience)
    assert (ends(0.5, scores, rounds), rounds_within(0.5, scores, rounds)) == (end, result)


def test_without_a_limit_all_rounds_run():
    assert not ends(0.5, [0.1, 0.0], RoundSettings(count=5))
    assert rounds_within(0.5, [0.1, 0.0], RoundSettings(count=5)) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "expected at least 1"),
        ({"patience": 0}, "expected at least 1"),
        ({"epochs": 0}, "rounds.epochs=0: expected at least 1"),
        ({"max_drop": -0.1}, "expected a difference of mAP"),
        ({"schedule": "cubic"}, "expected geometric or linear"),
    ],
)
def test_settings_out_of_range(values, message):
    with pytest.raises(ValueError, match=message):
        RoundSettings(**values)


def settings(count: int, **changes) -> RecipeSettings:
    made = RecipeSettings(YOLODataModule("shapes"), rounds=RoundSettings(count=count))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_one_round_has_the_folders_of_old():
    assert [phase.folder for phase in phases_of(settings(1))] == ["baseline", "sparse", "prune", "finetune"]
    assert [phase.state for phase in phases_of(settings(1))] == ["baseline", "sparse", "slim", "finetuned"]


def test_phases_of_several_rounds():
    folders = [phase.folder for phase in phases_of(settings(2))]
    kinds = ("sparse", "prune", "finetune")
    assert folders == ["baseline", *(f"round-{n}/{kind}" for n in (1, 2) for kind in kinds)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--finetune.enabled", "false"], "rounds.count=2 with finetune.enabled false"),
        (["--prune.selection.max_latency", "8ms"], "give the latency as a share"),
        (["--prune.selection.sensitivity", "runs/x"], "rounds.sensitivity true"),
        (["--prune.selection.max_flops", "1000"], "max_flops=1,000: the smallest that can be reached"),
    ],
)
def test_what_a_later_round_cannot_do_is_found_out_at_once(config, tmp_path, monkeypatch, capsys, keys, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, ["slim", "-c", str(config), *keys])
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def config(tmp_path_factory, shapes_dir) -> Path:
    hyp = {"optimizer": "AdamW", "lr0": 0.001, "nbs": 4, "warmup_epochs": 1.0}
    folder = tmp_path_factory.mktemp("config")
    file = folder / "rounds.yaml"
    text = {
        "model": {"model": str(write_small(folder))},
        "data": {"data": str(shapes_dir / "data.yaml"), "imgsz": 64, "batch": 4, "workers": 0},
        "trainer": {"accelerator": "cpu"},
        "baseline": {"epochs": 1, "hyp": hyp},
        "sparse": {"enabled": False},
        "prune": {"selection": {"max_flops": "50%", "round_to": 1}, "importance": {"kind": "taylor"}, "batches": 2},
        "finetune": {"epochs": 5, "hyp": hyp},
        "rounds": {"count": 2, "epochs": 1},
    }
    file.write_text(yaml.safe_dump(text))
    return file


@pytest.fixture(scope="module")
def straight(tmp_path_factory, config) -> Path:
    """Run folder of two rounds without interruption."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["slim", "-c", str(config), "--rounds.sensitivity", "true"])
    return folder / "runs" / "slim"


def result(run: Path, phase: str) -> dict:
    return yaml.safe_load((run / phase / "result.yaml").read_text())


def weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def test_every_round_goes_its_part_of_the_way(straight):
    gflops = [result(straight, phase)["gflops"] for phase in ("baseline", "round-1/prune", "round-2/prune")]
    for number in (1, 2):
        assert 0.97 * 0.5 ** (number / 2) < gflops[number] / gflops[0] <= 0.5 ** (number / 2)
    assert (straight / "round-2" / "sensitivity" / "sensitivity.csv").is_file()
    plan = yaml.safe_load((straight / "round-2" / "prune" / "pruning.yaml").read_text())
    assert "by calibrate of" in plan["request"]
    assert plan["measured_rise"] is not None
    table = (straight / "results.md").read_text()
    states = [line.split("|")[1].strip() for line in table.split("\n\n")[0].splitlines()[2:]]
    assert states == ["baseline", "slim 1", "finetuned 1", "slim 2", "finetuned 2"]
    assert (straight / "report.html").read_text().count("data:image/png;base64") == 2
    assert (straight / "rounds.png").is_file()


def test_a_run_that_is_interrupted_anywhere_equals_the_straight_one(straight, config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["slim", "-c", str(config), "--rounds.sensitivity", "true"]
    calls = []
    usual = recipe.prune_file

    def power_cut(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("power cut")
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "prune_file", power_cut)
        assert "power cut" in refused(capsys, command)
    run = tmp_path / "runs" / "slim"
    assert (run / "round-1" / "finetune" / "result.yaml").is_file()
    main(command)
    for phase in ("round-1", "round-2"):
        one, other = (weights(folder / phase / "finetune" / "last.ckpt") for folder in (straight, run))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_last_round_within_the_limit_is_the_result(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measured = iter([0.5, 0.1, 0.495, 0.1, 0.4])  # baseline, then each prune and finetune
    usual = recipe.read_result
    told: dict[Path, float] = {}

    def scored(file: Path) -> dict:
        if file not in told:
            told[file] = next(measured)
        return {**usual(file), "map": told[file]}

    monkeypatch.setattr(recipe, "read_result", scored)
    main(["slim", "-c", str(config), "--rounds.max_drop", "0.01", "--rounds.count", "3", "--rounds.patience", "1"])
    shown = capsys.readouterr().out
    assert "more than rounds.max_drop=0.01 below the baseline" in shown
    run = tmp_path / "runs" / "slim"
    assert not (run / "round-3").exists()
    assert "The finetuned 1 model is" in shown
    assert "The result is finetuned 1" in (run / "results.md").read_text()
