"""Runs the trials of an experiment as tasks of a Ray cluster. Outcomes do not depend on the machines that ran them.

1. A task writes no file. Its reports travel to this process, which keeps the outcome.
2. So an interrupted trial starts over, and a finished one is on disk here.
3. Ray stops the tasks of a process that ends or dies.
4. Python drops an exception that is raised while a reference is deleted, and Ray deletes many. So a signal sets a flag.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from itertools import islice
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from edgenode.addresses import split_address
from edgenode.errors import ConfigError, EdgenodeError, TransportError
from edgenode_lab.experiments.definitions import Outcome
from edgenode_lab.experiments.runner import OutcomeStore, Reports, Trial, reporting, simulate

if TYPE_CHECKING:
    import ray

_CONNECT_S = 5.0
_LOOK_S = 0.5  # after a signal, this much may pass

_Report = int | Outcome | Exception


def run_trials(todo: Sequence[Trial], outcomes: OutcomeStore, address: str, jobs: int | None) -> Reports:
    """Run trials on a Ray cluster, at most ``jobs`` at a time, and yield their reports.

    Args:
        address: host:port of the cluster. Empty for the one that Ray finds, or else starts on this machine.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot run these trials, or a trial's configuration is invalid
            on the machine that ran it.
        TransportError: the cluster does not answer.
        EdgenodeError: a task failed.
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    ray = _connect(address)
    interrupted = Event()
    handlers = {each: signal.signal(each, lambda *_: interrupted.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        device = "GPU" if todo[0].config.run.device == "cuda" else "CPU"
        if not ray.cluster_resources().get(device):
            raise ConfigError(f"the Ray cluster has no {device} for the trials")
        # A task that was repeated would report again what is known.
        task = ray.remote(num_cpus=1, num_gpus=int(device == "GPU"), max_retries=0)(_run)
        waiting = iter(todo)
        busy = [(task.remote(trial, outcomes.every), trial) for trial in islice(waiting, jobs)]
        while busy:
            ready, _ = ray.wait([reports for reports, _ in busy], timeout=_LOOK_S)
            if interrupted.is_set():
                raise KeyboardInterrupt
            for reports, trial in [item for item in busy if item[0] in ready]:
                report = _next(reports, trial)
                if isinstance(report, int):
                    yield trial, report
                    continue
                busy.remove((reports, trial))
                busy += [(task.remote(following, outcomes.every), following) for following in islice(waiting, 1)]
                yield trial, outcomes.keep(trial, report)
    finally:
        ray.shutdown()
        for each, handler in handlers.items():
            signal.signal(each, handler)


def _connect(address: str) -> Any:
    """Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it is imported
    try:
        import ray
    except ImportError as exc:
        raise ConfigError("--on ray needs Ray: pip install 'edgenode-lab[ray]'") from exc
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address:  # Ray itself tries for minutes
            socket.create_connection(split_address(address), _CONNECT_S).close()
        ray.init(address or None, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as exc:
        where, why = f" at {address}" if address else "", " ".join(str(exc).split())
        raise TransportError(f"cannot use the Ray cluster{where}: {why}") from exc
    signal.signal(signal.SIGTERM, handler)  # Ray's own handler ends this process
    return ray


def _next(reports: ray.ObjectRefGenerator, trial: Trial) -> int | Outcome:
    import ray

    try:
        report: _Report = ray.get(next(reports))
    except ray.exceptions.RayError as exc:
        raise EdgenodeError(f"{trial.name} failed on Ray: {_cause(exc)}") from exc
    if isinstance(report, Exception):
        raise report
    return report


def _cause(error: ray.exceptions.RayError) -> str:
    """The line of an error that has the cause: the last of a traceback, and otherwise the first."""
    import ray

    lines = str(error).strip().splitlines() or [repr(error)]
    return lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]


def _run(trial: Trial, every: int) -> Iterator[_Report]:
    """The reports of a trial, which a thread runs."""
    reports: SimpleQueue[_Report] = SimpleQueue()
    Thread(target=_work, args=(trial, every, reports), daemon=True).start()
    while isinstance(report := reports.get(), int):
        yield report
    yield report


def _work(trial: Trial, every: int, reports: SimpleQueue[_Report]) -> None:
    try:
        reports.put(simulate(trial, None, reporting(reports.put), every))
    except ConfigError as exc:
        reports.put(ConfigError(f"{trial.name} on {socket.gethostname()}: {exc}"))
    except Exception as exc:  # a bug, which ends the command as it does without Ray
        reports.put(EdgenodeError(f"{trial.name} on {socket.gethostname()}: {exc!r}"))
