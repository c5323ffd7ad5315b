"""Every trial of every experiment is a valid configuration, and rows carry the paper's numbers."""

from __future__ import annotations

import csv
import pickle
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from edgenode import factory
from edgenode.config.recipes import RECIPES
from edgenode_lab.experiments import runner
from edgenode_lab.experiments.catalogue import EXPERIMENTS
from edgenode_lab.experiments.definitions import METRICS
from edgenode_lab.experiments.scales import RESNET110, Scale, Settings, choose_scale

RESULTS = Path("docs/results")


@pytest.fixture(params=["smoke", "small", "paper"])
def scale(request: pytest.FixtureRequest, tmp_path: Path) -> Scale:
    return choose_scale(request.param, None if request.param == "smoke" else tmp_path)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_trial_is_valid_and_has_its_own_name(name: str, scale: Scale) -> None:
    runs = runner.trials(runner.rows_as_run(EXPERIMENTS[name], scale), range(2))
    assert runs
    assert len({run.name for run in runs}) == len({run.digest for run in runs}) == len(runs)
    for run in runs:
        assert pickle.loads(pickle.dumps(run)) == run  # trials travel to other processes
        assert run.config.warnings() == []
        factory.schedule(run.config).check(tuple(f"node-{i}" for i in range(run.config.run.nodes)))
        assert factory.algorithm_spec(run.config).rounds >= run.config.run.rounds > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_labels_and_metrics_fit_their_headings(name: str, scale: Scale) -> None:
    experiment = EXPERIMENTS[name]
    named = {*experiment.labels, *experiment.metrics}
    assert {*experiment.metrics, *experiment.figure.y} <= {*METRICS.own}
    figure = experiment.figure
    assert {*figure.series, *figure.x_metrics} <= named
    assert figure.x in named or len(figure.x_metrics) == len(figure.y)
    for row in experiment.rows(scale):
        assert len(row.labels) == len(experiment.labels)
        assert row.paper.keys() <= set(experiment.metrics)


def test_network_too_large_for_a_scale_keeps_its_row(scale: Scale) -> None:
    rows = [row for row in EXPERIMENTS["table2"].rows(scale) if row.labels[0] == RESNET110]
    assert [row.paper["sp"] for row in rows] == [94.14, 93.32, 93.26, 86.38]
    assert all((row.settings is not None) == (scale.name == "paper") for row in rows)


@pytest.mark.parametrize("name", ["frontier", "longer"])  # the others were measured with earlier defaults
def test_recorded_results_are_those_of_the_rows(name: str) -> None:
    """Every line of docs/results has the labels of a row, and the numbers of the outcome that the row finds."""
    experiment, store = EXPERIMENTS[name], runner.OutcomeStore(RESULTS)
    rows = runner.rows_as_run(experiment, choose_scale("smoke"))
    trial_of = {(*run.row.labels, str(run.seed)): run for run in runner.trials(rows, range(4))}
    with (RESULTS / f"{name}.csv").open(newline="") as file:
        headings, *lines = csv.reader(file)
    named, metrics = len(experiment.labels) + 1, experiment.metrics
    assert headings == [*experiment.labels, "seed", *metrics, "error"]
    assert {tuple(line[: named - 1]) for line in lines} <= {row.labels for row in rows}
    for line in lines:
        outcome = store.get(trial_of[tuple(line[:named])])
        assert outcome is not None
        numbers = ["" if "error" in outcome else METRICS[name].of(outcome) for name in metrics]
        assert ["" if number is None else str(number) for number in numbers] == line[named:-1]


def test_recipe_for_few_bytes_is_a_row_of_the_frontier() -> None:
    settings = [dict(row.settings or {}) for row in EXPERIMENTS["frontier"].rows(choose_scale("smoke"))]
    assert any(RECIPES["recommended"].items() <= keys.items() for keys in settings)


def test_rows_with_several_local_steps_take_as_many_steps() -> None:
    configs = [trial.config for trial in runner.trials(EXPERIMENTS["frontier"].rows(choose_scale("smoke")), [0])]
    steps = {c.run.rounds // factory.exchange_rounds(c) * c.task.local_steps for c in configs}
    assert steps == {2000, 13 * 153, 11 * 181}  # these do not divide 2,000, and take fewer


def test_tables_share_their_trials() -> None:
    def digests(name: str) -> set[str]:
        return {trial.digest for trial in runner.trials(EXPERIMENTS[name].rows(choose_scale("smoke")), [0])}

    assert digests("table4") < digests("table2")
    assert len(digests("rolling") & digests("longer")) == 6


def test_rotation_switches_as_often_as_in_the_paper(tmp_path: Path) -> None:
    for scale in (choose_scale("smoke"), choose_scale("paper", tmp_path)):
        assert turns(scale) == pytest.approx([200 / 11, 200 / 6], rel=0.02)
    assert turns(scale, {"run.rounds": "2000"}) == pytest.approx([200 / 11, 200 / 6], rel=0.02)


def turns(scale: Scale, overrides: Settings = MappingProxyType({})) -> list[float]:
    """How often the graph changes in a run, with the paper's slowest and fastest rotation."""
    configs = [run.config for run in runner.trials(runner.rows_as_run(EXPERIMENTS["table6"], scale, overrides), [0])]
    return [c.run.rounds / int(c.topology.every.rstrip("r")) for c in (configs[0], configs[-1])]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_shortened_runs_measure_sp_where_the_gossip_begins(name: str) -> None:
    for run in runner.trials(runner.rows_as_run(EXPERIMENTS[name], choose_scale("smoke"), {"run.rounds": "20"}), [0]):
        expected = {"scsp": 20, "attacked": 10}.get(run.config.algorithm.name, 0)
        assert run.config.run.evaluate_every == expected


@pytest.mark.slow
def test_every_algorithm_of_table_3_ends_with_its_metrics(tmp_path: Path) -> None:
    experiment, quick = EXPERIMENTS["table3"], {"task.dataset": "digits", "run.rounds": 3, "task.batch_size": 8}
    rows = [
        replace(row, settings={**dict(row.settings or {}), **quick}) for row in experiment.rows(choose_scale("smoke"))
    ]
    for trial in runner.trials(rows, [0]):
        outcome = runner.OutcomeStore(tmp_path).run(trial, lambda simulation: lambda: None)
        known = {name for name in METRICS.own if METRICS[name].of(outcome) is not None}
        assert {"accuracy", "sp", "sent"} <= known, trial.name
        assert ("scsp" in known) == (outcome["algorithm"] == "scsp")
        assert ("factor" in known) == (outcome["algorithm"] != "local"), trial.name
