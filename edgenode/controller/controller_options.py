"""The command line of ``edgenode controller``, parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgenode.addresses import join_address, split_address
from edgenode.config.schema import Config
from edgenode.errors import ConfigError
from edgenode.security.public_address import PublicAddress, checked_host, split_public


@dataclass(frozen=True)
class ControllerOptions:
    """The options of a controller.

    Attributes:
        recover: replace a controller whose disk is lost.
        http: host:port of the page, or "none".
        page_url: the URL of the page for browsers. Empty if it is at ``http``.
        enrol: host:port where devices enrol. Empty is the next port at the host of ``listen``.
        track: the tracker of measurements, as `checked_target` describes. Empty for none.
        reflection: gRPC clients can list the services.
        insecure: work without TLS and certificates.
        invites: the number of invites to open at the start.
        show_invite: shows them to a person. They are secret, and are not logged.
        relay: nodes that nobody can dial may wait here for connections.
        relay_gb: the most gigabytes that the relay carries for one node. None for no limit.
        public: where devices in other networks find this controller. None if they do not.
        invite_command: opens another invite, when a person types it on this machine.
    """

    config: Config
    listen: str
    state_dir: Path
    recover: bool = False
    http: str = "none"
    page_url: str = ""
    enrol: str = ""
    track: str = ""
    reflection: bool = False
    insecure: bool = False
    invites: int = 0
    relay: bool = False
    relay_gb: float | None = None
    public: PublicAddress | None = None
    show_invite: Callable[[str], None] = print
    invite_command: str = "edgenode invite"

    @property
    def enrol_address(self) -> str:
        """host:port where devices enrol. Port 0 is any free port."""
        if self.enrol:
            return self.enrol
        host, port = split_address(self.listen)
        return join_address(host, port + 1 if port else 0)


def public_address(public: str, listen: str, enrol: str) -> PublicAddress | None:
    """Where devices in other networks find a controller. None without one.

    Args:
        public: HOST or HOST:PORT, as a user writes it, or "".
        listen: host:port of the controller.
        enrol: host:port where devices enrol, or "" for the next port.

    Raises:
        ConfigError: other machines cannot dial it, or its ports are not known.
    """
    if not public:
        return None
    host, forwarded = split_public(public)
    if forwarded is not None:
        port, enrol_port = forwarded, forwarded + 1
    else:
        port = split_address(listen)[1]
        enrol_port = split_address(enrol)[1] if enrol else port + bool(port)
    if not (0 < port <= 65_535 and 0 < enrol_port <= 65_535):
        raise ConfigError(f"--public {public}: name the port at which other networks reach this controller, HOST:PORT")
    return PublicAddress(checked_host(host), port, enrol_port)


def checked_url(url: str) -> str:
    """The URL of the page without a slash at its end, or "".

    Raises:
        ConfigError: it is not the URL of a host.
    """
    try:
        parts = urlsplit(url)
        if not url or (parts.scheme in ("http", "https") and parts.hostname and not parts.path.strip("/")):
            return url.rstrip("/")
    except ValueError:
        pass
    raise ConfigError(f"--page-url {url!a} is not the URL of a host, as in http://localhost:8080")
