"""``edgenode launch``: a controller and the processes of a training script on this machine."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shutil import rmtree

import click

from edgenode.cli.launched import Launch, noted
from edgenode.cli.scripts import Script, environ_of_run, how_it_ended, module_option, script_of
from edgenode.cli.shared_options import (
    config_option,
    load_config,
    node_names,
    overrides,
    results_folder,
    set_option,
    take_sigterm_as_ctrl_c,
    track_option,
)
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.errors import EdgenodeError, first_cause
from edgenode.factory import check_networked
from edgenode.node.node_options import NODE_OPTIONS
from edgenode.security.local import CONTROLLER_FOLDER, OPERATOR, prepare

_READY = re.compile(r"controller ready .*listen=(\S+)")
_END_S = 10.0
_CONTROLLER_END_S = 20.0  # with its tracker
_READY_S = 60.0
_LINE_END = re.compile(rb"[\r\n]+")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--nodes", type=click.IntRange(1, 64),
              help="Number of processes. [default: run.nodes of run.toml]")  # fmt: skip
@config_option
@set_option
@module_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for checkpoints and results. A run in it resumes. [default: runs/launch-TIME]")  # fmt: skip
@click.option("--max-restarts", default=0, show_default=True, type=click.IntRange(0),
              help="How often a process that fails starts again.")  # fmt: skip
@track_option
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(
    nodes: int | None,
    config_path: Path | None,
    settings: tuple[str, ...],
    module: bool,
    out: Path | None,
    max_restarts: int,
    track: str,
    script: str,
    arguments: tuple[str, ...],
) -> None:
    """Run a training script as several nodes on this machine, with a controller.

    Each process has its own name, port and state folder, in the EDGENODE_* variables that edgenode.Mesh reads. Its
    output is printed with its name. In ARGUMENTS, {index} is the number of the process from 0, {nodes} their number,
    and {name} its name. If a process fails, the others are ended. Ctrl-C ends all. The commands for a running cluster,
    such as edgenode status and edgenode stop, find the launch in the folder where it was started.

    \b
    Examples:
      edgenode launch --nodes 4 train.py
      edgenode launch --nodes 4 train.py -- --data parts/{index}
      edgenode launch --nodes 4 --set run.rounds=500 -m mypackage.train
      edgenode launch --out runs/mine train.py           the same command resumes after a stop
      edgenode launch --track mlflow:http://10.0.0.9:5000 train.py
    """
    settings = (*settings, *((f"run.nodes={nodes}",) if nodes else ()))
    config = load_config(config_path, settings)
    program = script_of(script, module, arguments)
    check_networked(config, controller=True)  # before it leaves a folder
    given, out = out, results_folder(out, "launch")
    if config.run.cluster == Config().run.cluster:  # another launch on this network may have it, too
        settings = (*settings, f"run.cluster={_own_cluster(out)}")
        config = load(config_path, overrides(settings))
    again = _command(sys.argv[1:], None if given else out)
    environ = environ_of_run(config_path, settings)
    fleet = Fleet(config, out, program, environ, max_restarts, track, again)
    take_sigterm_as_ctrl_c()
    try:
        asyncio.run(fleet.run())
    except BaseExceptionGroup as exc:
        raise first_cause(exc) from exc
    finally:
        fleet.kill()
        if fleet.has_begun:
            click.echo(f"edgenode: checkpoints, models and results are in {out}", err=True)
        elif given is None:
            rmtree(out, ignore_errors=True)  # it is this launch's own, and has nothing but keys


@dataclass
class Fleet:
    """The processes of a launch.

    Args:
        environ: the environment of every process.
        track: the tracker to which the controller sends the measurements of all nodes.
        again: the command that resumes it.

    Attributes:
        has_begun: whether the controller was ready for the nodes.
    """

    config: Config
    out: Path
    script: Script
    environ: Mapping[str, str]
    max_restarts: int
    track: str
    again: str
    has_begun: bool = False
    _processes: dict[str, Process] = field(default_factory=dict)

    async def run(self) -> None:
        """Start all, and wait for the end of the nodes.

        Raises:
            EdgenodeError: a process failed. The others are ended.
        """
        names = node_names(self.config.run.nodes)
        prepare(self.out, self.config.run.cluster, names)
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                controller = group.create_task(self._control(address), name="controller")
                async with asyncio.timeout(_READY_S):
                    target = await address
                self.has_begun = True
                key = self.out / CONTROLLER_FOLDER / OPERATOR
                with noted(Launch(self.config.run.cluster, target, key, self.again)) as found_here:
                    _show_how_to_follow(target, key, found_here)
                    async with asyncio.TaskGroup() as nodes:
                        for index, name in enumerate(names):
                            nodes.create_task(self._node(index, name, target), name=name)
                await asyncio.wait([controller], timeout=_CONTROLLER_END_S)
                controller.cancel()
        finally:
            await asyncio.shield(self._end_all())

    async def _control(self, address: asyncio.Future[str]) -> None:
        def find(line: str) -> None:
            if (found := _READY.search(line)) and not address.done():
                address.set_result(found[1])

        command = [
            sys.executable, "-m", "edgenode", "controller", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
            "--state-dir", str(self.out / "controller"),
        ]  # fmt: skip
        # Everybody on this machine reads the words of a command, and the place of a tracker can have a password.
        track = {NODE_OPTIONS["track"].variable: self.track} if self.track else {}
        code = await self._run("controller", command, track, find)
        if code:
            raise EdgenodeError(f"the controller ended with exit code {code}; its last lines are above")

    async def _node(self, index: int, name: str, controller: str) -> None:
        given = {"name": name, "controller": controller, "listen": "127.0.0.1:0", "state_dir": str(self.out / name)}
        environ = {NODE_OPTIONS[option].variable: value for option, value in given.items()}
        command = [sys.executable, *self.script.words(index, name, self.config.run.nodes)]
        for left in range(self.max_restarts, -1, -1):
            code = await self._run(name, command, environ)
            if not code:
                return
            how = how_it_ended(code)
            if not left:
                raise EdgenodeError(f"{name} {how}; its last lines are above")
            click.echo(f"edgenode: {name} {how}, and starts again", err=True)

    async def _run(
        self, name: str, command: list[str], environ: Mapping[str, str], see: Callable[[str], None] = lambda _: None
    ) -> int:
        """Run a process to its end. Print its lines with its name. Return its exit code."""
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env={**self.environ, **environ}, start_new_session=True
        )
        self._processes[name] = process
        assert process.stdout is not None

        def show(line: bytes) -> None:
            text = line.decode(errors="replace")
            click.echo(f"{name} | {text}")
            see(text)

        rest = b""
        while chunk := await process.stdout.read(65536):
            *lines, rest = _LINE_END.split(rest + chunk)
            for line in lines:
                show(line)
        if rest:
            show(rest)
        return await process.wait()

    async def _end_all(self) -> None:
        """Interrupt what still runs, and kill it if that does not help."""
        alive = [process for process in self._processes.values() if process.returncode is None]
        for process in alive:
            process.send_signal(signal.SIGINT)
        if alive:
            await asyncio.wait([asyncio.ensure_future(process.wait()) for process in alive], timeout=_END_S)
        for process in alive:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def kill(self) -> None:
        """Kill what is left, as after a second Ctrl-C."""
        for process in self._processes.values():
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)


def _show_how_to_follow(controller: str, credentials: Path, found_here: bool) -> None:
    elsewhere = f"edgenode watch --controller {controller} --credentials {credentials}"
    how = f"edgenode watch (in this folder; elsewhere: {elsewhere})" if found_here else elsewhere
    click.echo(f"edgenode: follow this run with: {how}", err=True)


def _own_cluster(out: Path) -> str:
    """A name for the cluster of this folder. It is the same when the run resumes."""
    return f"launch-{sha256(str(out).encode()).hexdigest()[:8]}"


def _command(words: list[str], out: Path | None) -> str:
    """The words of this command, with the folder of the results if it was not given."""
    place = words.index("launch") + 1 if "launch" in words else 0
    folder = [] if out is None else ["--out", os.path.relpath(out)]
    return shlex.join(["edgenode", *words[:place], *folder, *words[place:]])
