"""Says why a connection or a call failed. The text is never empty, and names the clock if it is wrong.

gRPC has no details for many failures, and shows those of TLS as text of its C core. Sockets have numbers.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
from datetime import UTC, datetime

import grpc
import grpc.aio

from edgenode.addresses import split_address
from edgenode.errors import ClockError, TransportError, in_words
from edgenode.security.certificates import Credentials

_DIAL_S = 2.0
_CODES = {
    grpc.StatusCode.CANCELLED: "the other side ended the call",
    grpc.StatusCode.UNKNOWN: "it failed there, and its log says why",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    grpc.StatusCode.PERMISSION_DENIED: "it refuses this device",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "it has too much to do, or the message is too large",
    grpc.StatusCode.FAILED_PRECONDITION: "it refuses the call",
    grpc.StatusCode.INVALID_ARGUMENT: "it refuses the request",
    grpc.StatusCode.ABORTED: "it ended the call",
    grpc.StatusCode.UNIMPLEMENTED: "another program serves there, or another version of edgenode",
    grpc.StatusCode.INTERNAL: "the answer is malformed, or the connection broke",
    grpc.StatusCode.UNAVAILABLE: "there is no connection",
    grpc.StatusCode.UNAUTHENTICATED: "it does not accept the certificate of this device",
}
SET_THE_CLOCK = "set the clock (timedatectl set-ntp true), or renew the certificate if the clock is right"
_NOT_OURS = "it shows a certificate of another cluster, or of another role or name"
COMPARE_CLOCKS = "compare both clocks"
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's codes
_OF_EXPIRY = re.compile(r"certificate has expired|certificate is not yet valid|CERTIFICATE_EXPIRED")
# gRPC's C core wraps what matters in addresses, names of states and codes.
_OF_ITS_CORE = re.compile(r"(?:failed to connect to all addresses; )?(?:last error: )?(?:UNAVAILABLE|UNKNOWN): ")
_OF_TCP = re.compile(r"Failed to connect to remote host: (.+)$")
# The codes with which edgenode answers, in its own words.
_OURS = (
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# edgenode itself never answers UNAVAILABLE, so its text is always the core's. In either group: no answer, or an end.
_NO_ANSWER = re.compile(r"time(?:d )?out|handshaker shutdown", re.IGNORECASE)
_END = re.compile(
    r"Handshake (?:read|write) failed|Endpoint clos|socket closed|transport closed|reset by peer|Broken pipe|GOAWAY"
    r"|disconnected",
    re.IGNORECASE,
)


def failure(what: str, error: Exception) -> TransportError:
    """The error of a call or a connection that failed: what was tried, if that is not clear, and why it failed."""
    kind = ClockError if is_of_the_clock(error) else TransportError
    return kind(f"{what}: {why(error)}" if what else why(error))


def why(error: Exception) -> str:
    """Return why a call of gRPC, a TCP connection or a TLS handshake failed."""
    if is_of_the_clock(error):
        return expired()
    return _why_call(error) if isinstance(error, grpc.aio.AioRpcError) else _why_connection(error)


def expired(valid_until: datetime | None = None) -> str:
    """Say that a certificate is not valid now, by the clock of this device.

    Args:
        valid_until: the end of this device's certificate. None if the certificate is another device's.
    """
    its = "the certificate of the other is not valid then" if valid_until is None else ""
    own = its or f"the certificate of this device is valid until {valid_until:%Y-%m-%d}"
    return f"this device's clock says {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, and {own}: {SET_THE_CLOCK}"


async def unreachable(what: str, target: str, server: str, own: Credentials | None) -> TransportError:
    """The error of gRPC's silent failure to connect to host:port. Finds the reason by TCP, then by TLS.

    Args:
        server: a DNS name that the server's certificate must have.
        own: the credentials of this process. None if it works without TLS.
    """
    if own is not None and (until := own.expires()) <= datetime.now(UTC):
        return ClockError(f"{what}: {expired(until)}")
    trust = None if own is None else ssl.create_default_context(cadata=own.authority.decode())
    try:
        async with asyncio.timeout(_DIAL_S):
            _, writer = await asyncio.open_connection(
                *split_address(target), ssl=trust, server_hostname=None if trust is None else server
            )
        writer.transport.abort()
    except (OSError, ValueError) as exc:
        return failure(what, exc)
    if own is None:
        return TransportError(f"{what}: something listens there, but not edgenode with --insecure")
    why = "its certificate is fine, but it ended the connection; if this lasts, compare both clocks, and read its log"
    return TransportError(f"{what}: {why}")


def is_of_the_clock(error: Exception) -> bool:
    """Return whether a certificate is not valid at the time that the clock of this device shows."""
    match error:
        case grpc.aio.AioRpcError():
            return _OF_EXPIRY.search(error.details() or "") is not None
        case ssl.SSLCertVerificationError(verify_code=code):
            return code in (_EXPIRED, _NOT_YET)
    return False


def _why_call(error: grpc.aio.AioRpcError) -> str:
    details = " ".join((error.details() or "").split())
    if "CERTIFICATE_VERIFY_FAILED" in details or "not verified" in details:
        return _NOT_OURS
    if "Hostname Verification" in details:  # also of a device whose clock is far ahead
        return f"a clock is wrong, or {_NOT_OURS}; {COMPARE_CLOCKS}, and read its log"
    if error.code() is grpc.StatusCode.UNAVAILABLE and _NO_ANSWER.search(details):
        return _why_connection(TimeoutError())
    if error.code() is grpc.StatusCode.UNAVAILABLE and _END.search(details):
        return _why_connection(ConnectionResetError())
    if found := _OF_TCP.search(details):
        reason = found[1].rpartition(": ")[2]  # without the name of the system call
        number = next((number for number in errno.errorcode if os.strerror(number) == reason), 0)
        return _why_connection(OSError(number, reason))
    if error.code() in _OURS and details:
        return details
    details = _OF_ITS_CORE.sub("", details)
    return f"{error.code().name.lower().replace('_', ' ')}: {details or _CODES.get(error.code(), 'it says no more')}"


def _why_connection(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"{_NOT_OURS} ({error.verify_message})"
        case ssl.SSLError():
            return f"no TLS handshake ({(error.reason or 'it ends early').lower().replace('_', ' ')})"
        case TimeoutError():
            return "no answer: it is off, or a firewall drops what is sent to this port"
        case ConnectionRefusedError():
            return "connection refused: nothing listens there, or a firewall rejects it"
        case socket.gaierror():
            return f"its name cannot be resolved ({error.strerror})"
        case ConnectionError():
            return "it ended the connection"
        case OSError(errno=errno.EHOSTUNREACH as number):
            return f"{os.strerror(number).lower()}: it is off, or a firewall rejects it"
        case OSError(errno=errno.ENETUNREACH as number):
            return f"{os.strerror(number).lower()}: no way leads there from here, as where one side has IPv6 only"
        case OSError(errno=int(number), strerror=str(reason)) if reason.startswith("Connect call failed"):  # asyncio's
            return os.strerror(number).lower()
        case OSError(strerror=str(reason)) if reason:
            return reason.lower()
    return in_words(error)
