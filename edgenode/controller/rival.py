"""Tests whether another controller leads a cluster of the same name."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from edgenode.core.protocol.orders import Leadership
from edgenode.errors import EdgenodeError
from edgenode.net.mdns_service import Service
from edgenode.net.operator_client import operator_client
from edgenode.net.rpc import serves
from edgenode.net.tls import Security

_PROBE_S = 2.0


async def answers(rival: Service, cluster: str, ours: Leadership, security: Security, unproven: bool) -> bool:
    """Return whether another controller of this cluster answers at an announced address.

    Args:
        unproven: a server without a certificate of our authority counts, too. Anybody in the network can announce one.
    """

    async def answers_at(target: str) -> bool:
        with suppress(EdgenodeError):
            async with operator_client(target, _PROBE_S, security) as client:
                status = await client.status()
                return status.cluster == cluster and status.leadership.nonce != ours.nonce
        if unproven:
            with suppress(EdgenodeError):
                await serves(target, _PROBE_S, None)  # a controller with another authority answers nothing
                return True
        return False

    return any(await asyncio.gather(*map(answers_at, rival.targets)))
