"""Run the tests in several processes: `python -m pytest -p tests.parallel --jobs 3`.

One process collects the tests and forks the workers. So torch and the modules of tests are imported once, and a worker
collects nothing. A worker asks for its next tests when it begins its last one, because pytest keeps the fixtures that
the next test uses too. If a worker dies, its test fails and another worker continues. One worker runs all tests of a
`group`: they share what takes long to set up.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

Unit = list[int]  # places in session.items: one worker runs these tests, in this order


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jobs", type=int, default=1, help="Processes that run the tests.")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Replace pytest's own loop. None leaves the tests to it."""
    option = session.config.option
    if option.jobs < 2 or option.collectonly or option.usepdb or session.testsfailed:
        return None
    connection = None
    try:
        _Pool(session).run(option.jobs)
    except _Forked as forked:
        connection = forked.connection
    if connection is not None:
        _work(session, connection)
        return True
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
    return True


def units(items: Iterable[pytest.Item]) -> list[Unit]:
    """Each test alone, or with the others of its group at the place of the first one."""
    found: list[Unit] = []
    groups: dict[str, Unit] = {}
    for place, item in enumerate(items):
        marker = item.get_closest_marker("group")
        unit = groups.setdefault(marker.args[0], []) if marker else []
        if not unit:
            found.append(unit)
        unit.append(place)
    return found


class _Forked(Exception):
    """Leads a new process out of the loop of its parent."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


@dataclass
class _Worker:
    pid: int
    connection: Connection
    given: deque[Unit] = field(default_factory=deque)  # not yet finished, as far as the worker has told
    running: int | None = None


class _Pool:
    """The end of the process that collected."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._units = deque(units(session.items))
        self._workers: list[_Worker] = []

    def run(self, jobs: int) -> None:
        self._session.config._tmp_path_factory.getbasetemp()  # and one process removes the folders of older runs
        try:
            for _ in range(min(jobs, len(self._units))):
                self._start()
            while self._workers:
                ready = wait([worker.connection for worker in self._workers])
                for worker in [worker for worker in self._workers if worker.connection in ready]:
                    self._hear(worker)
        finally:  # after Ctrl-C, which the workers get too
            for worker in self._workers:
                worker.connection.close()
                os.waitpid(worker.pid, 0)

    def _start(self) -> None:
        ours, theirs = Pipe()
        pid = os.fork()
        if not pid:
            for end in [ours, *(worker.connection for worker in self._workers)]:
                end.close()
            self._workers.clear()
            raise _Forked(theirs)
        theirs.close()
        worker = _Worker(pid, ours)
        self._workers.append(worker)
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        unit = self._units.popleft() if self._units and not self._stops() else None
        if unit is not None:
            worker.given.append(unit)
        worker.connection.send(unit)

    def _hear(self, worker: _Worker) -> None:
        try:
            what, value = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._end(worker)
            return
        if what == "begin":
            worker.running = value
        elif what == "report":
            config = self._session.config
            report = config.hook.pytest_report_from_serializable(config=config, data=value)
            config.hook.pytest_runtest_logreport(report=report)
        elif what == "end":
            worker.running = None
            worker.given[0].remove(value)
            if not worker.given[0]:
                worker.given.popleft()
        else:
            self._give(worker)

    def _end(self, worker: _Worker) -> None:
        """Report a worker that has not ended well. Another one gets what it has not run."""
        self._workers.remove(worker)
        worker.connection.close()
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        if not code and worker.running is None:
            return
        self._report_failure(worker.running, f"the worker ended with exit code {code}")
        if worker.running is not None:
            worker.given[0].remove(worker.running)
        self._units.extendleft(unit for unit in reversed(worker.given) if unit)
        if self._units and not self._stops():
            self._start()

    def _stops(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)

    def _report_failure(self, place: int | None, reason: str) -> None:
        item = self._session.items[place or 0]
        nodeid = "after the last test of a worker" if place is None else item.nodeid
        report = pytest.TestReport(nodeid, item.location, {}, "failed", reason, "call")
        self._session.config.hook.pytest_runtest_logreport(report=report)


class _Sender:
    """Sends the reports of a worker to the process that shows them."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config, self._connection = config, connection

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", data))


def _work(session: pytest.Session, connection: Connection) -> None:
    """Run what the parent gives. Afterwards the session of this process ends as any other, but shows nothing."""
    config = session.config
    config.workerinput = {}  # with which pytest's plugins leave the cache and summaries to the parent
    config.get_terminal_writer()._file = io.StringIO()
    config._tmp_path_factory._basetemp = config._tmp_path_factory.mktemp("process")
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    capture.stop_global_capturing()  # into files that are shared with the parent
    capture.start_global_capturing()
    capture.suspend_global_capture(in_=True)
    config.pluginmanager.register(_Sender(config, connection))
    unit: Unit | None = connection.recv()
    while unit:
        connection.send(("begin", unit[0]))
        if len(unit) == 1:
            connection.send(("next", None))
        rest: Unit | None = unit[1:] or connection.recv()
        item, next_item = session.items[unit[0]], session.items[rest[0]] if rest else None
        config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
        connection.send(("end", unit[0]))
        unit = rest
    session.testsfailed = 0  # each was reported: an exit code other than 0 is a failure of this process itself
