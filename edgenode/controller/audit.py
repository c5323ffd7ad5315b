"""Records what operators request, from the command line and from the page. If the disk fails, the run continues."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from edgenode.errors import CheckpointError, EdgenodeError
from edgenode.storage.audit_log import AuditLog

log = structlog.get_logger()

T = TypeVar("T")


class Audit:
    """The audit log of a controller, which logs its entries too."""

    def __init__(self, state_dir: Path) -> None:
        self._log = AuditLog(state_dir)

    @asynccontextmanager
    async def noting(self, who: str, request: str) -> AsyncIterator[Callable[[str], None]]:
        """Record a request before the body carries it out, and its outcome after it.

        Yields what takes the outcome in words. Without a call, it is "done". An EdgenodeError is a refusal.
        """
        outcome = ["done"]
        number = await _written(lambda: self._log.begin(who, request))
        try:
            yield outcome.append
        except EdgenodeError as exc:
            await self._end(number, who, request, f"refused: {exc}")
            raise
        await self._end(number, who, request, outcome[-1])

    async def _end(self, number: int | None, who: str, request: str, outcome: str) -> None:
        log.info("operator request", who=who, request=request, outcome=outcome)
        if number is not None:
            await _written(lambda: self._log.end(number, outcome))


async def _written(write: Callable[[], T]) -> T | None:
    try:
        return await asyncio.to_thread(write)
    except CheckpointError as exc:
        log.warning("the audit log is not written", reason=str(exc))
        return None
