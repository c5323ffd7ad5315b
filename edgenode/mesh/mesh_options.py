"""The settings of a Mesh: its arguments over the EDGENODE_* variables that `edgenode run` reads, over the defaults."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from edgenode import factory
from edgenode.config.load import checked_name, load
from edgenode.errors import ConfigError
from edgenode.mesh.simulated import is_simulated
from edgenode.names import to_name
from edgenode.node.credentials import node_security
from edgenode.node.node_options import NODE_OPTIONS, NodeOptions, flag_of, node_options
from edgenode.observability.logs import set_up_logging

log = structlog.get_logger()


def read(
    config: str | Path | None,
    settings: Mapping[str, object],
    peers: str | Sequence[str] | None,
    environ: Mapping[str, str] = os.environ,
    **given: object,
) -> NodeOptions:
    """The options of the node of a Mesh, which are its arguments, or else the variables of `edgenode run`.

    Raises:
        ConfigError: a value is not allowed. The text names its source.
    """
    path = config or environ.get("EDGENODE_CONFIG")
    loaded = load(Path(path) if path else None, settings, environ)
    given["peers"] = peers if peers is None or isinstance(peers, str) else ",".join(peers)
    if given["name"] is not None:
        checked_name("argument name", str(given["name"]))
    values = {
        field: option.read(environ) if given.get(field) is None else given[field]
        for field, option in NODE_OPTIONS.items()
        if field != "resume_from"
    }
    if is_simulated():  # it has the name and the folder that the simulation gave it, and no network
        simulated = {field: NODE_OPTIONS[field].read(environ) for field in ("name", "state_dir")}
        return NodeOptions(loaded, simulated["name"], state_dir=Path(simulated["state_dir"]))
    name = str(values.pop("name") or to_name(socket.gethostname()))
    options = node_options(loaded, name, **values)
    factory.check_networked(loaded, controller=options.controller != "none")
    return replace(options, security=node_security(options))


def log_as_the_daemon_does(environ: Mapping[str, str] = os.environ) -> None:
    """Log to stderr, unless the program has configured structlog itself."""
    if not structlog.is_configured():
        set_up_logging(
            flag_of("EDGENODE_VERBOSE", environ.get("EDGENODE_VERBOSE", "")),
            environ.get("EDGENODE_LOG_FORMAT", "text"),
        )


def local_steps(options: NodeOptions) -> int:
    """Return the number of steps of the loop in a round.

    Raises:
        ConfigError: run.toml leaves it to the node, which does not have the loop in its hands.
    """
    count = options.config.task.local_steps
    if count == "auto":
        raise ConfigError('task.local_steps = "auto": only a task has it; set a number for a loop of your own')
    return count
