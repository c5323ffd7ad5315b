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
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"{address!r} is not an address: expected host:port")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """The inverse of ``split_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
