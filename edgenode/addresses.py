"""Network addresses as text: host:port."""

from __future__ import annotations

from edgenode.errors import ConfigError


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
