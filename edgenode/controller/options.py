"""The command line of ``edgenode controller``, parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgenode.config.schema import Config
from edgenode.net.rpc import join_address, split_address


@dataclass(frozen=True)
class Options:
    """How to run a controller.

    Attributes:
        recover: replace a controller whose disk is lost.
        http: host:port of the page, or "none".
        enrol: host:port where devices enrol. Empty is the next port at the host of ``listen``.
        track: where measurements go, as `checked_target` describes. Empty for nowhere.
        reflection: whether gRPC clients can list the services.
        insecure: work without TLS and certificates.
        invites: how many invites to open at the start.
        show_invite: takes their lines. They are secret, and are not logged.
    """

    config: Config
    listen: str
    state_dir: Path
    recover: bool = False
    http: str = "none"
    enrol: str = ""
    track: str = ""
    reflection: bool = False
    insecure: bool = False
    invites: int = 0
    show_invite: Callable[[str], None] = print

    @property
    def enrol_address(self) -> str:
        """host:port where devices enrol. Port 0 is any free port."""
        if self.enrol:
            return self.enrol
        host, port = split_address(self.listen)
        return join_address(host, port + 1 if port else 0)
