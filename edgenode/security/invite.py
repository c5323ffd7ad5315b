"""An invite: a short line that lets one device into a cluster, and identifies this cluster to the device.

It is meant to be typed: 57 characters with the usual port, 60 with another, without letters that look alike. After the
prefix, five bits a character:

1. the fingerprint of the cluster's authority, 128 bits of a SHA-256,
2. the secret, 80 random bits,
3. addresses of the enrolment service, of any number: one byte with the length of the host (4 is IPv4, 16 is IPv6, other
   lengths are for later versions) and the flag that a port of two bytes follows it,
4. a CRC of 16 bits over all of this. It finds every wrong character, and every exchange of two neighbours.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

from edgenode.errors import SecurityError

PREFIX = "inv-"
FINGERPRINT_BYTES = 16
ENROL_PORT = 7701
OPEN_S = 3600
"""How long an invite is open, in seconds, unless somebody chooses another time."""

_SECRET_BYTES, _CHECK_BYTES = 10, 2
_MAX_CHARS = 200
_HAS_PORT = 0x80
_PLAIN, _TYPED = "abcdefghijklmnopqrstuvwxyz234567", "0123456789abcdefghjkmnpqrstvwxyz"
_TO_TYPED = str.maketrans(_PLAIN.upper(), _TYPED)
_FROM_TYPED = str.maketrans(_TYPED + "oil", _PLAIN.upper() + "ABB")


@dataclass(frozen=True, slots=True)
class Invite:
    """The content of an invite.

    Attributes:
        secret: 80 random bits. The first device that shows them is enrolled.
        authority: `fingerprint` of the CA's certificate. The device compares it before it sends the secret.
        addresses: IP address and port of the enrolment service, the most likely first.
    """

    secret: bytes
    authority: bytes
    addresses: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        content = self.authority + self.secret + b"".join(_packed(host, port) for host, port in self.addresses)
        return PREFIX + _typed(content + _check(content))

    @classmethod
    def parse(cls, text: str) -> Invite:
        """Read an invite, or a command that contains one. Case, spaces and line breaks do not matter.

        Raises:
            SecurityError: there is no invite, or it has a typing error.
        """
        _, found, line = "".join(text.split()).lower().rpartition(PREFIX)
        if not found or len(line) > _MAX_CHARS:
            raise SecurityError(f"this is not an invite: one begins with {PREFIX}")
        raw = _untyped(line)
        content = raw[:-_CHECK_BYTES]
        if len(raw) <= FINGERPRINT_BYTES + _SECRET_BYTES + _CHECK_BYTES or raw[-_CHECK_BYTES:] != _check(content):
            raise SecurityError("the invite has a typing error: compare it with the line that the controller printed")
        authority, rest = content[:FINGERPRINT_BYTES], content[FINGERPRINT_BYTES:]
        return cls(rest[:_SECRET_BYTES], authority, tuple(_addresses(rest[_SECRET_BYTES:])))


def make_secret() -> bytes:
    """A new secret for an invite."""
    return secrets.token_bytes(_SECRET_BYTES)


def hashed(secret: bytes) -> str:
    """Return the hash of a secret, in hex. 80 random bits or more need neither salt nor a slow hash."""
    return sha256(secret).hexdigest()


def _check(content: bytes) -> bytes:
    return binascii.crc_hqx(content, 0).to_bytes(_CHECK_BYTES)


def _typed(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=").translate(_TO_TYPED)


def _untyped(line: str) -> bytes:
    """The bytes of a line. Empty if it has characters, a length or last bits that no bytes lead to."""
    plain = line.translate(_FROM_TYPED)
    try:
        raw = base64.b32decode(plain + "=" * (-len(plain) % 8))
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b32encode(raw).decode().rstrip("=") == plain else b""


def _packed(host: str, port: int) -> bytes:
    packed = ip_address(host).packed
    if port == ENROL_PORT:
        return bytes([len(packed)]) + packed
    return bytes([len(packed) | _HAS_PORT]) + packed + port.to_bytes(2)


def _addresses(raw: bytes) -> Iterator[tuple[str, int]]:
    while raw:
        length, has_port = raw[0] & ~_HAS_PORT, raw[0] & _HAS_PORT
        host, rest = raw[1 : 1 + length], raw[1 + length :]
        if len(host) not in (4, 16) or len(host) != length or (has_port and len(rest) < 2):
            raise SecurityError("the invite is of a newer version of edgenode")
        yield str(ip_address(host)), int.from_bytes(rest[:2]) if has_port else ENROL_PORT
        raw = rest[2:] if has_port else rest
