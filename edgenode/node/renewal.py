"""Renews a node's certificate at two thirds of its life, with a new key. Training does not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from edgenode.errors import EdgenodeError
from edgenode.net.credential_client import CredentialClient
from edgenode.net.tls import MutualTls
from edgenode.security.secret_files import is_due, write_credentials

log = structlog.get_logger()

_CHECK_EVERY_S = 60.0


async def keep_renewed(
    path: Path, security: MutualTls, controller: Callable[[], str], check_s: float = _CHECK_EVERY_S
) -> None:
    """Renew the credentials in a file whenever they are due, until cancelled.

    A failure is logged and tried again: the old certificate is valid for a third of its life.

    Args:
        security: gets the new credentials. Connections that live keep theirs.
        controller: returns host:port of the controller, or "" while none is known.
    """
    while True:
        await asyncio.sleep(check_s)
        if not (target := controller()) or not await asyncio.to_thread(is_due, path):
            continue
        try:
            renewed = await CredentialClient(target, security).renew(security.credentials)
            await asyncio.to_thread(write_credentials, path, renewed)
        except EdgenodeError as exc:
            log.warning("cannot renew the certificate", reason=str(exc), expires=str(security.credentials.expires()))
            continue
        security.renew(renewed)
        log.info("renewed the certificate", expires=str(renewed.expires()))
