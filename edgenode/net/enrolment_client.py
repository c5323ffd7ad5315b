"""A device's side of the enrolment: an invite in, credentials out. The private key never leaves this process."""

from __future__ import annotations

import http.client
import json
import socket
import ssl

from edgenode.errors import SecurityError, TransportError
from edgenode.net.reasons import why
from edgenode.net.rpc import split_address
from edgenode.security import certificates
from edgenode.security.certificates import MAX_PEM_BYTES, Credentials
from edgenode.security.invite import Invite
from edgenode.security.subject import CONTROLLER

_TIMEOUT_S = 10.0


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address, where the server must be the controller. Its certificate does not name the address."""

    def __init__(self, target: str, context: ssl.SSLContext) -> None:
        host, port = split_address(target)
        super().__init__(host, port, timeout=_TIMEOUT_S, context=context)
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=CONTROLLER.dns_name)


def enrol(invite: Invite, name: str) -> Credentials:
    """Enrol this device with the controller that made an invite. Blocks for as long as the calls take.

    Raises:
        SecurityError: the controller is not the one of the invite, or refuses, with its reason.
        TransportError: it does not answer at any of its addresses.
    """
    failures = []
    for target in invite.addresses:
        try:
            return _enrol_at(target, invite, name)
        except (OSError, http.client.HTTPException, TransportError) as exc:
            failures.append(f"{target}: {why(exc)}")
    raise TransportError(f"the controller of the invite does not answer ({'; '.join(failures)})")


def _enrol_at(target: str, invite: Invite, name: str) -> Credentials:
    authority = _fetch_authority(target, invite)
    key = certificates.make_key()
    wanted = {"secret": invite.secret.hex(), "name": name, "request": certificates.signing_request(key).decode()}
    try:
        context = ssl.create_default_context(cadata=authority.decode("ascii"))
        status, answer = _call(_Connection(target, context), "POST", "/enrol", json.dumps(wanted).encode())
    except ssl.SSLError as exc:
        raise SecurityError(f"{target} is not the controller of the invite: {exc.reason or exc}") from exc
    if status != http.client.OK:
        raise SecurityError(f"the controller at {target} refuses: {answer.decode(errors='replace')[:500]}")
    credentials = Credentials(key, answer, authority)
    certificates.check_issued(credentials)
    return credentials


def _fetch_authority(target: str, invite: Invite) -> bytes:
    """The CA's certificate, compared with the invite. Whoever answers learns nothing by this call."""
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        status, pem = _call(_Connection(target, unverified), "GET", "/authority", None)
        if status != http.client.OK:
            raise TransportError(f"status {status}")
    except ssl.SSLError as exc:
        raise TransportError(f"no TLS: {exc.reason or exc}") from exc
    if certificates.digest(pem) != invite.authority:
        raise SecurityError(
            f"{target} belongs to another cluster than the invite: nothing was sent to it; "
            "check the address, and whether someone is in between"
        )
    return pem


def _call(connection: _Connection, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read(MAX_PEM_BYTES + 1)
        if len(answer) > MAX_PEM_BYTES:
            raise TransportError(f"it answers with more than {MAX_PEM_BYTES} bytes")
        return response.status, answer
    finally:
        connection.close()
