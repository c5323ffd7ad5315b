"""A member's or an operator's end of the credential service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio

from edgenode.net.proto import credential_pb2 as pb
from edgenode.net.proto import credential_pb2_grpc
from edgenode.net.retry import PATIENT_CONNECT_S
from edgenode.net.rpc import channel, refused
from edgenode.net.tls import Security
from edgenode.security import certificates
from edgenode.security.certificates import Credentials
from edgenode.security.subject import CONTROLLER, Role, Subject

R = TypeVar("R")
_TIMEOUT_S = 10.0


class CredentialClient:
    """Calls one controller at host:port.

    Every call raises TransportError if the controller does not answer, SecurityError if it refuses the caller, and
    ConfigError or RemoteProtocolError with its reason if it rejects the request.
    """

    def __init__(self, target: str, security: Security) -> None:
        self._target, self._security = target, security

    async def renew(self, own: Credentials, key: bytes) -> Credentials:
        """Another certificate for the same subject: for a new key (PEM), or for its own."""
        request = pb.RenewRequest(request=certificates.signing_request(key))
        response = await self._call(lambda stub: stub.Renew(request, timeout=_TIMEOUT_S))
        renewed = Credentials(key, response.certificate, own.authority)
        certificates.check_issued(renewed)
        return renewed

    async def vouches_for(self, node: str, key_id: str) -> bool:
        """Return whether a key is valid for a node."""
        request = pb.VouchRequest(name=node, key=key_id)
        return bool((await self._call(lambda stub: stub.Vouch(request, timeout=_TIMEOUT_S))).valid)

    async def invite(self, role: Role, name: str, ttl_s: int) -> str:
        """The line of a new invite."""
        request = pb.InviteRequest(role=role, name=name, ttl_s=ttl_s)
        return str((await self._call(lambda stub: stub.Invite(request, timeout=_TIMEOUT_S))).line)

    async def keys(self) -> dict[Subject, str]:
        """The id of the valid key of each subject."""
        response = await self._call(lambda stub: stub.ListKeys(pb.ListKeysRequest(), timeout=_TIMEOUT_S))
        return {Subject(key.role, key.name): key.id for key in response.keys}

    async def revoke(self, subject: Subject) -> str:
        """Revoke the key of a subject. Returns its id."""
        request = pb.RevokeRequest(role=subject.role, name=subject.name)
        return str((await self._call(lambda stub: stub.Revoke(request, timeout=_TIMEOUT_S))).id)

    async def _call(self, call: Callable[[credential_pb2_grpc.CredentialServiceStub], Awaitable[R]]) -> R:
        dialled = channel(self._target, self._security, CONTROLLER.dns_name, PATIENT_CONNECT_S)
        async with dialled as to_controller:
            try:
                return await call(credential_pb2_grpc.CredentialServiceStub(to_controller))
            except grpc.aio.AioRpcError as exc:
                raise refused(exc, self._target) from exc
