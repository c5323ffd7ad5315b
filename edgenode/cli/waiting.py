"""Waiting in sight of the operator: what is awaited stands on stderr, and Ctrl-C ends only the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import click
from rich.console import Console
from rich.text import Text

from edgenode.core.protocol.status import ClusterStatus
from edgenode.errors import TransportError
from edgenode.net.operator import Operator

T = TypeVar("T")

_QUIET_S = 1.0
Say = Callable[[str], None]


async def granted(operator: Operator, request: Awaitable[T]) -> T:
    """A wish's answer; if that takes long, say what the cluster waits for."""
    asked = asyncio.ensure_future(request)
    try:
        await asyncio.wait([asked], timeout=_QUIET_S)
        if asked.done():
            return asked.result()
        async with _said() as say:
            while not asked.done():
                say(_why(await operator.status()))
                await asyncio.wait([asked], timeout=_QUIET_S)
        return asked.result()
    finally:
        asked.cancel()


async def followed(operator: Operator, left: Callable[[ClusterStatus], str]) -> bool:
    """Wait until ``left``, which says what is left to be done, is empty; False if the controller is gone before."""
    try:
        async with _said() as say:
            async for status in operator.watch():
                if not (what := left(status)):
                    return True
                say(what)
    except TransportError:
        return False
    return False


def _why(status: ClusterStatus) -> str:
    """Why a wish is not granted at once."""
    if status.evicting:
        return f"cutting out {', '.join(status.evicting)}: {', '.join(status.awaited) or 'nobody'} has yet to promise"
    if status.paused:
        return "the run is paused, and an earlier change takes effect only when it goes on (edgenode resume)"
    return "an earlier change has yet to take effect at every node"


@asynccontextmanager
async def _said() -> AsyncIterator[Say]:
    """Shows the last thing that was said: as one line that changes, or off a terminal as a line per change."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as spinner:
            yield lambda text: spinner.update(Text(f"{text} (Ctrl-C: do not wait)"))
        return
    last = ""

    def say(text: str) -> None:
        nonlocal last
        if text != last:
            click.echo(f"edgenode: {text}", err=True)
        last = text

    yield say
