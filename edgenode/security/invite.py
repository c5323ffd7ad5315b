"""An invite: a short line that lets one device into a cluster, and identifies this cluster to the device.

It is meant to be typed: 57 characters with the usual port, 60 with another, and some more with a host name, without
letters that look alike. After the
prefix, five bits a character:

1. the fingerprint of the cluster's authority, 128 bits of a SHA-256,
2. the secret, 80 random bits,
3. addresses of the enrolment service, of any number: one byte with the length of the host (4 is IPv4, 16 is IPv6, other
   lengths but 63 are for later versions) and the flag that a port of two bytes follows it,
4. first among them the address for other networks, if there is one: 63 in place of the length, one byte with the length
   and the flag that it is an IP address and no name, the host, and the ports of the enrolment and the controller if
   they are not the usual ones,
5. a CRC of 16 bits over all of this. It finds every wrong character, and every exchange of two neighbours.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

from edgenode.errors import ConfigError, SecurityError
from edgenode.security.public_address import PublicAddress, checked_host

PREFIX = "inv-"
FINGERPRINT_BYTES = 16
ENROL_PORT = 7701
_CONTROLLER_PORT = ENROL_PORT - 1
OPEN_S = 3600
"""How long an invite is open, in seconds, unless somebody chooses another time."""

_SECRET_BYTES, _CHECK_BYTES = 10, 2
_MAX_CHARS = 300
_HAS_PORT = _IS_IP = 0x80
_PUBLIC = 63  # no length of an IP address
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
        public: where devices in other networks find the controller. None if they do not.
    """

    secret: bytes
    authority: bytes
    addresses: tuple[tuple[str, int], ...]
    public: PublicAddress | None = None

    @property
    def enrol_addresses(self) -> tuple[tuple[str, int], ...]:
        """Where the enrolment service may be, in the order to try."""
        public = () if self.public is None else ((self.public.host, self.public.enrol_port),)
        return (*public, *(address for address in self.addresses if address not in public))

    def __str__(self) -> str:
        public = b"" if self.public is None else _packed_public(self.public)
        local = b"".join(_packed(host, port) for host, port in self.addresses)
        content = self.authority + self.secret + public + local
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
        public, local = _public(rest[_SECRET_BYTES:])
        return cls(rest[:_SECRET_BYTES], authority, tuple(_addresses(local)), public)


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


def _packed_public(public: PublicAddress) -> bytes:
    try:
        kind, host = _IS_IP, ip_address(public.host).packed
    except ValueError:
        kind, host = 0, public.host.encode("ascii")
    if (public.enrol_port, public.port) == (ENROL_PORT, _CONTROLLER_PORT):
        return bytes([_PUBLIC, len(host) | kind]) + host
    ports = public.enrol_port.to_bytes(2) + public.port.to_bytes(2)
    return bytes([_PUBLIC | _HAS_PORT, len(host) | kind]) + host + ports


def _public(raw: bytes) -> tuple[PublicAddress | None, bytes]:
    """The address for other networks, and the rest."""
    if len(raw) < 2 or raw[0] & ~_HAS_PORT != _PUBLIC:
        return None, raw
    length, has_ports = raw[1] & ~_IS_IP, raw[0] & _HAS_PORT
    host, rest = raw[2 : 2 + length], raw[2 + length :]
    ports = rest[:4] if has_ports else b""
    try:
        text = str(ip_address(host)) if raw[1] & _IS_IP else host.decode("ascii")
        if len(host) != length or (has_ports and len(ports) < 4) or checked_host(text) != text:
            raise ValueError("it is cut off, or not written as usual")
    except (ValueError, ConfigError) as exc:
        raise SecurityError("the address in the invite is none: ask for another invite") from exc
    port, enrol_port = _CONTROLLER_PORT, ENROL_PORT
    if has_ports:
        enrol_port, port = int.from_bytes(ports[:2]), int.from_bytes(ports[2:])
    return PublicAddress(text, port, enrol_port), rest[len(ports) :]


def _addresses(raw: bytes) -> Iterator[tuple[str, int]]:
    while raw:
        length, has_port = raw[0] & ~_HAS_PORT, raw[0] & _HAS_PORT
        host, rest = raw[1 : 1 + length], raw[1 + length :]
        if len(host) not in (4, 16) or len(host) != length or (has_port and len(rest) < 2):
            raise SecurityError("the invite is of a newer version of edgenode")
        yield str(ip_address(host)), int.from_bytes(rest[:2]) if has_port else ENROL_PORT
        raw = rest[2:] if has_port else rest
