"""TLS with certificates on both sides of every gRPC connection.

1. A client verifies the CA and one DNS name of the server: that of the node it means, or that of the role if it does
   not know the name yet.
2. A server verifies the CA of a client. Then, for every call, its door compares role and method (`security.access`),
   and asks whether the caller's key is still valid. Certificates live long, so a revoked key has a valid one.
3. A live stream survives the expiry of its certificate. `Security.revoke` ends those of a revoked key.
4. gRPC resumes TLS sessions, and does not verify the client's certificate again. So the door of a server also asks
   whether the certificate of a resumed session has expired.
5. The DNS name says nothing about revocation: a stolen certificate is valid for long, and its thief can announce itself
   anywhere. gRPC shows a client no certificate, so a link to a member fetches it first (`Security.knowing`).
6. A client does not reload its certificate: a renewed one counts from the next connection on. A server asks at every
   handshake whether there is a newer one. gRPC must get None if there is none: each new one replaces what other
   handshakes are using, and under many connections at once that crashed the process within seconds (grpcio 1.85.3).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from edgenode.addresses import split_address
from edgenode.errors import EdgenodeError, RemoteProtocolError, SecurityError, TransportError
from edgenode.net.door import MOST_OF_ROLE, Door, LiveCalls
from edgenode.net.front import peer_of
from edgenode.net.limited_log import address_of, limited
from edgenode.net.reasons import failure
from edgenode.security.access import may_call, refusal
from edgenode.security.certificates import Credentials, expiry, public_key_id
from edgenode.security.subject import Caller, Subject

log = structlog.get_logger()

Options = Sequence[tuple[str, Any]]
Admits = Callable[[Subject, str], bool | Awaitable[bool]]
"""Returns whether a key (its id) is valid for a subject. Raises EdgenodeError if that cannot be found out now."""
Admitted = Callable[[grpc.aio.ServicerContext, str], None]  # gets each admitted call, and the id of its key
ANYONE: Caller = Subject("operator", "anyone"), ""
"""Every caller of a process that works without certificates."""
_NAMES, _CERTIFICATE, _RESUMED = "x509_subject_alternative_name", "x509_pem_cert", "ssl_session_reused"


class Security(Protocol):
    """The protection of a process's gRPC connections."""

    @property
    def credentials(self) -> Credentials | None:
        """The newest credentials of the process, or None without TLS."""
        ...

    def channel(self, target: str, server: str, options: Options) -> grpc.aio.Channel:
        """A lazy channel to host:port, where the server's certificate must have the DNS name ``server``."""
        ...

    async def knowing(self, target: str, server: str, keys: frozenset[str], what: str, timeout_s: float) -> Security:
        """Return a `Security` for the process at host:port that shows one of these keys now, and for no other.

        Args:
            what: its name in errors.
            timeout_s: the time that a TCP connection and its TLS handshake have.

        Raises:
            TransportError: it cannot be reached in time, its certificate is not valid for ``server``, or it has another
                key.
        """
        ...

    def server(self, options: Options, admitted: Admitted) -> grpc.aio.Server:
        """A server behind a door, which notes each call that it admits."""
        ...

    def bind(self, server: grpc.aio.Server, address: str) -> None:
        """Bind a server to an address of gRPC."""
        ...

    def revoke(self, key_ids: Iterable[str]) -> None:
        """Refuse these keys from now on, and end their live calls."""
        ...


class Insecure:
    """No protection: everybody who reaches a server may do everything. For a trusted loopback only."""

    credentials = None

    def channel(self, target: str, server: str, options: Options) -> grpc.aio.Channel:
        del server
        return grpc.aio.insecure_channel(target, options=options)

    async def knowing(self, target: str, server: str, keys: frozenset[str], what: str, timeout_s: float) -> Security:
        del target, server, keys, what, timeout_s
        return self

    def server(self, options: Options, admitted: Admitted) -> grpc.aio.Server:
        del admitted
        return grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_OF_ROLE["node"])

    def bind(self, server: grpc.aio.Server, address: str) -> None:
        server.add_insecure_port(address)

    def revoke(self, key_ids: Iterable[str]) -> None:
        del key_ids


INSECURE = Insecure()


