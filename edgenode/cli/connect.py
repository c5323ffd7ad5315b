"""How the commands for a running cluster find its controller, and call it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgenode.cli.options import as_name
from edgenode.errors import ConfigError, TransportError

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient

T = TypeVar("T")

_FIND_S = 4.0  # mDNS asks three times in it
_DIAL_S = 5.0
_QUIET_S = 1.0  # a search that is shorter prints nothing


@dataclass(frozen=True)
class Where:
    """What the options say about the controller.

    Attributes:
        controller: "mdns", or host:port.
        cluster: None is the only cluster that mDNS finds.
        wait: whether to wait for a controller as long as it takes.
    """

    controller: str
    cluster: str | None
    wait: bool = False


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--controller, --cluster and --wait, passed to the command as ``where``."""

    @wraps(command)
    def with_where(*args: Any, controller: str, cluster: str | None, wait: bool, **kwargs: Any) -> Any:
        return command(*args, where=Where(controller, cluster, wait), **kwargs)

    for option in (
        click.option("--wait", is_flag=True, envvar="EDGENODE_WAIT_FOR_CONTROLLER", show_envvar=True,
                     help="Wait until there is a controller."),
        click.option("--cluster", callback=as_name, envvar="EDGENODE_CLUSTER", show_envvar=True,
                     help="Name of the cluster to find by mDNS. [default: the only one that is found]"),
        click.option("--controller", default="mdns", metavar="mdns|H:P", show_default=True,
                     envvar="EDGENODE_CONTROLLER", show_envvar=True,
                     help="Address of the controller, or mdns to find it."),
    ):  # fmt: skip
        with_where = option(with_where)
    return with_where


def with_operator(where: Where, call: Callable[[OperatorClient], Awaitable[T]]) -> T:
    """Find the controller, and run ``call`` with a client of it. A search that takes long is shown on stderr.

    Raises:
        ConfigError: no controller answers, or there are several clusters. The text says where.
    """
    from edgenode.config.graphs import GRAPHS

    GRAPHS.add_all()  # the run may use any of them
    return asyncio.run(_operate(where, call))


async def _operate(where: Where, call: Callable[[OperatorClient], Awaitable[T]]) -> T:
    from edgenode.net.operator_client import operator_client

    try:
        target = await _target(where)
        async with AsyncExitStack() as stack:
            dialling = stack.enter_async_context(operator_client(target, None if where.wait else _DIAL_S))
            client = await _shown(dialling, f"waiting for the controller at {target}")
            return await call(client)
    except TransportError as exc:
        raise ConfigError(str(exc)) from exc


async def _target(where: Where) -> str:
    """host:port of the controller: the given address, or found by mDNS.

    Raises:
        ConfigError: the given address is malformed, or there are several clusters and none is chosen.
        TransportError: mDNS found no controller in time.
    """
    if where.controller != "mdns":
        from edgenode.net.rpc import split_address

        split_address(where.controller)
        return where.controller
    from edgenode.net.discovery import Discovery
    from edgenode.net.interfaces import interfaces_for

    timeout_s = None if where.wait else _FIND_S
    async with Discovery(where.cluster or "", interfaces_for("")) as discovery:
        text = f"looking for {discovery.wanted('controller')}"
        if where.cluster is not None:
            return (await _shown(discovery.wait("controller", timeout_s=timeout_s), text)).targets[0]
        found = await _shown(discovery.wait_for_clusters("controller", timeout_s=timeout_s), text)
    if len(found) > 1:
        raise ConfigError(f"found {len(found)} clusters: {', '.join(found)}; choose one with --cluster NAME")
    return next(iter(found.values())).targets[0]


async def _shown(waiting: Awaitable[T], text: str) -> T:
    """Await something. Print on stderr what it is if it takes long."""
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait([task], timeout=_QUIET_S)
        if not task.done():
            click.echo(f"edgenode: {text} (Ctrl-C ends this)", err=True)
        return await task
    finally:
        task.cancel()
