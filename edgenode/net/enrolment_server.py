"""The controller's enrolment service: two calls over HTTPS, for devices that have no certificate yet.

1. ``GET /authority`` returns the CA's certificate. The device cannot verify the connection yet, and sends nothing. It
   compares the certificate with its invite.
2. ``POST /enrol`` takes the secret of an invite, a name and a CSR. The device has verified the connection by then, so a
   man in the middle learns nothing. The answer is the certificate.
3. Secrets cannot be guessed: a refused device holds its place in a queue for a while, so that at most _PLACES
   guesses are made in REFUSED_S seconds.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgenode.errors import SecurityError
from edgenode.net.limited_log import limited
from edgenode.security.authority import Authority
from edgenode.security.certificates import subject_of

log = structlog.get_logger()

MAX_REQUEST_BYTES = 32 * 1024
_PEM = "application/x-pem-file"
_PLACES, REFUSED_S = 32, 1.0


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request of a device. `secret` is hex, `request` a CSR as PEM. An empty `name` takes the invite's."""

    secret: str
    name: str
    request: str


def enrolment_app(authority: Authority, refused_s: float = REFUSED_S) -> Starlette:
    """The two calls.

    Args:
        refused_s: the time that a refused device waits for the answer.
    """
    one_at_a_time, places = asyncio.Lock(), asyncio.Semaphore(_PLACES)  # of the register, and in the queue

    async def get_authority(_: Request) -> Response:
        return Response(authority.certificate, media_type=_PEM)

    async def enrol(request: Request) -> Response:
        device = request.client.host if request.client else ""
        body = await _body(request)
        async with places:
            try:
                wanted = _parsed(body)
                async with one_at_a_time:
                    certificate = await asyncio.to_thread(
                        authority.enrol, bytes.fromhex(wanted.secret), wanted.request.encode(), wanted.name
                    )
            except (SecurityError, ValueError) as exc:  # msgspec's errors are ValueErrors
                facts = {"device": device, "reason": str(exc)}
                limited(log.warning, "refused to enrol a device", device, str(exc), **facts)
                await asyncio.sleep(refused_s)
                return Response(str(exc), status_code=403, media_type="text/plain")
        log.info("enrolled a device", device=device, subject=str(subject_of(certificate)))
        return Response(certificate, media_type=_PEM)

    return Starlette(routes=[Route("/authority", get_authority), Route("/enrol", enrol, methods=["POST"])])


async def _body(request: Request) -> bytes:
    """The body of a request. Of one that is too long, the beginning, which is too long as well."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            break
    return bytes(body)


def _parsed(body: bytes) -> EnrolmentRequest:
    """A request, checked.

    Raises:
        SecurityError: it is too long.
        ValueError: it is malformed.
    """
    if len(body) > MAX_REQUEST_BYTES:
        raise SecurityError(f"the request has more than {MAX_REQUEST_BYTES} bytes")
    return msgspec.json.decode(body, type=EnrolmentRequest)
