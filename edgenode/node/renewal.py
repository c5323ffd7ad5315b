"""Renews a node's certificate at two thirds of its life. Training does not notice.

A member also gets a new key. Its peers take calls under its name only from the key in the plan, so the order matters:

1. The node makes a key, and the controller issues a certificate for it. Both keys are valid for the controller now.
2. The node asks the controller to be known by the new key, and the controller makes a record.
3. The node changes its key when all receivers of its pushes acted on the record: a window of rounds after its start.
   Its peers take the old key until then. Connections that live keep the old one.
4. With the first use of the new key, the controller revokes the old one.

A node that dies in between comes back with the old key, as another process, which has a record of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from edgenode.errors import EdgenodeError
from edgenode.net.credential_client import CredentialClient
from edgenode.net.tls import MutualTls
from edgenode.node.standing import Standing
from edgenode.security.certificates import make_key
from edgenode.security.secret_files import is_due, write_credentials

log = structlog.get_logger()

_CHECK_EVERY_S = 60.0
_POLL_S = 0.1


async def keep_renewed(
    path: Path,
    security: MutualTls,
    controller: Callable[[], str],
    standing: Standing,
    check_s: float = _CHECK_EVERY_S,
) -> None:
    """Renew the credentials in a file whenever they are due, until cancelled.

    A failure is logged and tried again: the old certificate is valid for a third of its life.

    Args:
        security: gets the new credentials. Connections that live keep theirs.
        controller: returns host:port of the controller, or "" while none is known.
    """
    while True:
        await asyncio.sleep(check_s)
        if not (target := controller()):
            continue
        own = security.credentials
        try:
            if not await asyncio.to_thread(is_due, path):
                continue
            renewed = await CredentialClient(target, security).renew(
                own, make_key() if standing.is_member() else own.key
            )
            if renewed.key != own.key:
                await _until_known(renewed.key_id, standing, check_s)
            await asyncio.to_thread(write_credentials, path, renewed)
        except EdgenodeError as exc:
            log.warning("cannot renew the certificate", reason=str(exc), expires=str(own.expires()))
            continue
        security.renew(renewed)
        log.info("renewed the certificate", expires=str(renewed.expires()), key=renewed.key_id[:16])


async def _until_known(key_id: str, standing: Standing, ask_every_s: float) -> None:
    while True:
        standing.ask_for_key(key_id)
        try:
            async with asyncio.timeout(ask_every_s):
                while not standing.is_known_by(key_id):  # noqa: ASYNC110 - the plan changes in another thread
                    await asyncio.sleep(_POLL_S)
                return
        except TimeoutError:
            continue
