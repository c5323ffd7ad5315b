"""The register of a cluster: its valid keys, its revoked keys and its open invites, and their form on disk.

1. Each key has the time at which its last certificate expires. A revoked key is kept until no process takes that
   certificate any more: until CLOCKS later, because clocks may be wrong by that much. So the number of revoked keys
   does not grow with the age of a cluster.
2. A register of an older version has no such times. Its keys get that of a certificate that is issued now.
3. A subject that cannot be one (`Subject`) loses its keys. An older version could have such names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import msgspec

from edgenode.errors import SecurityError
from edgenode.security.certificates import LIFE
from edgenode.security.subject import Role, Subject

CLOCKS = timedelta(days=90)
Times = dict[str, float]
"""The ids of keys, and the time of each at which its certificate expires, in seconds since 1970."""


class Invited(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An open invite, without its secret.

    Attributes:
        name: the name that it is for. Empty if the device may choose its name.
        expires: the time of its end, in seconds since 1970 on the controller's clock.
    """

    role: Role
    name: str
    expires: float


@dataclass(frozen=True, slots=True)
class Register:
    """The keys and invites of a cluster.

    Attributes:
        keys: the valid keys of each subject, by its DNS name: one, or two during a renewal, the newer last.
        revoked: keys that were valid once.
        invites: the open invites, by the hash of their secrets.
    """

    keys: dict[str, Times] = field(default_factory=dict)
    revoked: Times = field(default_factory=dict)
    invites: dict[str, Invited] = field(default_factory=dict)

    def keys_of(self, subject: Subject) -> tuple[str, ...]:
        """The ids of the valid keys of a subject, the newest last."""
        return tuple(self.keys.get(subject.dns_name, ()))

    def with_keys(self, subject: Subject, *key_ids: str, expires: float = 0.0) -> Register:
        """Return a register in which a subject has exactly these keys, and its other keys are revoked.

        Args:
            expires: the time at which a new certificate of the last key expires.

        Raises:
            SecurityError: the last key was revoked, or is that of another subject.
        """
        own, newest = self.keys.get(subject.dns_name, {}), key_ids[-1]
        if newest in self.revoked:
            raise SecurityError("this key was revoked: the device must make a new one")
        holder = next((name for name, keys in self.keys.items() if newest in keys), subject.dns_name)
        if holder != subject.dns_name:
            raise SecurityError(f"this key belongs to {Subject.parse(holder)}")
        valid = {key_id: own.get(key_id, expires) for key_id in key_ids}
        valid[newest] = max(valid[newest], expires)
        others = {key_id: until for key_id, until in own.items() if key_id not in valid}
        return replace(self, keys={**self.keys, subject.dns_name: valid}, revoked={**self.revoked, **others})

    def without(self, subject: Subject) -> Register:
        """Return a register in which the keys of a subject are revoked."""
        keys = dict(self.keys)
        own = keys.pop(subject.dns_name, {})
        return replace(self, keys=keys, revoked={**self.revoked, **own})

    def revoked_at(self, now: float) -> Times:
        """Return the revoked keys that some process could still take."""
        since = now - CLOCKS.total_seconds()
        return {key_id: expires for key_id, expires in self.revoked.items() if expires > since}


class _OnDisk(msgspec.Struct, forbid_unknown_fields=True):
    keys: dict[str, dict[str, float] | tuple[str, ...]]
    revoked: dict[str, float] | tuple[str, ...]
    invites: dict[str, Invited]


def encoded(register: Register, now: float) -> bytes:
    """Encode a register for the disk, without the revoked keys that have expired."""
    return msgspec.json.format(msgspec.json.encode(replace(register, revoked=register.revoked_at(now))), indent=1)


def decoded(content: bytes, now: float) -> Register:
    """Decode a register from the disk.

    Raises:
        ValueError: it is damaged.
    """
    found, expires = msgspec.json.decode(content, type=_OnDisk), now + LIFE.total_seconds()
    keys = {name: _timed(own, expires) for name, own in found.keys.items()}
    revoked = _timed(found.revoked, expires)
    for name in [name for name in keys if not _names_a_subject(name)]:
        revoked |= keys.pop(name)
    return Register(keys, revoked, found.invites)


def _timed(keys: dict[str, float] | tuple[str, ...], expires: float) -> Times:
    return keys if isinstance(keys, dict) else dict.fromkeys(keys, expires)


def _names_a_subject(dns_name: str) -> bool:
    try:
        Subject.parse(dns_name)
    except SecurityError:
        return False
    return True
