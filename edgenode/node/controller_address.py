"""The address that an invite names for devices in other networks, in the state folder of a node.

The node looks there for its controller besides mDNS. What answers has to show the certificate of a controller of this
cluster, so a wrong address costs a call.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import structlog

from edgenode.addresses import join_address, split_address
from edgenode.errors import ConfigError
from edgenode.security.public_address import checked_host
from edgenode.security.secret_files import write_secret

log = structlog.get_logger()

_FILE = "controller.txt"
_MOST_BYTES = 200
_RESOLVE_S = 2.0
_MOST_ADDRESSES = 8


def keep_controller_address(state_dir: Path, address: str) -> None:
    """Keep host:port, or forget what was kept if it is "".

    Raises:
        SecurityError: it cannot be written.
    """
    if address or (state_dir / _FILE).exists():
        write_secret(state_dir / _FILE, f"{address}\n".encode())


def kept_controller_address(state_dir: Path) -> str:
    """host:port, or "" if none was kept, or it is damaged."""
    try:
        with (state_dir / _FILE).open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii").strip()
        if not text:
            return ""
        host, port = split_address(text)
        return join_address(checked_host(host), port)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, ConfigError) as exc:
        log.warning("ignoring the address of the controller that was kept", file=str(state_dir / _FILE), why=str(exc))
        return ""


async def resolved(address: str) -> list[str]:
    """The addresses of a host:port, by the resolver of the system, of both families. Itself if the name has none."""
    host, port = split_address(address)
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:  # a TimeoutError is one
        return [address]
    return list(dict.fromkeys(join_address(str(at[0]), port) for *_, at in found))[:_MOST_ADDRESSES]
