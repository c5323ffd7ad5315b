"""Finds the controller of a running cluster for a command, and calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgenode.addresses import split_address
from edgenode.cli.launched import Launch, launches_here
from edgenode.cli.own_credentials import operator_securities
from edgenode.cli.past_run import past_launch, past_run
from edgenode.cli.shared_options import as_name, insecure_option, node_option
from edgenode.config.graphs import GRAPHS
from edgenode.errors import ConfigError, TransportError
from edgenode.net.interfaces import interfaces_for

if TYPE_CHECKING:  # gRPC and zeroconf take half a second to import, which --help and completion need not wait for
    from edgenode.net.credential_client import CredentialClient
    from edgenode.net.operator_client import OperatorClient
    from edgenode.net.tls import Security

T = TypeVar("T")

WAIT_S = 5.0  # mDNS asks three times in it
_NO_CONTROLLER = (
    "start edgenode controller, or give its address with --controller H:P; a run with --peers has no controller, and "
    "its nodes only stop and start by themselves"
)
_QUIET_S = 1.0  # a search that is shorter prints nothing


@dataclass(frozen=True)
class Where:
    """The options about the controller.

    Attributes:
        controller: "mdns", or host:port.
        cluster: None is the only cluster that mDNS finds.
        wait_s: seconds to look for the controller.
        credentials: the file with the operator's key and certificate. None is the one on this machine.
        insecure: call a controller that works without TLS.
    """

    controller: str
    cluster: str | None
    wait_s: float
    credentials: Path | None
    insecure: bool


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--controller, --cluster, --wait, --credentials and --insecure, passed to the command as ``where``."""

    @wraps(command)
    def with_where(**given: Any) -> Any:
        about = {field.name: given.pop(field.name) for field in fields(Where)}
        return command(where=Where(**about), **given)

    for option in (
        insecure_option,
        click.option("--credentials", type=click.Path(path_type=Path), envvar="EDGENODE_CREDENTIALS",
                     help="File with your key and certificate. [default: of a launch here, or on this machine]"),
        node_option("wait_s", default=WAIT_S, help="How long to look for the controller."),
        click.option("--cluster", callback=as_name, envvar="EDGENODE_CLUSTER",
                     help="Name of the cluster to find by mDNS. [default: the only one that is found]"),
        node_option("controller", default="mdns", show_default=True, metavar="mdns|H:P",
                    help="Address of the controller, or mdns to find it."),
    ):  # fmt: skip
        with_where = option(with_where)
    return with_where


def with_operator(where: Where, call: Callable[[OperatorClient], Awaitable[T]]) -> T:
    """Find the controller, and run ``call`` with a client of it. A search that takes long is shown on stderr.

    Raises:
        ConfigError: no controller is found, or there are several clusters. The text says where.
        TransportError: the controller does not answer. The text says why.
    """
    from edgenode.net.operator_client import operator_client

    async def with_client(target: str, security: Security) -> T:
        async with AsyncExitStack() as stack:
            dialling = stack.enter_async_context(operator_client(target, where.wait_s, security))
            return await call(await _shown(dialling, f"waiting for the controller at {target}"))

    GRAPHS.add_all()  # the run may use any of them
    return asyncio.run(_with_controller(where, with_client))


def with_credentials(where: Where, call: Callable[[CredentialClient], Awaitable[T]]) -> T:
    """Find the controller, and run ``call`` with a client of its credential service.

    Raises:
        TransportError: as `with_operator`.
        ConfigError: as `with_operator`, or the controller works without TLS.
    """
    from edgenode.net.credential_client import CredentialClient

    if where.insecure:
        raise ConfigError("a controller that runs with --insecure has no certificates to give")
    return asyncio.run(_with_controller(where, lambda *found: call(CredentialClient(*found))))


async def _with_controller(where: Where, call: Callable[[str, Security], Awaitable[T]]) -> T:
    """Call the controller. If it does not answer, the run may be over."""
    try:
        return await call(*await _found(where))
    except TransportError as exc:
        if past := past_run(where.cluster, where.credentials):
            raise TransportError(f"{exc}; {past}") from exc
        raise


async def _found(where: Where) -> tuple[str, Security]:
    """host:port of the controller, given, of a launch in this folder, or found by mDNS, and how to call it."""
    if (launch := _launched(where)) is not None:
        return launch.controller, operator_securities(launch.credentials, insecure=False, cluster=launch.cluster)[0]
    if where.controller != "mdns":
        return await _given(where)
    try:
        return await _discovered(where)
    except ConfigError as exc:
        if where.credentials is None and not where.insecure and (past := past_launch(where.cluster)):
            raise ConfigError(past) from exc
        raise


async def _discovered(where: Where) -> tuple[str, Security]:
    """As `_found`, by mDNS."""
    from edgenode.net.dialling import first_to_answer
    from edgenode.net.discovery import Discovery

    async with Discovery(where.cluster or "", interfaces_for("")) as discovery:
        text = f"looking for {discovery.wanted('controller')}"
        cluster = where.cluster
        try:
            if cluster is not None:
                await _shown(discovery.wait("controller", timeout_s=where.wait_s), text)
            else:
                cluster = _only(await _shown(discovery.wait_for_clusters("controller", timeout_s=where.wait_s), text))
        except TransportError as exc:
            hints = (str(exc), _NO_CONTROLLER, past_run(where.cluster, where.credentials))
            raise ConfigError("; ".join(hint for hint in hints if hint)) from exc
        securities = operator_securities(where.credentials, where.insecure, cluster)
        text = f"waiting for an announced controller of cluster {cluster!r} to answer"
        targets = discovery.watch_targets("controller", cluster)
        return await _shown(first_to_answer(targets, securities, where.wait_s), text)


async def _given(where: Where) -> tuple[str, Security]:
    from edgenode.net.dialling import first_to_answer

    split_address(where.controller)
    securities = operator_securities(where.credentials, where.insecure, where.cluster)
    if len(securities) == 1:  # the call itself shows whether they fit
        return where.controller, securities[0]
    text = f"waiting for the controller at {where.controller}"
    return await _shown(first_to_answer(_fixed(where.controller), securities, where.wait_s), text)


async def _fixed(target: str) -> AsyncIterator[tuple[str, ...]]:
    yield (target,)


def _launched(where: Where) -> Launch | None:
    """The launch in this folder that the options allow, if there is one."""
    if where.credentials is not None or where.insecure:
        return None
    found = {
        launch.cluster: launch
        for launch in launches_here()
        if where.cluster in (None, launch.cluster) and where.controller in ("mdns", launch.controller)
    }
    return found[_only(sorted(found))] if found else None


def _only(clusters: list[str]) -> str:
    if len(clusters) > 1:
        raise ConfigError(f"found {len(clusters)} clusters: {', '.join(clusters)}; choose one with --cluster NAME")
    return clusters[0]


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
