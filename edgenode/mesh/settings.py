"""The settings of a Mesh: its arguments over the EDGENODE_* variables that `edgenode run` reads, over the defaults."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from edgenode import factory
from edgenode.config.load import checked_name, load
from edgenode.core.names import to_name
from edgenode.errors import ConfigError
from edgenode.node.credentials import node_security
from edgenode.node.options import Options, node_options
from edgenode.observability.logs import set_up_logging

log = structlog.get_logger()

_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Arguments:
    """The arguments of a Mesh about its node. None is not given."""

    config: str | Path | None
    settings: Mapping[str, object]
    name: str | None
    listen: str | None
    peers: str | Sequence[str] | None
    controller: str | None
    state_dir: str | Path | None
    fresh: bool | None
    wait_s: float | None
    metrics: str | None
    publish: str | Path | None
    track: str | None


def read(arguments: Arguments, environ: Mapping[str, str] = os.environ) -> Options:
    """The options of the node.

    Raises:
        ConfigError: a value is not allowed. The text names its source.
    """
    path = arguments.config or environ.get("EDGENODE_CONFIG")
    config = load(Path(path) if path else None, arguments.settings, environ)
    peers = (
        arguments.peers if arguments.peers is None or isinstance(arguments.peers, str) else ",".join(arguments.peers)
    )
    state_dir = arguments.state_dir or environ.get("EDGENODE_STATE_DIR")
    publish = arguments.publish or environ.get("EDGENODE_PUBLISH")
    options = node_options(
        config,
        _name(arguments.name, environ),
        arguments.listen or environ.get("EDGENODE_LISTEN", "0.0.0.0:7600"),
        peers or environ.get("EDGENODE_PEERS", "mdns"),
        arguments.controller or environ.get("EDGENODE_CONTROLLER"),
        Path(state_dir) if state_dir else None,
        fresh=_flag("EDGENODE_FRESH", environ) if arguments.fresh is None else arguments.fresh,
        wait_s=_seconds("EDGENODE_WAIT", environ) if arguments.wait_s is None else arguments.wait_s,
        metrics=arguments.metrics or environ.get("EDGENODE_METRICS", "none"),
        reflection=_flag("EDGENODE_REFLECTION", environ),
        publish=Path(publish) if publish else None,
        track=arguments.track or environ.get("EDGENODE_TRACK", ""),
        join=environ.get("EDGENODE_JOIN") or None,
    )
    factory.check_networked(config, controller=options.controller != "none")
    security = node_security(options, _flag("EDGENODE_INSECURE", environ))
    return replace(options, security=security)


def log_as_the_daemon_does(environ: Mapping[str, str] = os.environ) -> None:
    """Log to stderr, unless the program has configured structlog itself."""
    if not structlog.is_configured():
        set_up_logging(_flag("EDGENODE_VERBOSE", environ), environ.get("EDGENODE_LOG_FORMAT", "text"))


def _name(given: str | None, environ: Mapping[str, str]) -> str:
    if given is not None:
        return checked_name("argument name", given)
    if "EDGENODE_NAME" in environ:
        return checked_name("environment variable EDGENODE_NAME", environ["EDGENODE_NAME"])
    return to_name(socket.gethostname())


def _flag(variable: str, environ: Mapping[str, str]) -> bool:
    text = environ.get(variable, "").lower()
    if text not in _YES + _NO:
        raise ConfigError(f"environment variable {variable} = {text!r}, but it must be 1 or 0")
    return text in _YES


def _seconds(variable: str, environ: Mapping[str, str]) -> float:
    text = environ.get(variable, "300")
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"environment variable {variable} = {text!r}, but it must be a number of seconds") from None


def local_steps(options: Options) -> int:
    """How many steps of the loop are a round.

    Raises:
        ConfigError: run.toml leaves it to the node, which does not have the loop in its hands.
    """
    count = options.config.task.local_steps
    if count == "auto":
        raise ConfigError('task.local_steps = "auto": only a task has it; set a number for a loop of your own')
    return count
