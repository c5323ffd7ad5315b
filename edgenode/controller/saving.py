"""Saves the controller's state, and waits for a free file descriptor if there is none."""

from __future__ import annotations

import asyncio

import structlog

from edgenode.core.protocol.events import Persist
from edgenode.errors import NoFreeFile
from edgenode.storage.controller_state import ControllerState

log = structlog.get_logger()

_AGAIN_S = 0.5


async def save_when_possible(state: ControllerState, persist: Persist) -> None:
    """Save in a thread. What follows relies on it, so a lack of file descriptors only delays it.

    Raises:
        CheckpointError: the disk fails in another way.
    """
    waited = False
    while True:
        try:
            await asyncio.to_thread(state.save, persist)
            break
        except NoFreeFile as exc:
            if not waited:
                log.warning("waiting to save the plan", reason=str(exc))
            waited = True
        await asyncio.sleep(_AGAIN_S)
    if waited:
        log.info("saving works again", what="plan")
