"""The controller's enrolment service: two calls over HTTPS, for devices that have no certificate yet.

1. ``GET /authority`` returns the CA's certificate. The device cannot verify the connection yet, and sends nothing. It
   compares the certificate with its invite.
2. ``POST /enrol`` takes the secret of an invite, a name and a CSR. The device has verified the connection by then, so a
   man in the middle learns nothing. The answer is the certificate.
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
from edgenode.security.authority import Authority

log = structlog.get_logger()

MAX_REQUEST_BYTES = 32 * 1024
_PEM = "application/x-pem-file"


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device sends. `secret` is hex, `request` a CSR as PEM."""

    secret: str
    name: str
    request: str


def enrolment_app(authority: Authority) -> Starlette:
    """The two calls."""
    one_at_a_time = asyncio.Lock()  # of the register

    async def get_authority(_: Request) -> Response:
        return Response(authority.certificate, media_type=_PEM)

    async def enrol(request: Request) -> Response:
        device = request.client.host if request.client else ""
        try:
            wanted = msgspec.json.decode(await _body(request), type=EnrolmentRequest)
            secret = bytes.fromhex(wanted.secret)
            async with one_at_a_time:
                certificate = await asyncio.to_thread(authority.enrol, secret, wanted.request.encode(), wanted.name)
        except (SecurityError, ValueError) as exc:  # msgspec's errors are ValueErrors
            log.warning("refused to enrol a device", device=device, reason=str(exc))
            return Response(str(exc), status_code=403, media_type="text/plain")
        log.info("enrolled a device", name=wanted.name, device=device)
        return Response(certificate, media_type=_PEM)

    return Starlette(routes=[Route("/authority", get_authority), Route("/enrol", enrol, methods=["POST"])])


async def _body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        SecurityError: it is too long.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            raise SecurityError(f"the request has more than {MAX_REQUEST_BYTES} bytes")
    return bytes(body)
