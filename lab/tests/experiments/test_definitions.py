"""Metrics of one's own: those of a task's test, and those of a module beside the experiment's file."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode_lab.experiments.definitions import METRICS

MODULE = """
from edgenode_lab.experiments import Metric
worst = lambda outcome: 100 * min(node["test_accuracy"] for node in outcome["nodes"])
WORST = Metric("worst node, %", worst)
FAULTY = Metric("x", lambda outcome: outcome["no such"])
TEXT = Metric("x", lambda outcome: "much")
"""
FILE = """
columns = ["row"]
metrics = ["accuracy", "MODULE:WORST", "test/f1"]
[run]
nodes = 2
rounds = 2
[task]
batch_size = 8
[rows]
a = { algorithm.name = "sp" }
[figure]
x = "row"
y = ["MODULE:WORST"]
nominal = true
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    name = f"metrics_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own.toml").write_text(FILE.replace("MODULE", name))
    yield name
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for known in set(METRICS._table) - set(METRICS.own):
        del METRICS._table[known]


def run() -> Result:
    return CliRunner().invoke(group, ("experiment", "own.toml", "--jobs", "1"))


def test_metric_of_a_test_is_the_mean_over_the_nodes() -> None:
    metric = METRICS["test/f1"]
    assert metric.heading == "f1"
    assert metric.of({"mean_metrics": {"f1": 0.5}}) == 0.5
    assert metric.of({"mean_metrics": {}}) is None
    assert metric.of({}) is None  # of a version that had no metrics


@pytest.mark.slow
def test_own_metric_is_a_column_of_every_table(module: str) -> None:
    made = run()
    assert made.exit_code == 0, made.output
    with Path("experiments/own.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row[f"{module}:WORST"]) <= float(row["accuracy"])
    assert row["test/f1"] == ""
    assert "| worst node, % |" in Path("experiments/own.md").read_text()
    assert r"worst node, \%" in Path("experiments/own.tex").read_text()
    for faulty, why in (("FAULTY", "KeyError: 'no such'"), ("TEXT", "ValueError: could not convert")):
        Path("own.toml").write_text(FILE.replace("MODULE:WORST", f"{module}:{faulty}"))
        failed = run()
        assert failed.exit_code == 2
        assert f"metric {module}:{faulty}: {why}" in failed.output + str(failed.exception)
    assert len(Path("experiments/outcomes.jsonl").read_text().splitlines()) == 1  # which is not run again


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("MODULE:ABSENT", "cannot be imported: AttributeError"),
        ("MODULE:worst", "which is not of type Metric"),
        ("bytes", 'it must be "accuracy", '),
        ("test/", "test/NAME of a task's test, or module:OBJECT of your own"),
    ],
)
def test_what_is_no_metric_is_refused_before_any_run(metric: str, why: str, module: str) -> None:
    Path("own.toml").write_text(FILE.replace("MODULE:WORST", metric).replace("MODULE", module))
    refused = run()
    assert refused.exit_code == 2
    assert why in refused.output + str(refused.exception)
    assert not Path("experiments").exists()
