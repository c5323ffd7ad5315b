"""The controller's end of the credential service: invites, renewals and revocations.

A renewal with a new key leaves a revoked key behind, which every node must know until its certificate expires. A true
device renews every two months. So a subject has _MOST_RENEWALS in _RENEWALS_S, and none for _UNUSED_S after one whose
key it has not used yet.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta

import grpc.aio
import structlog
from grpc.aio import ServicerContext

from edgenode.errors import ConfigError, SecurityError
from edgenode.net.proto import credential_pb2 as pb
from edgenode.net.proto import credential_pb2_grpc
from edgenode.net.rpc import rejecting
from edgenode.net.tls import caller, caller_name
from edgenode.security import invite
from edgenode.security.authority import Authority
from edgenode.security.certificates import fingerprint, requested_key_id
from edgenode.security.public_address import PublicAddress
from edgenode.security.subject import ROLES, Role, Subject

log = structlog.get_logger()

SERVICE = "edgenode.v1.CredentialService"
Noting = Callable[[str, str], AbstractAsyncContextManager[object]]
"""Records who requests what, around the body that carries it out."""
MAX_TTL_S = 7 * 24 * 3600
_MOST_RENEWALS, _RENEWALS_S = 4, 24 * 3600.0
_UNUSED_S = 3600.0  # the answer may be lost, so the key of a renewal need not be used ever
_INVITED = frozenset(ROLES) - {"controller"}


class CredentialServer(credential_pb2_grpc.CredentialServiceServicer):
    """Answers members and operators.

    Args:
        addresses: IP address and port of the enrolment service, the most likely first.
        audit: records who requests what.
        public: where devices in other networks find the controller. None if they do not.
    """

    def __init__(
        self,
        authority: Authority,
        addresses: tuple[tuple[str, int], ...],
        audit: Noting,
        public: PublicAddress | None = None,
    ) -> None:
        self._authority, self._addresses, self._audit, self._public = authority, addresses, audit, public
        self._renewals = defaultdict[Subject, list[float]](list)  # the times of the last ones
        self._one_at_a_time = asyncio.Lock()  # of the authority's register

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server."""
        credential_pb2_grpc.add_CredentialServiceServicer_to_server(self, server)

    async def Renew(self, request: pb.RenewRequest, context: ServicerContext) -> pb.RenewResponse:
        """Issue another certificate to the caller."""
        async with rejecting(context), self._one_at_a_time:
            found = caller(context)
            if found is None:
                raise SecurityError("a certificate is renewed over TLS only")
            subject = found[0]
            self._ration(subject, requested_key_id(request.request))
            certificate = await asyncio.to_thread(self._authority.issue, subject, request.request)
            log.info("renewed a certificate", subject=str(subject))
            return pb.RenewResponse(certificate=certificate)

    async def Vouch(self, request: pb.VouchRequest, context: ServicerContext) -> pb.VouchResponse:
        """Tell a member whether a key is valid for a device that has called it."""
        async with rejecting(context):
            subject = _subject("node", request.name)
            valid = await asyncio.to_thread(self._authority.vouches_for, subject, request.key)
            return pb.VouchResponse(valid=valid)

    def _ration(self, subject: Subject, key_id: str) -> None:
        """Count a renewal.

        Raises:
            SecurityError: it is one too many.
        """
        now = time.monotonic()
        renewals = self._renewals[subject] = [at for at in self._renewals[subject] if at > now - _RENEWALS_S]
        if len(renewals) >= _MOST_RENEWALS:
            hours = round(_RENEWALS_S / 3600)
            raise SecurityError(f"{subject} has renewed its certificate {_MOST_RENEWALS} times in {hours} hours")
        pending = self._authority.pending(subject)
        if renewals and renewals[-1] > now - _UNUSED_S and pending not in ("", key_id):
            raise SecurityError(f"{subject} has renewed its certificate, and has not used the new key yet")
        renewals.append(now)

    async def Invite(self, request: pb.InviteRequest, context: ServicerContext) -> pb.InviteResponse:
        """Open an invite."""
        whom = f"{request.role} {request.name or 'of any name'}"
        async with (
            rejecting(context),
            self._one_at_a_time,
            self._audit(caller_name(context), f"invite {whom} for {request.ttl_s} s"),
        ):
            line = await asyncio.to_thread(self.open_invite, _role(request.role), request.name, request.ttl_s)
            return pb.InviteResponse(line=str(line))

    def open_invite(self, role: Role, name: str, ttl_s: int) -> invite.Invite:
        """Open an invite.

        Raises:
            ConfigError: the name or the time is not allowed.
        """
        if not 1 <= ttl_s <= MAX_TTL_S:
            raise ConfigError(f"an invite is open for 1 s to {MAX_TTL_S} s, not {ttl_s} s")
        if name:
            _subject(role, name)
        secret = self._authority.invite(role, name, timedelta(seconds=ttl_s))
        log.info("opened an invite", role=role, name=name or "any", ttl_s=ttl_s)
        return invite.Invite(secret, fingerprint(self._authority.certificate), self._addresses, self._public)

    async def ListKeys(self, request: pb.ListKeysRequest, context: ServicerContext) -> pb.ListKeysResponse:
        """Return all valid keys."""
        keys = self._authority.subjects().items()
        return pb.ListKeysResponse(keys=[pb.Key(role=s.role, name=s.name, id=key_id) for s, key_id in keys])

    async def Revoke(self, request: pb.RevokeRequest, context: ServicerContext) -> pb.RevokeResponse:
        """Revoke a key. The controller ends its live streams."""
        async with (
            rejecting(context),
            self._one_at_a_time,
            self._audit(caller_name(context), f"revoke {request.role} {request.name}"),
        ):
            subject = _subject(_role(request.role), request.name)
            key_id = await asyncio.to_thread(self._authority.revoke, subject)
            log.warning("revoked a key", subject=str(subject))
            return pb.RevokeResponse(id=key_id)


def _subject(role: Role, name: str) -> Subject:
    try:
        return Subject(role, name)
    except SecurityError as exc:
        raise ConfigError(str(exc)) from exc


def _role(text: str) -> Role:
    if text not in _INVITED:
        raise ConfigError(f"{text!a} is not a role: choose one of {', '.join(sorted(_INVITED))}")
    return text
