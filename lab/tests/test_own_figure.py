"""A stranger's figure: three algorithms and one of her own on an irregular graph of her own, from files to a PDF.

The files are those of docs/experiments.md, and together they have 30 lines. The command is that of the page.
"""

from __future__ import annotations

import csv
import json
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.observability import plotting
from edgenode_lab.experiments import feasible, reader, runner
from edgenode_lab.experiments.scales import choose_scale

PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"
FILES = re.compile(r"```(?:toml|text|python)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command takes signals for its own, and finds modules beside the file: it is meant to be a process."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def files() -> dict[str, str]:
    section = PAGE.read_text().partition("## Describe an experiment of your own")[2].partition("\n## ")[0]
    return {name: f"# {name}\n{text}" for name, text in FILES.findall(section)}


def run(*words: str) -> Result:
    return CliRunner().invoke(group, ("experiment", *words))


def test_files_of_the_page_have_30_lines() -> None:
    assert sorted(files()) == ["figure.toml", "mine.py", "mine.txt"]
    assert sum(text.count("\n") for text in files().values()) <= 30


def test_files_of_the_page_are_an_experiment() -> None:
    for name, text in files().items():
        Path(name).write_text(text)
    experiment = reader.read(Path("figure.toml"))
    rows = runner.rows_as_run(experiment, choose_scale("smoke"))
    assert [row.labels for row in rows] == [("D-PSGD",), ("CHOCO-SGD",), ("D2",), ("mine",)]
    feasible.check_rows(runner.trials(rows, range(2)))
    assert experiment.curves.every == 5


@pytest.mark.slow
@pytest.mark.skipif(not plotting.available(), reason=plotting.NOT_INSTALLED)
def test_one_command_makes_a_pdf_of_the_files() -> None:
    for name, text in files().items():
        Path(name).write_text(text)
    made = run("figure.toml", "--seeds", "2")
    assert made.exit_code == 0, made.output
    out = Path("experiments")
    assert (out / "figure-curves.pdf").read_bytes().startswith(b"%PDF")
    with (out / "figure-history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["row"] for row in rows)) == ["D-PSGD", "CHOCO-SGD", "D2", "mine"]
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert {row["node"] for row in rows} == {f"node-{i}" for i in range(6)}
    final = {row["row"]: float(row["accuracy"]) for row in rows if row["round"] == "40"}
    assert min(final.values()) > 0.2
    assert r"\toprule" in (out / "figure.tex").read_text()
    outcomes = (out / "outcomes.jsonl").read_text()
    assert run("figure.toml", "--seeds", "2").exit_code == 0
    assert (out / "outcomes.jsonl").read_text() == outcomes  # nothing is run twice
    before = {json.loads(line)["config"]["algorithm"]["name"] for line in outcomes.splitlines()}
    assert "mine:TWICE" in before


def test_rows_that_cannot_run_are_named_before_any_runs() -> None:
    Path("star.txt").write_text("0 -- 1\n0 -- 2\n")
    Path("bad.toml").write_text(
        '[run]\nnodes = 3\n[topology]\ngraphs = ["star.txt"]\n[rows]\n'
        'good = { algorithm.name = "sp" }\nuneven = { algorithm.name = "choco-sgd" }\n'
        'absent = { algorithm.name = "sp", run.nodes = 2 }\nalike = { topology.weights = "uniform" }\n'
    )
    refused = run("bad.toml")
    assert refused.exit_code == 2
    lines = str(refused.exception or refused.output).splitlines() if refused.exception else refused.output.splitlines()
    text = "\n".join(lines) + refused.output
    assert "row 'uneven': choco-sgd cannot use star: its weights are not doubly stochastic" in text
    assert "row 'absent': edge node-0->node-2 names an unknown node 'node-2'" in text
    assert "good" not in text
    assert not Path("experiments").exists()


@pytest.mark.slow
def test_history_that_is_asked_for_later_keeps_the_outcome() -> None:
    Path("two.toml").write_text(
        '[run]\nnodes = 2\nrounds = 4\n[task]\nbatch_size = 8\n[rows]\nsp = { algorithm.name = "sp" }\n'
    )
    assert run("two.toml").exit_code == 0
    outcomes = Path("experiments/outcomes.jsonl").read_text()
    assert not Path("experiments/two-history.csv").exists()
    drawn = run("two.toml", "--curves", "2")
    assert drawn.exit_code == 0, drawn.output
    assert Path("experiments/outcomes.jsonl").read_text() == outcomes
    rows = list(csv.DictReader(Path("experiments/two-history.csv").read_text().splitlines()))
    assert [row["round"] for row in rows] == ["0", "0", "2", "2", "4", "4"]
    assert json.loads(outcomes)["nodes"][1]["test_accuracy"] == float(rows[-1]["accuracy"])
