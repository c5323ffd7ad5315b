"""How a node proves who it is: with the credentials in its state folder, which an invite puts there."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import structlog

from edgenode.core.protocol.signatures import UNSIGNED, FoundingRecordOnly, Verifier
from edgenode.errors import ConfigError, SecurityError
from edgenode.net.enrolment_client import enrol
from edgenode.net.reasons import expired
from edgenode.net.rpc import refuse_beyond_loopback
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.node.options import Options
from edgenode.security.certificates import Credentials
from edgenode.security.invite import PREFIX, Invite
from edgenode.security.secret_files import read_credentials, write_credentials
from edgenode.security.signatures import AuthorityVerifier
from edgenode.storage.state_folder import require_no_file

log = structlog.get_logger()


def node_security(options: Options, join: str | None = None, insecure: bool = False) -> Security:
    """The security of a node's connections.

    Args:
        join: an invite, the path of a file that contains it, or "-" for standard input. The node enrols first.

    Raises:
        ConfigError: it has no certificate, the invite is of another cluster, the certificate is of another node, its
            state folder is a file, or it would be reachable from the network without a certificate.
        SecurityError: the invite is not valid, or the file is damaged or readable by others.
        TransportError: the controller of the invite does not answer.
    """
    if insecure:
        refuse_beyond_loopback(options.listen)
        return INSECURE
    path, name = options.credentials, options.name
    require_no_file(options.state_dir)
    if join is not None:
        write_credentials(path, _enrolled(join, options.config.run.cluster, name))
        log.info("enrolled: from now on, start this node without --join", node=name, certificate=str(path))
    credentials = read_credentials(path)
    if credentials is None:
        raise ConfigError(f"this node has no certificate ({path}): {how_to_get_one(name, options.controller)}")
    if (found := credentials.subject.name) != name:
        raise ConfigError(f"{path} is the certificate of {found}, not of {name}: choose another --state-dir or --name")
    if (until := credentials.expires()) <= datetime.now(UTC):
        log.warning("no other node accepts the certificate of this node", reason=expired(until))
    return MutualTls(credentials, lambda subject, key_id: True)


def how_to_get_one(name: str, controller: str) -> str:
    """What to do for a node without a certificate, in a run with a controller or with "none"."""
    if controller == "none":
        return (
            "without a controller, make the certificates of all nodes on one machine (edgenode cert init, then "
            f"edgenode cert issue {name} ... --out DIR), copy DIR/{name} to this device, and start this node with that "
            "folder as --state-dir"
        )
    return (
        f"run edgenode invite {name} where the controller runs, and start this node with --join and the line that it "
        "prints"
    )


def verifier(options: Options) -> Verifier:
    """What a node asks before it believes a record of the plan or a controller's greeting.

    Raises:
        SecurityError: the authority's certificate is malformed.
    """
    if options.controller == "none":
        return FoundingRecordOnly()
    if isinstance(options.security, MutualTls):
        return AuthorityVerifier(options.security.credentials.authority)
    return UNSIGNED


def _enrolled(join: str, cluster: str, name: str) -> Credentials:
    invite = read_invite(join)
    if invite.cluster != cluster:
        raise ConfigError(
            f"the invite is for the cluster {invite.cluster}, but run.cluster is {cluster}: change one of the two"
        )
    return enrol(invite, name)


def read_invite(text: str) -> Invite:
    """An invite, or what is in a file or in standard input ("-"): there, the list of processes does not show it.

    Raises:
        ConfigError: the file cannot be read, or has no invite.
        SecurityError: the text is a damaged invite.
    """
    if text.startswith(PREFIX):
        return Invite.parse(text)
    try:
        content = sys.stdin.readline() if text == "-" else Path(text).read_text(encoding="utf-8")
        if not content.strip():
            raise ValueError("it is empty; run edgenode invite NAME where the controller runs, and copy its line")
        return Invite.parse(content)
    except (OSError, ValueError, SecurityError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        what = "standard input" if text == "-" else f"{text!a}"
        raise ConfigError(f"--join: {what} is neither an invite nor a file that contains one: {why}") from exc
