"""How to run one node: the options of ``edgenode run`` and of a Mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgenode.addresses import split_address
from edgenode.config.load import checked_name
from edgenode.config.schema import Config
from edgenode.errors import ConfigError
from edgenode.net.tls import INSECURE, Security
from edgenode.storage.filesystem import default_state_dir
from edgenode.storage.model_file import MODEL_FILE


@dataclass(frozen=True)
class Options:
    """How to run one node.

    Attributes:
        peers: host:port of the other nodes. Empty to find them by mDNS.
        controller: "mdns", "none", or host:port.
        publish: where the model is published, if not in the state folder.
        fresh: discard the checkpoints.
        resume_from: the round to resume from. None is the newest that all nodes have.
        join: an invite, the path of a file that contains it, or "-" for standard input. It is used if the node has no
            valid certificate.
        wait_s: how long to look for the controller, or for the peers.
        metrics: host:port for Prometheus, or "none".
        reflection: whether gRPC clients can list the services.
        track: where measurements go, as `checked_target` describes. Empty for nowhere.
        security: of all gRPC connections.
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
    publish: Path | None = None
    track: str = ""
    security: Security = INSECURE
    resume_from: int | None = None
    join: str | None = None

    @property
    def model_file(self) -> Path:
        """Where the model is published."""
        return self.publish or self.state_dir / MODEL_FILE

    @property
    def credentials(self) -> Path:
        """The file with the node's key and certificate, if it is not insecure."""
        return self.state_dir / "credentials.pem"

    @property
    def listen_host(self) -> str:
        """The host part of ``listen``."""
        return split_address(self.listen)[0]

    @property
    def uses_mdns(self) -> bool:
        """Whether the controller, or the peers, are found by mDNS."""
        return self.controller == "mdns" or not self.peers


def node_options(
    config: Config,
    name: str,
    listen: str,
    peers: str = "mdns",
    controller: str | None = None,
    state_dir: Path | None = None,
    *,
    fresh: bool = False,
    wait_s: float = 300.0,
    metrics: str = "none",
    reflection: bool = False,
    publish: Path | None = None,
    track: str = "",
    join: str | None = None,
) -> Options:
    """The options as a user writes them, checked.

    Args:
        peers: "mdns", or host:port of each, with commas.
        controller: "mdns", "none" or host:port. None is "none" with fixed peers, else "mdns".

    Raises:
        ConfigError: the name is not one, an address is malformed, or there is neither a controller nor a peer.
    """
    checked_name("name", name)
    fixed = () if peers == "mdns" else tuple(p.strip() for p in peers.split(",") if p.strip())
    controller = controller or ("none" if fixed else "mdns")
    if controller == "none" and not fixed:
        raise ConfigError(
            "--controller none needs --peers H:P,...: without a controller, a node needs the peers' addresses"
        )
    given = [listen, *fixed, *(address for address in (controller, metrics) if address not in ("mdns", "none"))]
    for address in given:
        split_address(address)
    state_dir = state_dir or default_state_dir(config.run.cluster, name)
    if track:
        from edgenode.observability.tracking import checked_target

        track = checked_target(track)
    return Options(
        config, name, listen, fixed, controller, state_dir, fresh, wait_s, metrics, reflection, publish, track,
        join=join,
    )  # fmt: skip
