"""The progress of a simulation: no phase of it is silent."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from click.testing import CliRunner
from rich.text import Text

from edgenode.cli import group, simulation_progress
from edgenode.simulate.progress import Progress

QUICK = (
    "--set",
    "run.rounds=3",
    "--set",
    "run.threads=1",
    "--set",
    "algorithm.name=sp",
    "--set",
    "task.batch_size=400",
)


def simulate(**environ: str) -> str:
    result = CliRunner(env=environ).invoke(group, ("simulate", *QUICK))
    assert result.exit_code == 0
    return result.stderr


def test_long_phase_repeats_what_it_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulation_progress._Lines, "every_s", 0.02)
    phases = Progress()
    with simulation_progress.shown(phases):
        for _ in phases.each("making the models", range(2)):
            time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("making the models: 0 of 2 nodes") > 2
    assert lines.count("making the models: 1 of 2 nodes") > 2


def test_long_round_counts_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_progress._Lines, "every_s", 0.001)
    lines = simulate().splitlines()
    assert any(re.match(r"round [012] of 3 and [0-4] of 4 nodes, .*loss ", line) for line in lines)
    assert lines[-1].startswith("round 3 of 3, 0 s left, loss ") or lines[-1] == "comparing the models"
    rounds = [int(found[1]) for line in lines if (found := re.match(r"round (\d) of 3", line))]
    assert all(before <= after for before, after in pairwise(rounds))


def test_terminal_has_a_bar_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_progress._Bar, "every_s", 0.001)
    drawn = Text.from_ansi(simulate(FORCE_COLOR="1", COLUMNS="80")).plain
    assert "3/3 loss " in drawn
    assert "100%" in drawn
