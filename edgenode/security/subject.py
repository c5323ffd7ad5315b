"""The owner of a certificate: a role and a name, in one DNS name.

1. A channel verifies one DNS name of the server's certificate (``grpc.ssl_target_name_override``). gRPC does not verify
   a certificate that has only a URI. So the DNS name carries both, as ``NAME.ROLE.edgenode``.
2. The name follows the rule of `names`, whoever asks for it. So nothing is written, and no certificate is issued or
   believed, for a name that a folder, a log line or a DNS name could not have.
3. DNS names are compared without regard to case, and names of nodes with it. So every character outside a-z, 0-9 and
   "-" is escaped: two names never share a DNS name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from edgenode import names
from edgenode.errors import SecurityError

Role = Literal["controller", "node", "relay", "operator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)

_DOMAIN = "edgenode"
_ROLE_PREFIX = "_role."
_ESCAPED = re.compile(r"_([0-9a-f]{2})")
_DNS_NAME = re.compile(rf"((?:[a-z0-9-]|_[0-9a-f]{{2}})+)\.({'|'.join(ROLES)})\.{_DOMAIN}")


@dataclass(frozen=True, slots=True)
class Subject:
    """The owner of a key: its role in the cluster, and its name within the role.

    Raises:
        SecurityError: it cannot have this name.
    """

    role: Role
    name: str

    def __post_init__(self) -> None:
        if not names.is_name(self.name):
            raise SecurityError(f"{self.name[:100]!a} cannot be a name: it must be {names.RULE}")
        if (self.name == names.CONTROLLER) != (self.role == "controller"):
            raise SecurityError(f"the name of a controller is {names.CONTROLLER}, and only a controller has it")

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def dns_name(self) -> str:
        """The name in the certificate."""
        escaped = re.sub(r"[^a-z0-9-]", lambda match: f"_{ord(match[0]):02x}", self.name)
        return f"{escaped}.{self.role}.{_DOMAIN}"

    @classmethod
    def of_names(cls, dns_names: Sequence[str]) -> Subject:
        """The owner of a certificate with these DNS names: its own name, and the name of its role.

        Raises:
            SecurityError: they do not name exactly one owner.
        """
        own = [name for name in dns_names if not name.startswith(_ROLE_PREFIX)]
        if len(own) != 1:
            raise SecurityError(f"the certificate names {len(own)} owners, not one")
        subject = cls.parse(own[0])
        if any(name != role_dns_name(subject.role) for name in dns_names if name != own[0]):
            raise SecurityError(f"the certificate of {subject} names another role, too")
        return subject

    @classmethod
    def parse(cls, dns_name: str) -> Subject:
        """The inverse of ``dns_name``.

        Raises:
            SecurityError: it is not the name of a member of a cluster.
        """
        match = _DNS_NAME.fullmatch(dns_name)
        if match is None:
            raise SecurityError(f"{dns_name!r} does not name a role and a name: expected NAME.ROLE.{_DOMAIN}")
        name = _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), match[1])
        subject = cls(cast(Role, match[2]), name)
        if subject.dns_name != dns_name:  # an escape that was not needed: two spellings of one name
            raise SecurityError(f"{dns_name!r} is not the canonical spelling of {subject}")
        return subject


Caller = tuple[Subject, str]
"""The subject of a caller, and the id of its key."""


def role_dns_name(role: Role) -> str:
    """The DNS name that the certificates of all members with a role have."""
    return f"{_ROLE_PREFIX}{role}.{_DOMAIN}"


CONTROLLER = Subject("controller", names.CONTROLLER)
