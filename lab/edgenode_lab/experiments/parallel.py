"""Runs the trials of an experiment in worker processes, several at a time. Outcomes do not depend on how many.

A worker whose parent has died ends at its next report. The trial it was running resumes later from its last checkpoint.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection

from edgenode.errors import EdgenodeError
from edgenode.node.resources import keep_freed_memory
from edgenode_lab.experiments.runner import OutcomeStore, Reports, Trial, reporting


def run_trials(todo: Sequence[Trial], outcomes: OutcomeStore, jobs: int) -> Reports:
    """Run trials, ``jobs`` at a time, and yield their reports.

    Raises:
        EdgenodeError: a trial's configuration is invalid, or its process died.
    """
    context, waiting = get_context("spawn"), iter(todo)
    processes, busy = [], {}
    try:
        for trial in islice(waiting, jobs):
            pipe, workers_end = context.Pipe()
            process = context.Process(target=_work, args=(workers_end, outcomes), daemon=True)
            with _ctrl_c_blocked():
                process.start()
            workers_end.close()
            processes.append(process)
            busy[pipe] = process, trial
            pipe.send(trial)
        while busy:
            ready = connection.wait(list(busy))
            for pipe, (process, trial) in [item for item in busy.items() if item[0] in ready]:
                try:
                    report = pipe.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    why = f"the process that ran {trial.name} ended with exit code {process.exitcode}"
                    raise EdgenodeError(why) from None
                if isinstance(report, EdgenodeError):
                    raise report
                if isinstance(report, int):
                    yield trial, report
                    continue
                del busy[pipe]
                for following in islice(waiting, 1):
                    busy[pipe] = process, following
                    pipe.send(following)
                yield trial, report
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes started here ignore Ctrl-C. Their parent receives it too, and ends them."""
    resource_tracker.ensure_running()  # if the first process started it, the tracker would unblock SIGINT again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, outcomes: OutcomeStore) -> None:
    """Run one trial after another, until the parent closes the pipe."""
    keep_freed_memory()
    with suppress(EOFError, ConnectionError):
        while True:
            trial = pipe.recv()
            try:
                pipe.send(outcomes.run(trial, reporting(pipe.send)))
            except EdgenodeError as exc:
                pipe.send(exc)
