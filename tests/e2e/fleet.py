"""Real edgenode processes on this machine. Every process ends with its test, also when the test fails.

Output goes to files, so no pipe fills up and a failed test can show every log. All waiting polls for a condition. The
deadlines are far longer than a quiet machine needs, so a busy one passes too.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.security.authority import Authority
from edgenode.security.subject import Subject
from tests.e2e.fork_server import ForkedProcess, fork

Popen = subprocess.Popen[Any] | ForkedProcess
Spawn = Callable[..., Popen]

DEADLINE_S = 200.0
_POLL_S = 0.02
_TERMINATE_S = 8.0
_SHOWN_LINES = 25
_LOG_LINE = re.compile(r"^\d\d:\d\d:\d\d \[")

# Small and quick, and with much that differs between nodes: skew, rotation, momentum, BatchNorm statistics.
SMALL: Mapping[str, object] = {
    "run.rounds": 100,
    "run.evaluate_every": 0,
    "run.threads": 1,  # bits must not depend on the machine
    "run.device": "cpu",
    "run.checkpoint_every": 20,
    "run.barrier_timeout_s": 60,
    "task.skew": 0.5,
    "task.norm": "batch",
    "task.learning_rate": 0.02,
    "algorithm.gossip_graph": "one-peer-exponential",
    "topology.graphs": ["a", "b", "c"],
}

# The images of the built-in task, in at most ten rounds a second.
_PACED = """
import time

from edgenode.tasks.image_task import ImageTask


class Digits(ImageTask):
    def loss(self, model, batch):
        time.sleep(0.1)
        return super().loss(model, batch)
"""


def until(condition: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = DEADLINE_S) -> Any:
    """Poll until the condition is truthy, and return its value. `what` names it in the error.

    A condition that runs a command takes a processor from those that it waits for. So it rests as long as it runs.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what() if callable(what) else what}")
        time.sleep(max(_POLL_S, now - began))


def descendants(pid: int) -> set[int]:
    """Return every living process below one, from /proc. Each process of a fleet leads its own session."""
    below = {pid}
    parents = dict(_parents())
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {pid}


def alive(pids: set[int]) -> set[int]:
    """Return which of these processes still run. Zombies do not."""
    return pids & {pid for pid, _ in _parents()}


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:  # the process has just ended
            continue
        if state not in "ZX":
            yield int(path.parent.name), int(parent)


@dataclass(frozen=True)
class Process:
    """One edgenode process and its output."""

    name: str
    popen: Popen
    out: Path
    log: Path

    @property
    def stdout(self) -> str:
        return self.out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that are not log lines."""
        return [line for line in self.stderr.splitlines() if not _LOG_LINE.match(line)]

    def exits(self, code: int = 0, timeout_s: float = DEADLINE_S) -> Self:
        """Wait for the end, and assert the exit code."""
        try:
            found = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s\n{self.tail()}") from None
        assert found == code, f"{self.name} ended with {found}, not {code}\n{self.tail()}"
        return self

    def logs(self, pattern: str, timeout_s: float = DEADLINE_S) -> re.Match[str]:
        """Wait until a line of the log matches."""

        def find() -> re.Match[str] | None:
            over = self.popen.poll() is not None
            match = re.search(pattern, self.stderr)
            assert match or not over, f"{self.name} ended without logging {pattern!r}\n{self.tail()}"
            return match

        found: re.Match[str] = until(find, lambda: f"{self.name} logs {pattern!r}\n{self.tail()}", timeout_s)
        return found

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the process. Its peers soon wait for it, so the run cannot end meanwhile on any machine."""
        self.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.popen.send_signal(signal.SIGCONT)

    def interrupt(self) -> None:
        self.popen.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def tail(self) -> str:
        """The end of the output."""
        lines = [*self.stdout.splitlines(), *self.stderr.splitlines()][-_SHOWN_LINES:]
        return "\n".join([f"--- {self.name}, exit code {self.popen.poll()}:", *lines])


