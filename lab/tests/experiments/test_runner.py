"""Trials resume after an interruption, are shared between tables, and keep an outcome when they diverge."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgenode.config.load import load
from edgenode.config.schema import KEYS
from edgenode.errors import CheckpointError, ConfigError
from edgenode.simulate.simulation import Simulation
from edgenode_lab.experiments import runner
from edgenode_lab.experiments.catalogue import EXPERIMENTS
from edgenode_lab.experiments.definitions import Experiment, Outcome, Row
from edgenode_lab.experiments.runner import OutcomeStore, Trial
from edgenode_lab.experiments.scales import choose_scale


class Stopped(Exception):
    """As Ctrl-C, but in a chosen round."""


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


def trials(experiment: Experiment, seeds: int = 1) -> list[Trial]:
    return runner.trials(experiment.rows(choose_scale("smoke")), range(seeds))


def test_every_row_of_the_scale_has_a_trial_for_every_seed(tiny: Experiment) -> None:
    names = [trial.name for trial in trials(tiny, 2)]
    assert names == ["small-100-seed-0", "small-1-seed-0", "small-100-seed-1", "small-1-seed-1"]
    assert {trial.config.run.threads for trial in trials(tiny)} == {1}


def test_overrides_replace_the_keys_of_every_row(tiny: Experiment) -> None:
    overridden = {"task.learning_rate": "0.03", "run.rounds": "100", "run.threads": "2"}
    changed = runner.rows_as_run(tiny, choose_scale("smoke"), overridden)
    for trial, plain in zip(runner.trials(changed, [1]), trials(tiny, 2)[2:], strict=True):
        assert (trial.config.task.learning_rate, trial.config.run.rounds, trial.config.run.threads) == (0.03, 100, 2)
        assert (trial.config.run.checkpoint_every, trial.config.run.evaluate_every) == (5, 100)
        assert trial.config.algorithm == plain.config.algorithm and trial.name == plain.name
        assert trial.digest != plain.digest


@pytest.mark.parametrize("key", ["run.seed", "run.device", "run.evaluate_every", "algorithm.name"])
def test_keys_that_an_experiment_sets_cannot_be_overridden(tiny: Experiment, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} cannot be set for an experiment"):
        runner.rows_as_run(tiny, choose_scale("smoke"), {key: "1"})


def test_rows_that_an_override_makes_equal_appear_once() -> None:
    rows = runner.rows_as_run(EXPERIMENTS["fig2"], choose_scale("smoke"), {"task.skew": "0.5"})
    assert [row.labels for row in rows] == [("0.5", percent) for percent in ("100", "10", "1", "0.1")]


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, 4, 5, 6])  # while it trains, as it ends, while it gossips, at the end
def test_stopped_trial_resumes_to_the_same_outcome(tiny: Experiment, tmp_path: Path, at: int) -> None:
    trial = trials(tiny)[1]
    whole = OutcomeStore(tmp_path / "whole").run(trial, unwatched)
    assert stopped_and_resumed(trial, tmp_path / "stopped", at, resumed_at=at) == untimed(whole)
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["outcomes.jsonl"]


@pytest.mark.slow
def test_trial_that_lost_the_result_of_sp_starts_over(tiny: Experiment, tmp_path: Path) -> None:
    trial = trials(tiny)[1]
    whole = OutcomeStore(tmp_path / "whole").run(trial, unwatched)
    assert stopped_and_resumed(trial, tmp_path / "stopped", 5, resumed_at=0, damaged=True) == untimed(whole)


def stopped_and_resumed(trial: Trial, out: Path, at: int, *, resumed_at: int, damaged: bool = False) -> Outcome:
    outcomes = OutcomeStore(out)
    with pytest.raises(Stopped):
        outcomes.run(trial, stop_at(at))
    assert outcomes.get(trial) is None
    if damaged:
        (out / "checkpoints" / trial.config.digest(rounds=True)[:16] / "before-gossip.json").unlink()
    began = []
    outcome = outcomes.run(trial, lambda simulation: began.append(simulation.round) or unwatched(simulation))
    assert began == [resumed_at]
    return untimed(outcome)


def test_outcome_holds_sp_and_scsp_and_is_found_again(tiny: Experiment, tmp_path: Path) -> None:
    trial, other = trials(tiny)
    outcomes = OutcomeStore(tmp_path)
    outcome = outcomes.run(trial, unwatched)
    assert (outcome["algorithm"], outcome["before_gossip"]["algorithm"]) == ("scsp", "sp")
    assert outcome["nodes"][0]["rounds"] == 6 and outcome["before_gossip"]["nodes"][0]["rounds"] == 4
    assert outcomes.get(replace(trial, row=other.row)) == outcome
    assert outcomes.get(other) is None


def test_diverged_trial_has_an_outcome(tiny: Experiment, tmp_path: Path) -> None:
    row = Row(("wild",), {**dict(tiny.rows(choose_scale("smoke"))[0].settings or {}), "task.learning_rate": 1e30})
    (trial,) = runner.trials([row], [0])
    outcome = OutcomeStore(tmp_path).run(trial, unwatched)
    assert "diverged" in outcome["error"]
    assert OutcomeStore(tmp_path).get(trial) == outcome


def test_invalid_configuration_leaves_no_outcome(tiny: Experiment, tmp_path: Path) -> None:
    row = Row(("none",), {**dict(tiny.rows(choose_scale("smoke"))[0].settings or {}), "task.dataset": "digit"})
    (trial,) = runner.trials([row], [0])
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        OutcomeStore(tmp_path).run(trial, unwatched)
    assert OutcomeStore(tmp_path).get(trial) is None


def test_damaged_outcome_is_named(tiny: Experiment, tmp_path: Path) -> None:
    trial, other = trials(tiny)
    for text in ("{", "[]", "{}", '{"config": 3}', '{"config": {"run": 3}}'):
        (tmp_path / "outcomes.jsonl").write_text(text + "\n")
        for either in (trial, other):
            with pytest.raises(CheckpointError, match=r"line 1 cannot be read.*remove the line"):
                OutcomeStore(tmp_path).get(either)


def test_line_of_an_interrupted_worker_gives_way_to_the_next(tiny: Experiment, tmp_path: Path) -> None:
    first, second = trials(tiny)
    outcomes = OutcomeStore(tmp_path)
    kept = outcomes.run(first, unwatched)
    with (tmp_path / "outcomes.jsonl").open("a") as file:
        file.write('{"config": {"run"')
    assert (outcomes.get(first), outcomes.get(second)) == (kept, None)
    assert outcomes.keep(second, {**kept, "config": second.config.as_dict()}) == outcomes.get(second)
    assert OutcomeStore(tmp_path).get(first) == kept


def test_outcome_of_another_process_is_found(tiny: Experiment, tmp_path: Path) -> None:
    trial, _ = trials(tiny)
    ours, theirs = OutcomeStore(tmp_path), OutcomeStore(tmp_path)
    assert ours.get(trial) is None
    assert ours.get(trial) != theirs.run(trial, unwatched) == ours.get(trial)


def test_default_that_changes_does_not_make_one_trial_of_another(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {k: v for k, v in (tiny.rows(choose_scale("smoke"))[0].settings or {}).items() if k != "task.momentum"}
    by_default, changed = runner.trials(
        [Row(("default",), keys), Row(("changed",), keys | {"task.momentum": 0.5})], [0]
    )
    outcome = OutcomeStore(tmp_path).run(by_default, unwatched)
    monkeypatch.setitem(KEYS, "task.momentum", KEYS["task.momentum"]._replace(default=0.5))
    assert OutcomeStore(tmp_path).get(changed) is None
    assert OutcomeStore(tmp_path).get(by_default) == outcome


def test_outcome_stays_valid_when_edgenode_gains_a_key(tiny: Experiment, tmp_path: Path) -> None:
    trial, other = trials(tiny)
    outcome = OutcomeStore(tmp_path).run(trial, unwatched)
    del outcome["config"]["task"]["precision"]  # it was written before there was such a key
    (tmp_path / "outcomes.jsonl").write_text(json.dumps(outcome) + "\n")
    assert OutcomeStore(tmp_path).get(trial) == outcome
    assert OutcomeStore(tmp_path).get(other) is None


def test_digest_ignores_defaults_and_local_keys(tiny: Experiment) -> None:
    rows = tiny.rows(choose_scale("smoke"))
    keys = dict(rows[0].settings or {})
    alike = [keys, keys | {"task.momentum": 0.9}, keys | {"task.data_dir": "elsewhere"}]  # a default; a local key
    runs = runner.trials([replace(rows[0], settings=changed) for changed in [*alike, keys | {"task.skew": 0.5}]], [0])
    assert len({run.digest for run in runs[:3]}) == 1
    assert runs[3].digest != runs[0].digest


def test_written_run_toml_reproduces_its_trial(tiny: Experiment, tmp_path: Path) -> None:
    runs = trials(tiny, 2)
    runner.write_configs(runs, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {f"{run.name}.toml" for run in runs}
    assert all(load(tmp_path / f"{run.name}.toml", environ={}) == run.config for run in runs)
