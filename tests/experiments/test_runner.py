"""Runs that are stopped and go on, shared between tables, and kept when they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgenode import config
from edgenode.errors import CheckpointError, ConfigError
from edgenode.experiments import runner
from edgenode.experiments.definitions import Experiment, Outcome, Row
from edgenode.experiments.presets import choose
from edgenode.experiments.runner import Cell, Outcomes
from edgenode.simulate.runner import Simulation


class Stopped(Exception):
    """As Ctrl-C, but when we say."""


def stop_at(t: int) -> Callable[[Simulation], Callable[[], None]]:
    def watch(simulation: Simulation) -> Callable[[], None]:
        def after_round() -> None:
            if simulation.round == t:
                raise Stopped

        return after_round

    return watch


def unwatched(simulation: Simulation) -> Callable[[], None]:
    return lambda: None


def untimed(outcome: Outcome) -> Outcome:
    parts = {key: value for key, value in outcome.items() if key != "wall_s"}
    if "before_gossip" in parts:
        parts["before_gossip"] = {k: v for k, v in parts["before_gossip"].items() if k != "wall_s"}
    return parts


def cells(experiment: Experiment, seeds: int = 1) -> list[Cell]:
    return runner.cells(experiment.rows(choose("smoke")), range(seeds))


def test_there_is_a_run_for_every_row_that_the_scale_has_and_every_seed(tiny: Experiment) -> None:
    names = [cell.name for cell in cells(tiny, 2)]
    assert names == ["small-100-seed-0", "small-1-seed-0", "small-100-seed-1", "small-1-seed-1"]
    assert {cell.config.run.threads for cell in cells(tiny)} == {1}


def test_a_key_can_be_set_for_every_run_whatever_its_row_says(tiny: Experiment) -> None:
    rows = tiny.rows(choose("smoke"))
    ours = {"task.learning_rate": "0.03", "run.rounds": "100", "run.threads": "2"}
    for cell, plain in zip(runner.cells(rows, [1], overrides=ours), runner.cells(rows, [1]), strict=True):
        assert (cell.config.task.learning_rate, cell.config.run.rounds, cell.config.run.threads) == (0.03, 100, 2)
        assert cell.config.run.checkpoint_every == 5
        assert cell.config.algorithm == plain.config.algorithm and cell.name == plain.name
        assert cell.digest != plain.digest


@pytest.mark.parametrize("key", ["run.seed", "run.device"])
def test_what_an_experiment_sets_itself_cannot_be_set(tiny: Experiment, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} cannot be set for an experiment"):
        runner.cells(tiny.rows(choose("smoke")), [0], overrides={key: "1"})


@pytest.mark.parametrize("at", [3, 4, 5])  # while it trains, as it ends, while it gossips
def test_a_run_that_was_stopped_goes_on_to_the_same_outcome(tiny: Experiment, tmp_path: Path, at: int) -> None:
    cell = cells(tiny)[1]
    whole = Outcomes(tmp_path / "whole").play(cell, unwatched)
    outcomes = Outcomes(tmp_path / "stopped")
    with pytest.raises(Stopped):
        outcomes.play(cell, stop_at(at))
    assert outcomes.get(cell) is None
    went_on_from = []
    outcome = outcomes.play(cell, lambda simulation: went_on_from.append(simulation.round) or unwatched(simulation))
    assert went_on_from == [at if at < 4 else 0]  # what SP had is not known any more, once gossip is on the disk
    assert untimed(outcome) == untimed(whole)
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == [f"{cell.digest}.json"]


def test_an_outcome_holds_sp_and_scsp_and_is_found_again(tiny: Experiment, tmp_path: Path) -> None:
    cell, other = cells(tiny)
    outcomes = Outcomes(tmp_path)
    outcome = outcomes.play(cell, unwatched)
    assert (outcome["algorithm"], outcome["before_gossip"]["algorithm"]) == ("scsp", "sp")
    assert outcome["nodes"][0]["rounds"] == 6 and outcome["before_gossip"]["nodes"][0]["rounds"] == 4
    assert outcomes.get(replace(cell, row=other.row)) == outcome
    assert outcomes.get(other) is None


def test_a_run_that_diverges_has_an_outcome_too(tiny: Experiment, tmp_path: Path) -> None:
    row = Row(("wild",), {**dict(tiny.rows(choose("smoke"))[0].settings or {}), "task.learning_rate": 1e30})
    (cell,) = runner.cells([row], [0])
    outcome = Outcomes(tmp_path).play(cell, unwatched)
    assert "diverged" in outcome["error"]
    assert Outcomes(tmp_path).get(cell) == outcome


def test_what_cannot_be_is_no_outcome(tiny: Experiment, tmp_path: Path) -> None:
    row = Row(("none",), {**dict(tiny.rows(choose("smoke"))[0].settings or {}), "task.dataset": "digit"})
    (cell,) = runner.cells([row], [0])
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        Outcomes(tmp_path).play(cell, unwatched)
    assert Outcomes(tmp_path).get(cell) is None


def test_a_torn_outcome_is_named(tiny: Experiment, tmp_path: Path) -> None:
    (tmp_path / f"{cells(tiny)[0].digest}.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot be read.*remove it"):
        Outcomes(tmp_path).get(cells(tiny)[0])


def test_a_digest_is_of_what_is_said_and_not_of_where_it_runs(tiny: Experiment) -> None:
    rows = tiny.rows(choose("smoke"))
    keys = dict(rows[0].settings or {})
    alike = [keys, keys | {"task.momentum": 0.9}, keys | {"task.data_dir": "elsewhere"}]  # a default; a local key
    runs = runner.cells([replace(rows[0], settings=changed) for changed in [*alike, keys | {"task.skew": 0.5}]], [0])
    assert len({run.digest for run in runs[:3]}) == 1
    assert runs[3].digest != runs[0].digest


def test_every_run_toml_says_all_of_its_run(tiny: Experiment, tmp_path: Path) -> None:
    runs = cells(tiny, 2)
    runner.write_configs(runs, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"{run.name}.toml" for run in runs}
    assert all(config.load(tmp_path / f"{run.name}.toml", environ={}) == run.config for run in runs)
