"""The options of one node: what `edgenode run`, its variables and a Mesh take, in one table.

The fields of `NodeOptions` that have a `NodeOption` are the table. The command line makes its options of it, and a Mesh
reads the same variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgenode import names
from edgenode.addresses import split_address
from edgenode.config.load import checked_name
from edgenode.errors import ConfigError
from edgenode.storage.filesystem import default_state_dir

if TYPE_CHECKING:
    from edgenode.config.schema import Config
    from edgenode.net.tls import Security

Kind = Literal["text", "name", "flag", "seconds", "round", "folder", "file", "tracker"]
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class NodeOption:
    """An option as a user gives it.

    Attributes:
        name: the name of the option and the variable, in lower case.
        metavar: the placeholder of its value in `--help`.
        default: None if it depends on others, as ``meaning`` says.
    """

    name: str
    meaning: str
    kind: Kind
    metavar: str | None
    default: Any

    @property
    def flag(self) -> str:
        """The option of `edgenode run`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"EDGENODE_{self.name.upper()}"

    def read(self, environ: Mapping[str, str]) -> Any:
        """The value of the variable, or the default if it is unset or empty.

        Raises:
            ConfigError: the value is not allowed. The text names the variable.
        """
        text = environ.get(self.variable, "")
        if not text:
            return self.default
        match self.kind:
            case "flag":
                return flag_of(self.variable, text)
            case "seconds":
                try:
                    return float(text)
                except ValueError:
                    raise _not_allowed(self.variable, text, "a number of seconds") from None
            case "round":
                if text.isdecimal():
                    return int(text)
                raise _not_allowed(self.variable, text, "a round")
            case "name":
                return checked_name(f"environment variable {self.variable}", text)
            case _:
                return text


def flag_of(variable: str, text: str) -> bool:
    """The value of a variable that is on or off.

    Raises:
        ConfigError: it is neither.
    """
    if text.lower() not in _YES + _NO:
        raise _not_allowed(variable, text, "1 or 0")
    return text.lower() in _YES


def _not_allowed(variable: str, text: str, expected: str) -> ConfigError:
    return ConfigError(f"environment variable {variable} = {text!r}, but it must be {expected}")


def _option(name: str, meaning: str, kind: Kind = "text", metavar: str | None = None, default: Any = None) -> Any:
    option = NodeOption(name, meaning, kind, metavar, False if kind == "flag" else default)
    return field(default=option.default, metadata={"option": option})


def _insecure() -> Security:
    from edgenode.net.tls import INSECURE

    return INSECURE


@dataclass(frozen=True)
class NodeOptions:
    """The options of one node, checked.

    Attributes:
        peers: host:port of the other nodes. Empty to find them by mDNS.
        controller: "mdns", "none", or host:port.
        publish: the file of the published model, if it is not in the state folder.
        resume_from: the round to resume from. None is the newest that all nodes have.
        join: is used if the node has no valid certificate.
        security: the credentials of all gRPC connections.
    """

    config: Config
    name: str = _option("name", "This node's id. [default: the host name]", "name")
    listen: str = _option("listen", "Address for peers. Port 0 is any free port.", "text", "H:P", "0.0.0.0:7600")
    peers: tuple[str, ...] = _option(
        "peers", "Addresses of all nodes, or of all others, for networks without multicast.", "text",
        "mdns|H:P,...", "mdns",
    )  # fmt: skip
    controller: str = _option(
        "controller", "Address of the controller. [default: mdns, or none with --peers]", "text", "mdns|H:P|none"
    )
    state_dir: Path = _option(  # noqa: RUF009 - a field
        "state_dir", "Folder for checkpoints, model and results. [default: the user's state folder]", "folder"
    )
    publish: Path | None = _option(  # noqa: RUF009 - a field
        "publish",
        "Where to write the model, every run.publish_every rounds and at the end. [default: model.safetensors in "
        "--state-dir]",
        "file",
        "FILE",
    )
    fresh: bool = _option("fresh", "Discard this node's checkpoints instead of resuming from them.", "flag")
    resume_from: int | None = _option(
        "resume_from", "Resume from the checkpoint of this round, on every node.", "round", "ROUND"
    )
    metrics: str = _option(
        "metrics", "Address where this node serves /metrics for Prometheus.", "text", "H:P|none", "none"
    )
    wait_s: float = _option("wait", "How long to look for the controller or the peers.", "seconds", "SECONDS", 300.0)
    track: str = _option(
        "track",
        "Where measurements go: tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT. Needs the extra of that name.",
        "tracker",
        "TRACKER",
        "",
    )
    join: str | None = _option(
        "join",
        "Enrol this device first: an invite (edgenode invite), a file that contains it, or - for standard input.",
        "text",
        "INVITE|FILE|-",
    )
    insecure: bool = _option(
        "insecure", "Work without TLS and certificates, on this machine's loopback address only.", "flag"
    )
    reflection: bool = _option(
        "reflection", "Let gRPC clients such as grpcurl list the services. Needs edgenode[reflection].", "flag"
    )
    security: Security = field(default_factory=_insecure)

    @property
    def model_file(self) -> Path:
        """The file of the published model."""
        from edgenode.storage.model_file import MODEL_FILE

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
        """Return whether the controller, or the peers, are found by mDNS."""
        return self.controller == "mdns" or not self.peers


NODE_OPTIONS: Mapping[str, NodeOption] = {
    field.name: field.metadata["option"] for field in fields(NodeOptions) if "option" in field.metadata
}
"""The options by the name of their field, in the order of `--help`."""


def node_options(config: Config, name: str, **given: Any) -> NodeOptions:
    """The options as a user writes them, checked.

    Args:
        given: values by the names of the table. A missing one, or None, takes its default.

    Raises:
        ConfigError: a node cannot have the name, an address is malformed, or there is neither a controller nor a peer.
    """
    if checked_name("name", name) == names.CONTROLLER:
        raise ConfigError(f"name = {name}, but that is the name of the controller: choose another")
    given = {**{key: option.default for key, option in NODE_OPTIONS.items()}, **given, "name": name}
    peers = given["peers"] or "mdns"
    fixed = () if peers == "mdns" else tuple(p.strip() for p in peers.split(",") if p.strip())
    controller = given["controller"] or ("none" if fixed else "mdns")
    if controller == "none" and not fixed:
        raise ConfigError(
            "--controller none needs --peers H:P,...: without a controller, a node needs the peers' addresses"
        )
    named = (address for address in (controller, given["metrics"]) if address not in ("mdns", "none"))
    for address in (given["listen"], *fixed, *named):
        split_address(address)
    if given["track"]:
        from edgenode.observability.tracking import checked_target

        given["track"] = checked_target(given["track"])
    given["state_dir"] = Path(given["state_dir"] or default_state_dir(config.run.cluster, name))
    given["publish"] = Path(given["publish"]) if given["publish"] else None
    return NodeOptions(config, **{**given, "peers": fixed, "controller": controller})
