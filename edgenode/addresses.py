"""Network addresses as text, host:port, and ports that are free."""

from __future__ import annotations

import random
import socket
from itertools import islice

from edgenode.errors import ConfigError

_PORTS = range(20_000, 30_000)  # below those that a system gives to outgoing connections


def split_address(address: str) -> tuple[str, int]:
    """Host and port of host:port, with IPv6 hosts in brackets.

    Raises:
        ConfigError: it is not an address.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise ConfigError(f"{address!r} is not an address: expected host:port")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    if ":" in host or "[" in host or "]" in host:
        raise ConfigError(
            f"{address!r} is not an address: expected host:port, with an IPv6 host in brackets, [::1]:7600"
        )
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of ``split_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ipv6(address: str) -> bool:
    """Return whether the host of host:port is an IPv6 address."""
    return ":" in split_address(address)[0]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing uses, and that no connection takes before a process listens there."""
    tried = random.SystemRandom().sample(_PORTS, len(_PORTS))
    return list(islice(filter(_is_free, tried), count))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
