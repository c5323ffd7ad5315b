"""The command line. It parses and calls, and has no logic.

A command is imported when it is used, so that `edgenode --help` is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from edgenode import __version__
from edgenode.entry_points import Group
from edgenode.errors import ConfigError, EdgenodeError, NotAdmitted, in_words

# purpose -> command -> (module that defines it under the same name, its line in `edgenode --help`)
_GROUPS = {
    "Train": {
        "demo": ("edgenode.cli.demo", "Train on this machine, with a controller and four nodes as real processes."),
        "run": ("edgenode.cli.run", "Run one node."),
        "controller": ("edgenode.cli.run", "Run the controller of a cluster."),
        "relay": ("edgenode.cli.relay", "Relay between nodes that cannot dial each other."),
        "launch": ("edgenode.cli.launch", "Run a training script with edgenode.Mesh as several nodes on this machine."),
        "new": ("edgenode.cli.new", "Create a project with a task of your own."),
        "simulate": ("edgenode.cli.simulate", "Run all nodes here without a network, with bit-identical results."),
    },
    "Watch": {
        "status": ("edgenode.cli.status_commands", "Show the state of a running cluster."),
        "nodes": ("edgenode.cli.status_commands", "List the nodes of a running cluster."),
        "watch": ("edgenode.cli.watch", "Watch a running cluster in the terminal."),
        "page": ("edgenode.cli.page", "Open the controller's page: print a link that signs you in."),
        "runs": (
            "edgenode.cli.runs",
            "Show, export and plot the runs of this machine's controller, and its audit log.",
        ),
    },
    "Steer": {
        "pause": ("edgenode.cli.steering", "Pause a run: every node finishes its round and waits."),
        "resume": ("edgenode.cli.steering", "Resume a paused run."),
        "stop": ("edgenode.cli.steering", "Stop all nodes before the same round, with checkpoints written."),
        "extend": ("edgenode.cli.steering", "Train longer: give a run more rounds while it trains."),
        "evict": ("edgenode.cli.steering", "Continue without a node that will not come back."),
        "topology": ("edgenode.cli.topology", "Show and change the communication graph of a running cluster."),
    },
    "Secure": {
        "invite": ("edgenode.cli.security", "Print a line that lets a device or a person into a cluster."),
        "join": ("edgenode.cli.security", "Enrol yourself here, to watch and steer a cluster."),
        "keys": ("edgenode.cli.security", "List who may take part in a cluster."),
        "revoke": ("edgenode.cli.security", "Revoke the key of a node or an operator."),
        "cert": ("edgenode.cli.security", "Make certificates without a controller."),
    },
    "Check": {
        "doctor": ("edgenode.cli.doctor", "Check this device for what would stop a run, and name the remedy."),
        "health": ("edgenode.cli.health", "Check whether a daemon serves. The exit code is the answer."),
        "bench": ("edgenode.cli.bench", "Measure what edgenode costs on this machine."),
    },
    "Use": {"export": ("edgenode.cli.export", "Write a trained model as ONNX, TorchScript or safetensors.")},
}
_COMMANDS = {name: command for group in _GROUPS.values() for name, command in group.items()}
_WIDEST = max(map(len, _COMMANDS))  # so that the texts of all groups begin in one column


_OF_PACKAGES: Group[click.Command] = Group("edgenode.commands", click.Command, {})


class LazyGroup(click.Group):
    """A group whose commands are imported on first use. Installed packages add commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *(name for name in _OF_PACKAGES.names() if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command: click.Command
        if cmd_name in _COMMANDS:
            module, _ = _COMMANDS[cmd_name]
            command = getattr(import_module(module), cmd_name)
        elif cmd_name in _OF_PACKAGES.names():
            try:
                command = _OF_PACKAGES[cmd_name]
            except ConfigError as exc:
                raise ConfigError(f"edgenode {cmd_name}: {exc}") from exc
        elif missing := _OF_PACKAGES.in_laboratory(cmd_name):
            raise ConfigError(f"edgenode {cmd_name}: {missing}")
        else:
            return None
        _show_variables(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        others = [name for name in _OF_PACKAGES.names() if name not in _COMMANDS]
        of_packages = {name: ("", f"Provided by {_OF_PACKAGES.provider(name)}.") for name in others}
        for purpose, commands in {**_GROUPS, "Installed packages": of_packages}.items():
            if commands:
                with formatter.section(purpose):
                    formatter.write_dl([(name.ljust(_WIDEST), text) for name, (_, text) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. An error of ours becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except EdgenodeError as exc:
            click.echo(f"edgenode: {in_words(exc)}", err=True)
            ctx.exit(2 if isinstance(exc, ConfigError) else 3 if isinstance(exc, NotAdmitted) else 1)
        except BrokenPipeError:  # click handles it: the reader of our output has closed the pipe
            raise
        except OSError as exc:  # for example a full disk, or a folder without permission
            click.echo(f"edgenode: {exc.filename or 'the system'}: {exc.strerror or exc}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("edgenode: interrupted", err=True)
            ctx.exit(130)


def _show_variables(command: click.Command) -> None:
    """Let --help name the environment variable of an option that has one."""
    for option in command.params:
        if isinstance(option, click.Option):
            option.show_envvar = True
    if isinstance(command, click.Group):
        for nested in command.commands.values():
            _show_variables(nested)


_EPILOG = """
Exit codes: 0 done, 1 a run or a check failed, 2 not possible as given, 3 not admitted to the cluster, 130 interrupted.
docs/errors.md has the remedies that an error does not name.
"""


@click.group(
    cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="edgenode")
def group() -> None:
    """Train one PyTorch model together on edge devices, without a server and without collecting the data.

    \b
    Examples:
      edgenode demo                         see it work on this machine
      edgenode controller --invites 4       on one device, next to run.toml: prints a command for each other device
      edgenode run --join inv-...           this command, on every device that has data, next to the same run.toml
      edgenode topology set b               change the graph while the run trains
    """


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the ``edgenode`` script and of ``python -m edgenode``. ``words`` replace its arguments."""
    group.main(sys.argv[1:] if words is None else words, prog_name="edgenode")
