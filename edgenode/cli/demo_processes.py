"""The processes of ``edgenode demo``, and why one of them failed.

The nodes are forks of one process that has imported PyTorch: it takes seconds of a processor, which a demo of many
nodes pays once. That process starts no thread, and makes no channel.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from edgenode import cli
from edgenode.cli.shared_options import node_names
from edgenode.config.schema import Config
from edgenode.net.tls import MutualTls
from edgenode.security.local import prepare
from edgenode.security.secret_files import make_private_folder

_END_S = 20.0
_TERM_S = 5.0
# The last line of a traceback, inside of an exception group too.
_EXCEPTION = re.compile(r"^[ |]*((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Group|Exit|Interrupt)(?::.*)?)$", re.M)
# What a node imports.
_IMPORTS = ["torch", "edgenode.cli.demo_processes", "edgenode.cli.run", "edgenode.net.discovery",
            "edgenode.node.node_process", "edgenode.node.task_workload", "edgenode.tasks.trainer"]  # fmt: skip
_Context = SpawnContext | ForkServerContext
_SPAWNED = get_context("spawn")
# Libraries of macOS break in a forked process.
_FORKED: _Context = get_context("forkserver") if sys.platform == "linux" else _SPAWNED
_OUT_OF_MEMORY = "SIGKILL, which the system also sends when memory runs out"


class DemoProcesses:
    """The processes of the demo, with their own authority. ``stop`` ends all of them.

    Attributes:
        security: the credentials of the operator's connections. ``start_controller`` sets it.
    """

    security: MutualTls

    def __init__(self, config: Config, out: Path, track: str = "") -> None:
        self.config, self.logs = config, out / "logs"
        self.processes: dict[str, BaseProcess] = {}
        self._out, self._track = out, track
        self._names = node_names(config.run.nodes)
        self._failed: dict[str, int] = {}  # exit codes, the first failure first

    def start_controller(self) -> None:
        """Make the authority, start the controller, and begin the nodes' imports."""
        operator = prepare(self._out, self.config.run.cluster, self._names)
        self.security = MutualTls(operator, lambda subject, key_id: True)
        make_private_folder(self.logs)  # the controller's has a link that signs in to the page
        with _environ():
            _begin_imports()
            self._start(_SPAWNED, "controller", "controller", "--http", "127.0.0.1:0", "--track", self._track)

    def start_nodes(self) -> None:
        """Start the nodes when what they import is there."""
        with _environ():
            _FORKED.Process().start()  # returns when processes can be forked
            for name in self._names:
                self._start(_FORKED, name, "run", "--name", name)

    def _start(self, context: _Context, name: str, *words: str) -> None:
        self._log(name).touch()
        common = ["--config", str(self._out / "run.toml"), "--state-dir", str(self._out / name)]
        words = (*words, *common, "--listen", "127.0.0.1:0")
        process = context.Process(target=_main, args=(self._log(name), words))
        with _uninterrupted():
            process.start()
            self.processes[name] = process

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def why_failed(self) -> str:
        """The cause of the first failure so far. "" if there is none."""
        for name, process in self.processes.items():
            if process.exitcode:
                self._failed.setdefault(name, process.exitcode)
        return next((self._cause(name, code) for name, code in self._failed.items()), "")

    def any_ended(self) -> bool:
        """Return whether a process has exited."""
        return not all(process.is_alive() for process in self.processes.values())

    def join(self) -> None:
        """Wait until all have exited by themselves."""
        deadline = time.monotonic() + _END_S
        for process in self.processes.values():
            process.join(max(0.1, deadline - time.monotonic()))
            process.terminate()
            process.join()

    def stop(self) -> None:
        """End every process that still runs: interrupt it, and kill it if that does not help."""
        for process in self.processes.values():
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + _TERM_S
        for process in self.processes.values():
            process.join(max(0.1, deadline - time.monotonic()))
            process.kill()
            process.join()

    def _cause(self, name: str, code: int) -> str:
        """Return how a process ended, and the error in its log."""
        who = "the controller" if name == "controller" else name
        if code < 0:
            sent = signal.Signals(-code).name
            return f"{who} was killed by {_OUT_OF_MEMORY if sent == 'SIGKILL' else sent}"
        return f"{who} exited with code {code}: {_error_in(self._log(name).read_text(errors='replace'))}"


def _error_in(log: str) -> str:
    """The error that ended a process: its own line, else the last exception, else the last line."""
    lines = log.strip().splitlines() or ["its log is empty"]
    ours = [line.removeprefix("edgenode: ") for line in lines if line.startswith("edgenode: ")]
    _, traceback, text = log.rpartition("Traceback (most recent call last)")
    exceptions = _EXCEPTION.findall(text) if traceback else []
    return str([lines[-1], *exceptions, *ours][-1])


def _begin_imports() -> None:
    if isinstance(_FORKED, ForkServerContext):
        _FORKED.set_forkserver_preload(_IMPORTS)
        with _uninterrupted():
            forkserver.ensure_running()


def _main(log: Path, words: Sequence[str]) -> None:
    """A process of the demo: the command ``edgenode WORDS``, with its output in a file."""
    os.setsid()  # Ctrl-C reaches only the demo, which ends the others
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    cli.main(words)


@contextmanager
def _environ() -> Iterator[None]:
    """Let processes that start in this block have no variables of edgenode's, and one thread for each node."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("EDGENODE_"):
            del os.environ[name]
    os.environ.update({"GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block.

    1. Between the start of a child and its entry in the list, an interrupt would leave a child that nobody ends.
    2. Blocked in this thread, a signal goes to another one, such as the console's. Its handler runs in the main thread
       all the same, so handlers wait, too.
    3. A child inherits the block, not the handlers: it unblocks the signals when it has left the demo's session.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    deferred: list[int] = []
    handlers = {number: signal.getsignal(number) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        for number in numbers:
            signal.signal(number, lambda number, _: deferred.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for found in deferred:
            signal.raise_signal(found)
