"""Processes of edgenode without the seconds in which Python imports torch: a server imports it once, and forks.

A fork is a process like any other, with its own memory, session, signals and exit code. It runs the program to the end
of the interpreter, as `python -m edgenode` or `python train.py` does.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
# What the commands import when they are used.
_IMPORTED = (
    "edgenode.cli.run", "edgenode.cli.simulate", "edgenode.cli.status_commands", "edgenode.cli.steering",
    "edgenode.cli.topology", "edgenode.controller.controller_process", "edgenode.mesh.mesh",
    "edgenode.node.fixed_peers", "edgenode.node.node_process", "edgenode.node.task_workload",
    "edgenode.simulate.simulation", "edgenode.tasks.image_task",
    "platformdirs", "psutil", "rich.progress", "safetensors.torch", "torch._dynamo",
)  # fmt: skip
_MESSAGE_BYTES = 1 << 20


def _of_interpreter(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that an interpreter reads when it starts."""
    return {name: value for name, value in environ.items() if name.startswith("PYTHON")}


_STARTED_WITH = _of_interpreter(os.environ)  # before any test changes them


class ForkedProcess:
    """A process of the server, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, server: _Server, pid: int) -> None:
        self._server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        self._server.hear(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left < 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self._server.hear(left)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: int, stdout: IO[bytes], stderr: IO[bytes],
    start_new_session: bool,
) -> ForkedProcess | subprocess.Popen[Any]:  # fmt: skip
    """Start a Python program, as `subprocess.Popen` does. An interpreter's variables and ``-c`` need a new one."""
    same = _of_interpreter(env) == _STARTED_WITH and argv[1] != "-c"
    if not (same and sys.platform == "linux" and argv[0] == sys.executable and start_new_session):
        return subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=start_new_session
        )
    assert stdin == subprocess.DEVNULL
    return _server().fork(argv[1:], env, cwd, (stdout.fileno(), stderr.fileno()))


@cache
def _server() -> _Server:
    return _Server()


class _Server:
    """The client's end. One thread uses it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._running: dict[int, ForkedProcess] = {}
        self._newest: ForkedProcess | None = None
        others = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environ = {**others, **_STARTED_WITH, "GRPC_ENABLE_FORK_SUPPORT": "0", "OMP_NUM_THREADS": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.fork_server", str(theirs.fileno())],
                cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                start_new_session=True, env=environ,
            )  # fmt: skip
        atexit.register(self._end)

    def fork(self, words: Sequence[str], env: Mapping[str, str], cwd: Path, outputs: tuple[int, int]) -> ForkedProcess:
        request = json.dumps({"words": words, "env": dict(env), "cwd": str(cwd)}).encode()
        socket.send_fds(self._socket, [request], outputs)
        self._newest = None
        while self._newest is None:
            self.hear(None)
        return self._newest

    def hear(self, timeout_s: float | None) -> None:
        """Wait for a message, and take all that have come."""
        while select.select([self._socket], [], [], timeout_s)[0]:
            message = self._socket.recv(_MESSAGE_BYTES)
            assert message, "the fork server has ended"
            what, pid, code = json.loads(message)
            if what == "forked":
                self._newest = self._running[pid] = ForkedProcess(self, pid)
            else:
                self._running.pop(pid).returncode = code
            timeout_s = 0

    def _end(self) -> None:
        self._socket.close()
        self._process.wait()


def serve(client: socket.socket) -> dict[str, Any]:
    """Fork a process for each request, and tell of its end. Returns the request in the new process."""
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    living = set[int]()
    while True:
        ready, _, _ = select.select([client, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for pid, status in [os.waitpid(pid, os.WNOHANG) for pid in living]:
                if pid:
                    living.remove(pid)
                    client.send(json.dumps(["ended", pid, os.waitstatus_to_exitcode(status)]).encode())
        if client in ready:
            message, files, _, _ = socket.recv_fds(client, _MESSAGE_BYTES, 2)
            if not message:
                os._exit(0)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, before)
                os.close(woken)
                os.close(wakes)
                os.setsid()
                for file, output in zip(files, (1, 2), strict=True):
                    os.dup2(file, output)
                    os.close(file)
                return dict(json.loads(message))
            living.add(pid)
            for file in files:
                os.close(file)
            client.send(json.dumps(["forked", pid, 0]).encode())


def become(words: list[str], env: dict[str, str], cwd: str) -> None:
    """Run a program as Python's command line does."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    gc.enable()
    if words[0] == "-m":
        sys.path[0], sys.argv = cwd, words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    gc.disable()
    for module in _IMPORTED:
        import_module(module)
    gc.freeze()
    assert threading.active_count() == 1
    with socket.socket(fileno=int(sys.argv[1])) as client:
        request = serve(client)
    become(**request)
