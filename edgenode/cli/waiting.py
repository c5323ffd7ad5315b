"""Waits for a request to take effect, and prints what it waits for to stderr. Ctrl-C ends only the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import click
from rich.console import Console
from rich.text import Text

from edgenode.core.protocol.status import ClusterStatus
from edgenode.errors import TransportError

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient

T = TypeVar("T")

_QUIET_S = 1.0  # a wait that is shorter prints nothing


async def wait_for_reply(client: OperatorClient, request: Awaitable[T]) -> T:
    """The reply to a request. Prints what the cluster waits for if that takes long."""
    reply = asyncio.ensure_future(request)
    try:
        await asyncio.wait([reply], timeout=_QUIET_S)
        if reply.done():
            return reply.result()
        async with _reason_line() as show:
            while not reply.done():
                show(_reason(await client.status()))
                await asyncio.wait([reply], timeout=_QUIET_S)
        return reply.result()
    finally:
        reply.cancel()


async def wait_until_done(client: OperatorClient, remaining: Callable[[ClusterStatus], str]) -> bool:
    """Wait until ``remaining``, which describes what is not done yet, returns "". False if the controller is lost."""
    try:
        async with _reason_line() as show:
            async for status in client.watch():
                if not (what := remaining(status)):
                    return True
                show(what)
    except TransportError:
        return False
    return False


def _reason(status: ClusterStatus) -> str:
    """Return why a request takes long."""
    if status.evicting:
        return f"evicting {', '.join(status.evicting)}: waiting for {', '.join(status.awaited) or 'no node'} to confirm"
    if status.paused:
        return "the run is paused, and an earlier change takes effect only after edgenode resume"
    return "waiting for an earlier change to take effect at every node"


@asynccontextmanager
async def _reason_line() -> AsyncIterator[Callable[[str], None]]:
    """Shows the newest text: in one line that changes on a terminal, else in a new line for each change."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as spinner:
            yield lambda text: spinner.update(Text(f"{text} (Ctrl-C: do not wait)"))
        return
    last = ""

    def show(text: str) -> None:
        nonlocal last
        if text != last:
            click.echo(f"edgenode: {text}", err=True)
        last = text

    yield show
