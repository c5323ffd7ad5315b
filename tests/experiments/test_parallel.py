"""Runs in processes of their own: the same bits, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgenode.errors import ConfigError, EdgenodeError
from edgenode.experiments import parallel, runner
from edgenode.experiments.definitions import Experiment
from edgenode.experiments.presets import choose
from edgenode.experiments.runner import Cell, Outcomes

# plays a run that takes for ever, and says when it has begun
_ENDLESS = """
import signal
import sys
from pathlib import Path
from edgenode.experiments import runner
from edgenode.experiments import parallel
from edgenode.experiments.definitions import Row
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    cells = runner.cells([Row((str(i),), {"run.rounds": 10**6, "task.skew": i}) for i in (0, 1)], [0])
    for cell, round in parallel.play(cells, runner.Outcomes(Path(sys.argv[1])), 2):
        print(round, flush=True)
"""


def cells(experiment: Experiment, seeds: int, **changed: Any) -> list[Cell]:
    rows = [row for row in experiment.rows(choose("smoke")) if row.settings]
    return runner.cells([replace(row, settings={**(row.settings or {}), **changed}) for row in rows], range(seeds))


def accuracies(outcomes: Outcomes, cell: Cell) -> list[float]:
    return [node["test_accuracy"] for node in (outcomes.get(cell) or {})["nodes"]]


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_at_once_give_what_one_after_the_other_gives(tiny: Experiment, tmp_path: Path) -> None:
    runs, said = cells(tiny, 2), dict[str, list[Any]]()
    two, one = Outcomes(tmp_path / "two"), Outcomes(tmp_path / "one")
    for cell, word in parallel.play(runs, two, 2):
        said.setdefault(cell.name, []).append(word)
    list(parallel.play(runs, one, 1))
    for cell in runs:
        assert (said[cell.name][0], said[cell.name][-1]) == (0, two.get(cell))
        assert accuracies(two, cell) == accuracies(one, cell)


def test_closed_it_ends_its_processes_and_the_run_goes_on_later(tiny: Experiment, tmp_path: Path) -> None:
    (cell, _), outcomes = cells(tiny, 1, **{"run.rounds": 10**6}), Outcomes(tmp_path)
    play = parallel.play([cell], outcomes, 1)
    until(lambda: int(str(next(play)[1])) > 100)
    (worker,) = _workers(psutil.Process())
    play.close()
    assert not worker.is_running()
    assert outcomes.get(cell) is None


def test_what_cannot_be_is_said_here(tiny: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        list(parallel.play(cells(tiny, 1, **{"task.dataset": "digit"}), Outcomes(tmp_path), 2))


def test_a_process_that_dies_is_said_with_its_run(tiny: Experiment, tmp_path: Path) -> None:
    play = parallel.play(cells(tiny, 1, **{"run.rounds": 10**6}), Outcomes(tmp_path), 1)
    next(play)
    (worker,) = _workers(psutil.Process())
    worker.kill()
    with pytest.raises(EdgenodeError, match=r"the process that played small-100-seed-0 ended with exit code -9"):
        list(play)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nobody_plays_on_without_whoever_wants_it(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS)
    words = [sys.executable, str(script), str(tmp_path / "cells")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        for _ in range(4):
            process.stdout.readline()
        players = _workers(psutil.Process(process.pid))
        assert len(players) == 2
        for player in players:
            player.send_signal(signal.SIGINT)  # as Ctrl-C does: it is for their parent to end them
        for _ in range(4):
            assert process.stdout.readline()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        assert process.wait(30) != 0
        assert process.stderr.read().count("Traceback") == (number == signal.SIGINT)
    until(lambda: not any(player.is_running() for player in players))


def _workers(parent: psutil.Process) -> list[psutil.Process]:
    """Those of its children that play runs; the other keeps count of what they share."""
    return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
