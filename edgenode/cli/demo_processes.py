"""The processes of ``edgenode demo``, and why one of them failed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgenode.config.schema import Config
from edgenode.net.tls import MutualTls
from edgenode.security.local import prepare

_END_S = 20.0
_TERM_S = 5.0
# The last line of a traceback, inside of an exception group too.
_EXCEPTION = re.compile(r"^[ |]*((?:\w+\.)*[A-Z]\w*(?:Error|Exception|Group|Exit|Interrupt)(?::.*)?)$", re.M)
_OUT_OF_MEMORY = "SIGKILL, which the system also sends when memory runs out"


class DemoProcesses:
    """The processes of the demo, with an authority of their own. ``stop`` ends all of them in every case.

    Attributes:
        security: of the operator's connections. Exists from ``start`` on.
    """

    security: MutualTls

    def __init__(self, config: Config, out: Path, track: str = "") -> None:
        self.config, self.logs = config, out / "logs"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._out, self._track = out, track
        self._names = [f"node-{i:0{len(str(config.run.nodes - 1))}d}" for i in range(config.run.nodes)]
        self._failed: dict[str, int] = {}  # exit codes, the first failure first

    def start(self) -> None:
        """Make the authority, and spawn the nodes and the controller. They start in any order."""
        operator = prepare(self._out, self.config.run.cluster, self._names)
        self.security = MutualTls(operator, lambda subject, key_id: True)
        common = ["--config", str(self._out / "run.toml"), "--listen", "127.0.0.1:0"]
        for name in self._names:
            self._spawn(name, ["run", "--name", name, "--state-dir", str(self._out / name), *common])
        state_dir = ["--state-dir", str(self._out / "controller")]
        self._spawn("controller", ["controller", "--http", "127.0.0.1:0", "--track", self._track, *state_dir, *common])

    def _spawn(self, name: str, arguments: list[str]) -> None:
        self.logs.mkdir(exist_ok=True)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("EDGENODE_")}
        environ |= {"GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1"}
        with (self.logs / f"{name}.log").open("wb") as log, _uninterrupted():
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "edgenode", *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ,
                start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
            )  # fmt: skip

    def why_failed(self) -> str:
        """The cause of the first failure so far. "" if there is none."""
        for name, process in self.processes.items():
            if process.poll():
                self._failed.setdefault(name, process.returncode)
        return next((self._cause(name, code) for name, code in self._failed.items()), "")

    def any_ended(self) -> bool:
        """Whether a process has exited, well or not."""
        return any(process.poll() is not None for process in self.processes.values())

    def join(self) -> None:
        """Wait until all have exited by themselves."""
        deadline = time.monotonic() + _END_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()

    def stop(self) -> None:
        """End every process that still runs: interrupt it, and kill it if that does not help."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _TERM_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _cause(self, name: str, code: int) -> str:
        """How a process ended, and the error in its log."""
        who = "the controller" if name == "controller" else name
        if code < 0:
            sent = signal.Signals(-code).name
            return f"{who} was killed by {_OUT_OF_MEMORY if sent == 'SIGKILL' else sent}"
        return f"{who} exited with code {code}: {_error_in((self.logs / f'{name}.log').read_text(errors='replace'))}"


def _error_in(log: str) -> str:
    """The error that ended a process: its own line, else the last exception, else the last line."""
    lines = log.strip().splitlines() or ["its log is empty"]
    ours = [line.removeprefix("edgenode: ") for line in lines if line.startswith("edgenode: ")]
    _, traceback, text = log.rpartition("Traceback (most recent call last)")
    exceptions = _EXCEPTION.findall(text) if traceback else []
    return str([lines[-1], *exceptions, *ours][-1])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block.

    Between the start of a child and its entry in the list, an interrupt would leave a child that nobody ends.
    """
    caught: list[int] = []
    before = {s: signal.signal(s, lambda number, _: caught.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt
