"""An invite: one line that lets one device into a cluster, and tells the device which cluster is the right one."""

from __future__ import annotations

import base64
import binascii
import secrets
from dataclasses import dataclass
from hashlib import sha256

from edgenode.errors import SecurityError

PREFIX = "edgenode-invite-"
_VERSION = b"\x01"
_SECRET_BYTES, _DIGEST_BYTES = 16, 32
_MAX_CHARS = 2048
_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True)
class Invite:
    """What an invite says.

    Attributes:
        secret: 128 random bits. Whoever shows them first is enrolled.
        authority: SHA-256 over the CA's certificate (DER). The device compares it before it sends the secret.
        cluster: the cluster's name.
        addresses: host:port of the enrolment service, the most likely first.
    """

    secret: bytes
    authority: bytes
    cluster: str
    addresses: tuple[str, ...]

    def __str__(self) -> str:
        text = _SEPARATOR.join((self.cluster, *self.addresses)).encode()
        packed = base64.urlsafe_b64encode(_VERSION + self.secret + self.authority + text)
        return PREFIX + packed.decode().rstrip("=")

    @classmethod
    def parse(cls, line: str) -> Invite:
        """Read a line. Spaces and line breaks around it, or within it from a narrow terminal, do not matter.

        Raises:
            SecurityError: it is not an invite, or a part of it is missing.
        """
        line = "".join(line.split())
        if not line.startswith(PREFIX) or len(line) > _MAX_CHARS:
            raise SecurityError(f"this is not an invite: it must begin with {PREFIX}")
        packed = line.removeprefix(PREFIX)
        try:
            content = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
            rest = content[1 + _SECRET_BYTES + _DIGEST_BYTES :].decode("ascii")
        except (binascii.Error, ValueError) as exc:
            raise SecurityError("the invite is damaged: copy the whole line") from exc
        cluster, *addresses = rest.split(_SEPARATOR)
        if content[:1] != _VERSION or not cluster or not addresses:
            raise SecurityError("the invite is damaged, or of a newer version of edgenode")
        secret = content[1 : 1 + _SECRET_BYTES]
        authority = content[1 + _SECRET_BYTES : 1 + _SECRET_BYTES + _DIGEST_BYTES]
        return cls(secret, authority, cluster, tuple(addresses))


def make_secret() -> bytes:
    """A new secret for an invite."""
    return secrets.token_bytes(_SECRET_BYTES)


def hashed(secret: bytes) -> str:
    """What is stored of a secret, in hex. It has 128 random bits, so it needs neither salt nor a slow hash."""
    return sha256(secret).hexdigest()
