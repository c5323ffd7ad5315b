"""The time between the end of a member and the end of its run, if the members are fixed.

Another member may die in its last rounds. When it is back, all resume from a checkpoint, also those that have ended. A
push may be repeated because its answer was lost, and the controller may not know yet that this member has ended. So it
stays until the controller says that all have. It has written its result before, and exits alone at last.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()

_LONGEST_S = 300.0
_LOGGED_AFTER_S = 1.0
_CHECK_EVERY_S = 0.05


async def stay(all_ended: asyncio.Event, answer: Callable[[], Awaitable[None]]) -> None:
    """Stay until all members have ended.

    Args:
        all_ended: set when the controller says so, or at SIGTERM.
        answer: takes what comes for this member, and raises PeerRestarted if all restart.
    """
    began, logged = time.monotonic(), False
    while not all_ended.is_set():
        await answer()
        stayed_s = time.monotonic() - began
        if stayed_s > _LONGEST_S:
            log.warning("exiting before all members have ended: if one returns, start this node again")
            return
        if stayed_s > _LOGGED_AFTER_S and not logged:
            log.info("staying until all members have ended: one that returns needs the others")
            logged = True
        await asyncio.sleep(_CHECK_EVERY_S)
