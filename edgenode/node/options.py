"""The command line of ``edgenode run``, parsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgenode.config.schema import Config
from edgenode.net.rpc import split_address


@dataclass(frozen=True)
class Options:
    """How to run one node.

    Attributes:
        peers: host:port of the other nodes. Empty to find them by mDNS.
        controller: "mdns", "none", or host:port.
        fresh: discard the checkpoints.
        wait_s: how long to look for the controller, or for the peers.
        metrics: host:port for Prometheus, or "none".
        reflection: whether gRPC clients can list the services.
    """

    config: Config
    name: str
    listen: str
    peers: tuple[str, ...]
    controller: str
    state_dir: Path
    fresh: bool = False
    wait_s: float = 300.0
    metrics: str = "none"
    reflection: bool = False

    @property
    def listen_host(self) -> str:
        """The host part of ``listen``."""
        return split_address(self.listen)[0]

    @property
    def uses_mdns(self) -> bool:
        """Whether the controller, or the peers, are found by mDNS."""
        return self.controller == "mdns" or not self.peers