class Fleet:
    """The processes of one test, in a folder and a cluster of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = f"e2e-{uuid.uuid4().hex[:10]}"
        self.processes: list[Process] = []
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def configure(
        self, settings: Mapping[str, object] = {}, /, file: str = "run.toml", *, paced: bool = False
    ) -> Config:
        """Write a run.toml: SMALL with these settings, by default of four nodes.

        A paced run trains slowly. It is for tests in which a run only has to go on: others need the processors.
        """
        if paced:
            (self.folder / "paced.py").write_text(_PACED)
            settings = {"task.entry": "paced:Digits", "task.data": "cut", **settings}
        config = load(None, {**SMALL, "run.cluster": self.cluster, **settings}, environ={})
        (self.folder / file).write_text(config.to_toml())
        return config

    def state(self, name: str) -> Path:
        """The --state-dir of a node."""
        return self.folder / name

    def node(
        self, name: str, *arguments: str, listen: str | None = "127.0.0.1:0", file: str = "run.toml",
        spawn: Spawn = fork, program: Sequence[str] = ("-m", "edgenode"),
    ) -> Process:  # fmt: skip
        """Start one `edgenode run`."""
        self.authority().keep(self._state(name, arguments) / "credentials.pem", Subject("node", name))
        where = ("--listen", listen) if listen else ()
        return self.bare_node(name, *where, *arguments, file=file, spawn=spawn, program=program)

    def bare_node(
        self, name: str, *arguments: str, file: str = "run.toml", spawn: Spawn = fork,
        program: Sequence[str] = ("-m", "edgenode"),
    ) -> Process:  # fmt: skip
        """Start one `edgenode run` that has no certificate but what its invite, now or before, has brought it."""
        common = ("--config", str(self.folder / file), "--name", name, "--state-dir", str(self.state(name)))
        return self.start(name, "run", *common, *arguments, spawn=spawn, program=program)

    def _state(self, name: str, arguments: Sequence[str]) -> Path:
        """The --state-dir of a process: the last one counts."""
        given = [value for option, value in pairwise(arguments) if option == "--state-dir"]
        return self.folder / given[-1] if given else self.state(name)

    def authority(self) -> Authority:
        """The authority of the cluster, with the credentials of its operator beside it.

        It is the controller's, and stays if a test deletes the controller's state.
        """
        authority = Authority(self.folder / "authority", self.cluster)
        authority.keep(self.folder / "operator.pem", Subject("operator", "test"))
        return authority

    def script(
        self, name: str, program: str, *arguments: str, variables: Mapping[str, str] = {},
        spawn: Spawn = fork,
    ) -> Process:  # fmt: skip
        """Start a script with edgenode.Mesh as a node."""
        self.authority().keep(self.state(name) / "credentials.pem", Subject("node", name))
        where = {"EDGENODE_NAME": name, "EDGENODE_LISTEN": "127.0.0.1:0", "EDGENODE_STATE_DIR": str(self.state(name))}
        return self.start(name, *arguments, program=[program], variables={**where, **variables}, spawn=spawn)

    def nodes(self, count: int, *arguments: str) -> list[Process]:
        """Start node-0, node-1, ..."""
        return [self.node(f"node-{i}", *arguments) for i in range(count)]

    def controller(
        self, *arguments: str, listen: str | None = "127.0.0.1:0", spawn: Spawn = fork,
        program: Sequence[str] = ("-m", "edgenode"),
    ) -> Process:  # fmt: skip
        """Start one `edgenode controller`."""
        where = ("--listen", listen) if listen else ()
        common = ("--config", str(self.folder / "run.toml"), "--state-dir", str(self.state("controller")))
        self.authority()
        state = self._state("controller", arguments)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (state / "authority").symlink_to(self.folder / "authority")
        return self.start("controller", "controller", *common, *where, *arguments, spawn=spawn, program=program)

    def relay(self, name: str, *arguments: str, spawn: Spawn = fork) -> Process:
        """Start one `edgenode relay`. It has a certificate, unless the arguments have an invite."""
        if "--join" not in arguments:
            self.authority().keep(self.state(name) / "credentials.pem", Subject("relay", name))
        return self.start(name, "relay", "--state-dir", str(self.state(name)), *arguments, spawn=spawn)

    def static(self, ports: Sequence[int], *arguments: str) -> list[Process]:
        """Start nodes with fixed peers and without a controller."""
        return [self.static_node(ports, i, *arguments) for i in range(len(ports))]

    def static_node(self, ports: Sequence[int], i: int, *arguments: str, file: str = "run.toml") -> Process:
        """Start one node with the addresses of the others."""
        peers = ",".join(f"127.0.0.1:{port}" for port in ports if port != ports[i])
        listen = f"127.0.0.1:{ports[i]}"
        return self.node(f"node-{i}", "--peers", peers, *arguments, listen=listen, file=file)

    def command(self, *arguments: str, code: int = 0, timeout_s: float = DEADLINE_S, spawn: Spawn = fork) -> Process:
        """Run a command to its end."""
        return self.start("-".join(arguments[:2]), *arguments, spawn=spawn).exits(code, timeout_s)

    def stop(self, processes: Iterable[Process], *where: str) -> None:
        """Run `edgenode stop`, and wait until these processes have ended well."""
        self.command("stop", *(where or ("--cluster", self.cluster)))
        for process in processes:
            process.exits(0)

    def start(
        self, name: str, *arguments: str, spawn: Spawn = fork, program: Sequence[str] = ("-m", "edgenode"),
        variables: Mapping[str, str] = {},
    ) -> Process:  # fmt: skip
        """Start any edgenode command, or another Python program."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("EDGENODE_")}
        environ |= {"EDGENODE_CREDENTIALS": str(self.folder / "operator.pem")}
        environ |= {"EDGENODE_HTTP": "none", "GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1"}
        environ |= {"EDGENODE_RUN_LOG_EVERY_S": "0", **variables}  # tests wait for the end of some epoch
        stem = f"{len(self.processes):02d}-{re.sub(r'[^a-z0-9]+', '-', name)}"
        out, log = self.folder / f"{stem}.out", self.folder / f"{stem}.log"
        with out.open("wb") as stdout, log.open("wb") as stderr:
            popen = spawn(
                [sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environ, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip
        process = Process(name, popen, out, log)
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Kill every process that still runs. A demo gets SIGTERM first, because it has processes of its own to end."""
        running = [p.popen for p in self.processes if p.popen.poll() is None]
        families = {popen.pid: descendants(popen.pid) for popen in running}
        for popen in running:
            if families[popen.pid]:
                popen.terminate()
            else:
                popen.kill()
        deadline = time.monotonic() + _TERMINATE_S
        for popen in running:
            try:
                popen.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        for pid in alive(set().union(*families.values())):
            os.kill(pid, signal.SIGKILL)

    def report(self) -> str:
        """The ends of all logs. Of a command that ran many times, the last."""
        return "\n".join(process.tail() for process in {p.name: p for p in self.processes}.values())
