"""Trials in worker processes: bit-identical results, also after a process dies."""

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
from edgenode_lab.experiments import parallel, runner
from edgenode_lab.experiments.definitions import Experiment
from edgenode_lab.experiments.runner import OutcomeStore, Trial
from edgenode_lab.experiments.scales import choose_scale

# runs two trials that do not end, and prints each report
_ENDLESS = """
import signal
import sys
from pathlib import Path
from edgenode_lab.experiments import runner
from edgenode_lab.experiments import parallel
from edgenode_lab.experiments.definitions import Row
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with SIGINT ignored
    trials = runner.trials([Row((str(i),), {"run.rounds": 10**6, "task.skew": i}) for i in (0, 1)], [0])
    for trial, t in parallel.run_trials(trials, runner.OutcomeStore(Path(sys.argv[1])), 2):
        print(t, flush=True)
"""


def trials(experiment: Experiment, seeds: int, **changed: Any) -> list[Trial]:
    rows = [row for row in experiment.rows(choose_scale("smoke")) if row.settings]
    return runner.trials([replace(row, settings={**(row.settings or {}), **changed}) for row in rows], range(seeds))


def accuracies(outcomes: OutcomeStore, trial: Trial) -> list[float]:
    return [node["test_accuracy"] for node in (outcomes.get(trial) or {})["nodes"]]


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_at_once_equal_one_after_the_other(tiny: Experiment, tmp_path: Path) -> None:
    runs, reports = trials(tiny, 2), dict[str, list[Any]]()
    two, one = OutcomeStore(tmp_path / "two"), OutcomeStore(tmp_path / "one")
    for trial, report in parallel.run_trials(runs, two, 2):
        reports.setdefault(trial.name, []).append(report)
    list(parallel.run_trials(runs, one, 1))
    for trial in runs:
        assert (reports[trial.name][0], reports[trial.name][-1]) == (0, two.get(trial))
        assert accuracies(two, trial) == accuracies(one, trial)


@pytest.mark.slow
def test_closing_ends_processes_and_trials_can_resume(tiny: Experiment, tmp_path: Path) -> None:
    (trial, _), outcomes = trials(tiny, 1, **{"run.rounds": 10**6}), OutcomeStore(tmp_path)
    reports = parallel.run_trials([trial], outcomes, 1)
    until(lambda: int(str(next(reports)[1])) > 100)
    (worker,) = _workers(psutil.Process())
    reports.close()
    assert not worker.is_running()
    assert outcomes.get(trial) is None


@pytest.mark.slow
def test_invalid_configuration_is_raised_in_the_parent(tiny: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        list(parallel.run_trials(trials(tiny, 1, **{"task.dataset": "digit"}), OutcomeStore(tmp_path), 1))


@pytest.mark.slow
def test_dead_process_is_reported_with_its_trial(tiny: Experiment, tmp_path: Path) -> None:
    reports = parallel.run_trials(trials(tiny, 1, **{"run.rounds": 10**6}), OutcomeStore(tmp_path), 1)
    next(reports)
    (worker,) = _workers(psutil.Process())
    worker.kill()
    with pytest.raises(EdgenodeError, match=r"the process that ran small-100-seed-0 ended with exit code -9"):
        list(reports)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_when_their_parent_dies(number: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS)
    words = [sys.executable, str(script), str(tmp_path / "trials")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        for _ in range(4):
            process.stdout.readline()
        workers = _workers(psutil.Process(process.pid))
        assert len(workers) == 2
        for worker in workers:
            worker.send_signal(signal.SIGINT)  # as Ctrl-C does; only their parent ends them
        for _ in range(4):
            assert process.stdout.readline()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
        assert process.wait(30) != 0
        assert process.stderr.read().count("Traceback") == (number == signal.SIGINT)
    until(lambda: not any(worker.is_running() for worker in workers))


def _workers(parent: psutil.Process) -> list[psutil.Process]:
    """The children that run trials, without the resource tracker."""
    return [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