class MutualTls:
    """TLS with the credentials of this process.

    Args:
        admits: asked at every call. It may be replaced.
    """

    def __init__(self, credentials: Credentials, admits: Admits) -> None:
        self._credentials, self.admits = credentials, admits
        self._calls = LiveCalls()

    @property
    def credentials(self) -> Credentials:
        """The newest credentials."""
        return self._credentials

    def renew(self, credentials: Credentials) -> None:
        """Use other credentials from the next connection on."""
        self._credentials = credentials

    def channel(self, target: str, server: str, options: Options) -> grpc.aio.Channel:
        own = self._credentials
        ours = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
        return grpc.aio.secure_channel(target, ours, options=[*options, ("grpc.ssl_target_name_override", server)])

    async def knowing(self, target: str, server: str, keys: frozenset[str], what: str, timeout_s: float) -> Security:
        own = self._credentials
        shown = await _shown_certificate(target, server, own.authority, what, timeout_s)
        if public_key_id(shown) not in keys:
            raise TransportError(f"{what} shows a key that the plan does not have")
        return MutualTls(replace(own, authority=shown), self.admits)

    def server(self, options: Options, admitted: Admitted) -> grpc.aio.Server:
        async def check(method: str, context: grpc.aio.ServicerContext) -> Caller:
            found = await self._check(method, context)
            admitted(context, found[1])
            return found

        return grpc.aio.server(options=options, interceptors=[Door(check, self._calls)])

    async def _check(self, method: str, context: grpc.aio.ServicerContext) -> Caller:
        """Return the caller, if it may call."""
        who = address_of(peer_of(context))
        try:
            if (found := caller(context)) is None:
                raise SecurityError("a certificate is required")
            subject, key_id = found
            who = str(subject)
            if not may_call(subject.role, method):
                raise SecurityError(refusal(subject.role, method))
            if not await self._is_valid(subject, key_id):
                raise SecurityError(f"the key of {subject} is not valid: it was revoked or replaced")
            _require_current(context, subject)
        except EdgenodeError as exc:
            facts = {"method": method, "who": who, "peer": peer_of(context), "reason": str(exc)}
            limited(log.warning, "refused a call", who, f"{method}: {exc}", **facts)
            final = isinstance(exc, SecurityError)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED if final else grpc.StatusCode.ABORTED, str(exc))
            raise  # not reached: abort raises
        return subject, key_id

    async def _is_valid(self, subject: Subject, key_id: str) -> bool:
        """Return whether a key counts now. It may be revoked while `admits` waits for an answer."""
        if key_id in self._calls.revoked:
            return False
        admitted = self.admits(subject, key_id)
        is_admitted = admitted if isinstance(admitted, bool) else await admitted
        return is_admitted and key_id not in self._calls.revoked

    def revoke(self, key_ids: Iterable[str]) -> None:
        self._calls.revoke(frozenset(key_ids))

    def bind(self, server: grpc.aio.Server, address: str) -> None:
        shown = self._credentials

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal shown
            if shown is self._credentials:
                return None
            shown = self._credentials
            return _configuration(shown)

        current = grpc.dynamic_ssl_server_credentials(_configuration(shown), newer, require_client_authentication=True)
        server.add_secure_port(address, current)


def _configuration(own: Credentials) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(own.key, own.certificate)], own.authority)


async def _shown_certificate(target: str, server: str, authority: bytes, what: str, timeout_s: float) -> bytes:
    """The certificate (PEM) of the server at host:port, which is valid for a DNS name."""
    trust = ssl.create_default_context(cadata=authority.decode())
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(*split_address(target), ssl=trust, server_hostname=server)
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
    except (OSError, ValueError) as exc:  # a TimeoutError, and an SSLError, are OSErrors
        raise failure(what, exc) from exc
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def caller(context: grpc.aio.ServicerContext) -> Caller | None:
    """Return the caller. None on a connection without TLS.

    Raises:
        SecurityError: its certificate does not name exactly one owner.
    """
    shown = context.auth_context()
    if _CERTIFICATE not in shown:
        return None
    names = [name.decode(errors="replace") for name in shown.get(_NAMES, ())]
    return Subject.of_names(names), public_key_id(shown[_CERTIFICATE][0])


def _require_current(context: grpc.aio.ServicerContext, subject: Subject) -> None:
    """Check that the certificate of a resumed session has not expired. A handshake checks that of a new one."""
    shown = context.auth_context()
    if shown.get(_RESUMED) == [b"true"] and (until := expiry(shown[_CERTIFICATE][0])) <= datetime.now(UTC):
        raise SecurityError(f"the certificate of {subject} has expired at {until:%Y-%m-%d %H:%M} UTC")


def key_of_caller(context: grpc.aio.ServicerContext) -> str:
    """The id of the caller's key. Empty on a connection without TLS.

    Raises:
        SecurityError: as `caller`.
    """
    found = caller(context)
    return found[1] if found is not None else ""


def caller_name(context: grpc.aio.ServicerContext) -> str:
    """Return the caller in words.

    Raises:
        SecurityError: as `caller`.
    """
    return str((caller(context) or ANYONE)[0])


def node_of_caller(context: grpc.aio.ServicerContext) -> str:
    """The name in the certificate of a node that calls. Empty for others, and on a connection without TLS."""
    found = caller(context)
    return found[0].name if found is not None and found[0].role == "node" else ""


def require_name(context: grpc.aio.ServicerContext, name: str) -> None:
    """Check that a node speaks under the name in its certificate.

    Raises:
        RemoteProtocolError: it does not.
    """
    found = caller(context)
    if found is not None and found[0].role == "node" and found[0].name != name:
        raise RemoteProtocolError(f"{found[0]} speaks as {name!r}: a node speaks under its own name only")
