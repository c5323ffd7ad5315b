"""The demo's configuration, and the cause that it shows when one of its processes fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import get_context
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner

from edgenode.cli import group
from edgenode.cli.demo import demo_config, ignored_variables
from edgenode.cli.demo_processes import DemoProcesses
from edgenode.config.schema import Config

# --- variables


def test_variables_override_what_suits_a_demo_and_options_override_both() -> None:
    suits = demo_config({}, {})
    assert (suits.task.skew, suits.run.rounds, suits.run.evaluate_every) == (0.8, 500, 25)
    variables = {"EDGENODE_TASK_SKEW": "0.5", "EDGENODE_RUN_ROUNDS": "40", "EDGENODE_TOPOLOGY_GRAPHS": "b"}
    config = demo_config({}, variables)
    assert (config.task.skew, config.run.rounds, config.topology.graphs) == (0.5, 40, ("b",))
    assert config.run.evaluate_every == 4  # follows the rounds
    config = demo_config({"run.rounds": 60}, {**variables, "EDGENODE_RUN_EVALUATE_EVERY": "7"})
    assert (config.run.rounds, config.run.evaluate_every) == (60, 7)


def test_demo_keeps_away_from_the_cluster_of_a_variable() -> None:
    assert demo_config({}, {"EDGENODE_RUN_CLUSTER": "office"}).run.cluster.startswith("demo-")


def test_variables_without_effect_are_named() -> None:
    environ = {"EDGENODE_CONTROLLER": "x", "EDGENODE_RUN_CLUSTER": "x", "EDGENODE_RUN_SEED": "1", "EDGENODE_TRACK": "x"}
    assert ignored_variables(environ, {"EDGENODE_TRACK"}) == ["EDGENODE_CONTROLLER", "EDGENODE_RUN_CLUSTER"]


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        (
            "EDGENODE_RUN_ROUNDS",
            "many",
            'environment variable EDGENODE_RUN_ROUNDS: run.rounds = "many", but it must be',
        ),
        ("EDGENODE_ALGORITHM_NAME", "choco-sgd", "choco-sgd cannot use a, b, c: it assumes the same neighbours"),
    ],
)
def test_variable_that_no_demo_can_train_is_refused(variable: str, value: str, reason: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(group, ["demo", "--out", str(tmp_path)], env={variable: value})
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"edgenode: {reason}")


# --- Ctrl-C


class SlowChild:
    """A child whose start takes a while, at whose middle Ctrl-C arrives."""

    def __init__(self, **_: object) -> None:
        self.started = False

    def start(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        self.started = True


def test_ctrl_c_within_the_start_of_a_process_leaves_it_in_the_list(tmp_path: Path) -> None:
    """With another thread, which the system chooses for a signal that the starting one blocks."""
    processes, ended = DemoProcesses(Config(), tmp_path), threading.Event()
    processes.logs.mkdir()
    other = threading.Thread(target=ended.wait)
    other.start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            processes._start(cast(SpawnContext, SimpleNamespace(Process=SlowChild)), "node-0", "run")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        ended.set()
        other.join()
    (child,) = processes.processes.values()
    assert isinstance(child, SlowChild) and child.started
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


# --- causes


def failed(out: Path, **programs: str) -> DemoProcesses:
    """Processes that run these programs one after the other, each with its output as its log."""
    processes = DemoProcesses(Config(), out)
    processes.logs.mkdir()
    for name, program in programs.items():
        log = processes.logs / f"{name}.log"
        output = f"import os; log = os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT); os.dup2(log, 1); os.dup2(log, 2)\n"
        child = get_context("spawn").Process(target=exec, args=(output + program, {}))
        processes.processes[name] = child
        child.start()
        child.join()
    return processes


@pytest.mark.parametrize(
    ("program", "cause"),
    [
        ("print('edgenode: no disk'); print('12:00:00 [info] later'); exit(2)", "exited with code 2: no disk"),
        ("print('before'); {}['key']", "exited with code 1: KeyError: 'key'"),
        (
            "raise ExceptionGroup('several', [ValueError('the cause')])",
            "exited with code 1: ValueError: the cause",
        ),
        ("import os; os._exit(3)", "exited with code 3: its log is empty"),
        ("print('the last line'); exit(4)", "exited with code 4: the last line"),
        ("import os; os.kill(os.getpid(), 15)", "was killed by SIGTERM"),
        (
            "import os; print('loading', flush=True); os.kill(os.getpid(), 9)",
            "was killed by SIGKILL, which the system also sends when memory runs out",
        ),
    ],
    ids=["our error", "exception", "exception group", "silent", "last line", "signal", "killed"],
)
def test_cause_of_a_failure_is_its_error_or_signal(tmp_path: Path, program: str, cause: str) -> None:
    assert failed(tmp_path, **{"node-0": program}).why_failed() == f"node-0 {cause}"


def test_first_failure_is_the_cause(tmp_path: Path) -> None:
    """The end of one process makes others fail."""
    processes = failed(tmp_path, done="")
    for name in ("node-0", "controller"):
        processes.processes[name] = get_context("spawn").Process(target=time.sleep, args=(60,))
        processes.processes[name].start()
    assert processes.why_failed() == ""
    for name in ("controller", "node-0"):
        processes.processes[name].kill()
        processes.processes[name].join()
        assert processes.why_failed().startswith("the controller was killed by SIGKILL")
