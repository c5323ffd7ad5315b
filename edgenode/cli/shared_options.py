"""Options and set-up that several commands share."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from edgenode.config.load import checked_name, load
from edgenode.config.schema import Config
from edgenode.entry_points import is_in_module
from edgenode.errors import ConfigError
from edgenode.names import to_name
from edgenode.node.node_options import NODE_OPTIONS

Command = TypeVar("Command", bound=Callable[..., Any])

CONTROLLER_PORT = 7700
HTTP_PORT = 8080


def default_config() -> Path | None:
    """The run.toml of the current folder, if there is one."""
    path = Path("run.toml")
    return path if path.is_file() else None


config_option = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), default=default_config,
    envvar="EDGENODE_CONFIG",
    help="The run.toml that describes the run, the same on every device. [default: run.toml, if this folder has one]",
)  # fmt: skip
set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of run.toml, as in --set run.rounds=500. Can be repeated. Each key has a variable, as "
    "EDGENODE_RUN_ROUNDS.",
)
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, envvar="EDGENODE_VERBOSE", help="Log every round and every action."
)
log_format_option = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
    envvar="EDGENODE_LOG_FORMAT", help="Format of log lines: text, or one JSON object per line.",
)  # fmt: skip
yes_option = click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def as_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The callback of an option or an argument that is the name of a node or a cluster.

    Raises:
        ConfigError: it is not a name.
    """
    if value is None:
        return None
    if ctx.get_parameter_source(param.name or "") is ParameterSource.ENVIRONMENT:
        return checked_name(f"environment variable {param.envvar}", value)
    if isinstance(param, click.Argument):
        return checked_name(f"command-line argument {param.human_readable_name}", value)
    return checked_name(f"command-line option {param.opts[0]}", value)


def _checked_track(_ctx: click.Context, _param: click.Parameter, target: str) -> str:
    from edgenode.observability.tracking import checked_target

    return checked_target(target) if target else ""


_OF_KIND: dict[str, dict[str, Any]] = {
    "text": {},
    "name": {"callback": as_name},
    "flag": {"is_flag": True},
    "seconds": {"type": click.FloatRange(0)},
    "round": {"type": click.IntRange(0)},
    "folder": {"type": click.Path(path_type=Path)},
    "file": {"type": click.Path(dir_okay=False, path_type=Path)},
    "tracker": {"callback": _checked_track},
}


def node_option(field: str, **changes: Any) -> Callable[[Command], Command]:
    """An option of a node (`NODE_OPTIONS`), with what another command changes about it."""
    option = NODE_OPTIONS[field]
    shown = option.default not in (None, False, "")
    about = {"default": option.default, "show_default": shown, "metavar": option.metavar, "help": option.meaning}
    return click.option(option.flag, field, envvar=option.variable, **{**_OF_KIND[option.kind], **about, **changes})


def every_node_option(command: Command) -> Command:
    """All options of a node, passed to the command by the names of `NODE_OPTIONS`."""
    for field in reversed(list(NODE_OPTIONS)):
        command = node_option(field)(command)
    return command


insecure_option = node_option("insecure")
reflection_option = node_option("reflection")
track_option = node_option("track")


def overrides(settings: tuple[str, ...]) -> dict[str, str]:
    """The keys of run.toml that --set gives, with their values as text.

    Raises:
        ConfigError: a --set without "=".
    """
    pairs = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected KEY=VALUE, as in --set run.rounds=500")
        pairs[key.strip()] = value.strip()
    return pairs


def load_config(path: Path | None, settings: tuple[str, ...]) -> Config:
    """The configuration; its warnings go to stderr.

    Raises:
        ConfigError: as ``overrides`` and ``load``.
    """
    # modules next to run.toml can be imported, as next to a script that Python runs
    sys.path.insert(0, folder := str((path.parent if path is not None else Path()).absolute()))
    config = load(path, overrides(settings))
    if not config.task.entry and not is_in_module(config.algorithm.name):
        sys.path.remove(folder)
    for warning in config.warnings():
        warn(warning)
    return config


def warn(text: str) -> None:
    """Print what is allowed and yet probably not intended."""
    click.echo(f"edgenode: warning: {text}", err=True)


def results_folder(given: Path | None, kind: str) -> Path:
    """Make the folder for results: the given one, or runs/KIND-TIME, which no other command has.

    Raises:
        OSError: it cannot be made.
    """
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.resolve()
    first = folder = Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")
    number = 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another command began in the same second
            number += 1
            folder = first.with_name(f"{first.name}-{number}")
        else:
            return folder.resolve()


def take_sigterm_as_ctrl_c() -> None:
    """Let SIGTERM end the process like Ctrl-C.

    asyncio turns SIGINT into a cancellation of its main task. An exception from a handler could hit any task.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def default_name() -> str:
    """The name of this machine's node: the nearest to the host name."""
    return to_name(socket.gethostname())


def node_names(count: int) -> list[str]:
    """The names of the nodes that one command starts, in their order."""
    return [f"node-{index:0{len(str(count - 1))}d}" for index in range(count)]


def node_name(given: str | None) -> str:
    """The given name, or the default. A note says so if the host name itself cannot be a name."""
    if given is None and (name := default_name()) != (host := socket.gethostname()):
        click.echo(f"edgenode: note: this node is named {name}, because {host!a} cannot be a name", err=True)
    return default_name() if given is None else given


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal. A script is not asked.

    Raises:
        click.Abort: the answer is no.
    """
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True)


def log_start(**what: object) -> None:
    """Log that a daemon starts. The imports that follow take seconds on a small board."""
    import structlog

    structlog.get_logger().info("starting", **what)
