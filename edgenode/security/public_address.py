"""The address of a controller for devices in other networks: a host name or a public IP address, and two ports.

It says where to look, and proves nothing. What answers there has to show the certificate of the cluster's controller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from edgenode.addresses import join_address, split_address
from edgenode.errors import ConfigError

LONGEST_HOST = 63
"""The invite with a longer one would not be short."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # a name that ends like this is a form of an IPv4 address


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """Where devices in other networks reach a controller.

    Attributes:
        host: a host name in lower case, or an IP address.
        port: the port of the controller.
        enrol_port: the port where devices enrol.
    """

    host: str
    port: int
    enrol_port: int

    def __str__(self) -> str:
        return join_address(self.host, self.port)


def split_public(text: str) -> tuple[str, int | None]:
    """Host and port of HOST or HOST:PORT, as a user writes it. An IPv6 address may be in brackets.

    Raises:
        ConfigError: it is not an address.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return (bare, None) if ":" not in bare or _is_ip(bare) else split_address(bare)


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def checked_host(host: str) -> str:
    """A host name in lower case or an IP address, as it is written usually.

    Raises:
        ConfigError: it is neither, is too long, or is an address that no other machine can dial.
    """
    try:
        address = ip_address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        labels = name.split(".")
        if len(name) > LONGEST_HOST or not all(map(_LABEL.fullmatch, labels)) or _NUMBER.fullmatch(labels[-1]):
            raise ConfigError(
                f"{host[:80]!a} is neither an IP address nor a host name of at most {LONGEST_HOST} ASCII letters"
            ) from None
        if labels[-1] == "localhost":
            raise ConfigError(f"{host!a} is this machine only") from None
        return name
    if address.is_loopback or address.is_unspecified or address.is_multicast or "%" in host:
        raise ConfigError(f"other machines cannot dial {host}")
    return str(address)
