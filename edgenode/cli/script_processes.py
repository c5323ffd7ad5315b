"""A training script as the nodes of a simulation: a fork of this process for each, so that torch is imported once.

A fork has its own group of processes, output, and pipe to the simulation. It runs the script to the end of the
interpreter, as `python train.py` does.
"""

from __future__ import annotations

import os
import random
import re
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import click
import numpy as np

from edgenode.cli.scripts import Script, how_it_ended
from edgenode.errors import EdgenodeError
from edgenode.node.node_options import NODE_OPTIONS
from edgenode.node.remote_trainer import ScriptPipe

_END_S = 3.0  # for the clean-up of a script that is ended
_EXIT_S = 20.0  # for a script that has left the run
_LAST_LINES_S = 2.0
_POLL_S = 0.02
_LINE_END = re.compile(rb"[\r\n]+")


class ScriptProcesses:
    """The processes of a script. They are ended when the context is left.

    The forks return from here as SystemExit, so nothing may be open that they must not close.

    Args:
        names: the names of the nodes.
        environ: the environment of every process.
        state: the folder with a state folder for each node.
    """

    def __init__(self, script: Script, names: Sequence[str], environ: Mapping[str, str], state: Path) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", environ["OMP_NUM_THREADS"])  # which torch reads when it is imported
        from edgenode.mesh.simulated import simulate_through

        self._processes: dict[str, _Process] = {}
        for index, name in enumerate(names):
            place = {NODE_OPTIONS["name"].variable: name, NODE_OPTIONS["state_dir"].variable: str(state / name)}
            (state / name).mkdir(parents=True, exist_ok=True)
            ours, theirs = Pipe()
            output, writes = os.pipe()
            pid = os.fork()
            if not pid:
                for end in (ours, *(process.pipe.connection for process in self._processes.values())):
                    end.close()  # the others see the end of the simulation by its ends
                simulate_through(theirs)
                _become(script.words(index, name, len(names)), {**environ, **place}, writes)
            with suppress(OSError):  # the fork was faster
                os.setpgid(pid, pid)
            theirs.close()
            os.close(writes)
            self._processes[name] = _Process(pid, ScriptPipe(name, ours), output)

    @property
    def pipes(self) -> list[ScriptPipe]:
        """The pipes to the scripts."""
        return [process.pipe for process in self._processes.values()]

    def __enter__(self) -> ScriptProcesses:
        for process in self._processes.values():
            process.show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs, and kill it if that does not help."""
        running = self._processes.values()
        try:
            for process in running:
                process.end(signal.SIGTERM)
            deadline = time.monotonic() + _END_S
            for process in running:
                process.ends_by(deadline)
        finally:
            for process in running:
                process.end(signal.SIGKILL)
                process.ends_by(None)

    def wait(self) -> None:
        """Wait until all scripts have ended after the run.

        Raises:
            EdgenodeError: one failed.
        """
        for name, process in self._processes.items():
            process.ends_by(None)
            if process.code:
                raise self.failure(name)

    def failure(self, name: str) -> EdgenodeError:
        """Return the error that the script of a node has ended in the middle of the run, or failed after it."""
        process = self._processes[name]
        process.ends_by(time.monotonic() + _EXIT_S)
        if process.code:
            return EdgenodeError(f"{name} {how_it_ended(process.code)}; its last lines are above")
        if process.code is None:
            return EdgenodeError(f"{name} took no more part in the run, but its script goes on")
        return EdgenodeError(f"{name} ended before the run: its script has to iterate over mesh.loop to the end")


class _Process:
    """One script.

    Attributes:
        code: its exit code, after `ends_by`. None while it runs.
    """

    def __init__(self, pid: int, pipe: ScriptPipe, output: int) -> None:
        self.pid, self.pipe = pid, pipe
        self.code: int | None = None
        self._output, self._is_shown = output, True
        self._shows = threading.Thread(target=self._show, name=f"output of {pipe.node}", daemon=True)

    def show(self) -> None:
        """Begin to print its lines, with the name of its node."""
        self._shows.start()

    def _show(self) -> None:
        rest = b""
        while chunk := os.read(self._output, 65536):
            *lines, rest = _LINE_END.split(rest + chunk)
            for line in lines:
                self._show_line(line)
        if rest:
            self._show_line(rest)

    def _show_line(self, line: bytes) -> None:
        if self._is_shown:
            click.echo(f"{self.pipe.node} | {line.decode(errors='replace')}", err=True)

    def ends_by(self, deadline: float | None) -> None:
        """Wait for the end of the process and of its lines."""
        while self.code is None and (deadline is None or time.monotonic() < deadline):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self._shows.join(_LAST_LINES_S)
            else:
                time.sleep(_POLL_S)

    def end(self, number: signal.Signals) -> None:
        """Send a signal to its group if it still runs, and print no more of it."""
        self._is_shown = False
        if self.code is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)


# --- in the fork ----------------------------------------------------------------------------------------


def _become(words: list[str], environ: Mapping[str, str], output: int) -> NoReturn:
    """Run a script, given the words after ``python``."""
    with suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C is for the simulation, which ends its scripts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, to in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(to, number)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(environ)
    random.seed()
    np.random.seed()
    try:
        if words[0] == "-m":
            sys.path[0], sys.argv = str(Path.cwd()), words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
            runpy.run_path(words[0], run_name="__main__")
    except Exception as exc:
        sys.last_value = exc.with_traceback(_of_script(exc.__traceback__))
        sys.excepthook(type(exc), exc, exc.__traceback__)  # as the interpreter does it
        raise SystemExit(1) from None
    raise SystemExit(0)


def _of_script(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without what started the script."""
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        trace = trace.tb_next
    return trace
