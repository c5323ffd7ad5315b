"""The credentials of a node, in its state folder. An invite puts them there."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edgenode.addresses import split_address
from edgenode.core.protocol.plan.signatures import UNSIGNED, FoundingRecordOnly, Verifier
from edgenode.errors import ConfigError, EdgenodeError, NotAdmitted, SecurityError
from edgenode.net.enrolment_client import enrol
from edgenode.net.reasons import expired
from edgenode.net.rpc import refuse_beyond_loopback
from edgenode.net.tls import INSECURE, MutualTls, Security
from edgenode.node.controller_address import keep_controller_address
from edgenode.security.certificates import Credentials, cluster_of, fingerprint
from edgenode.security.invite import PREFIX, Invite
from edgenode.security.secret_files import read_credentials, write_credentials
from edgenode.security.signing import AuthorityVerifier
from edgenode.security.subject import Subject
from edgenode.storage.state_folder import require_no_file

if TYPE_CHECKING:
    from edgenode.node.node_options import NodeOptions

log = structlog.get_logger()


def node_security(options: NodeOptions) -> Security:
    """The security of a node's connections. A node without a valid certificate enrols first, if it has an invite.

    Raises:
        ConfigError: it has no certificate, the invite is of another cluster, the certificate is of another node, its
            state folder is a file, or it would be reachable from the network without a certificate.
        SecurityError: the invite is not valid, or the file is damaged or readable by others.
        TransportError: the controller of the invite does not answer.
    """
    if options.insecure:
        refuse_beyond_loopback(options.listen)
        return INSECURE
    path, name = options.credentials, options.name
    require_no_file(options.state_dir)
    if options.join is not None and _needs_invite(options):
        security = _enrolled(options)
        log.info("enrolled: from now on, no invite is needed", node=options.name, certificate=str(path))
        return security
    credentials = read_credentials(path)
    if credentials is None:
        raise ConfigError(f"this node has no certificate ({path}): {how_to_get_one(name, options.controller)}")
    if (found := credentials.subject.name) != name:
        raise ConfigError(f"{path} is the certificate of {found}, not of {name}: choose another --state-dir or --name")
    if (until := credentials.expires()) <= datetime.now(UTC):
        log.warning("no other node accepts the certificate of this node", reason=expired(until))
    return MutualTls(credentials, lambda subject, key_id: True)


def how_to_get_one(name: str, controller: str) -> str:
    """Say how to get a certificate, in a run with a controller or with "none"."""
    if controller == "none":
        return (
            "without a controller, make the certificates of all nodes on one machine (edgenode cert init, then "
            f"edgenode cert issue {name} ... --out DIR), copy DIR/{name} to this device, and start this node with that "
            "folder as --state-dir"
        )
    return (
        f"run edgenode invite {name} where the controller runs, and type the line that it prints here; for a service, "
        "see edgenode doctor --systemd"
    )


def verifier(options: NodeOptions) -> Verifier:
    """Return the check of a controller's records and greetings.

    Raises:
        SecurityError: the authority's certificate is malformed.
    """
    if options.controller == "none":
        return FoundingRecordOnly()
    if isinstance(options.security, MutualTls):
        return AuthorityVerifier(options.security.credentials.authority)
    return UNSIGNED


def enrolled_again(options: NodeOptions, error: NotAdmitted) -> Security:
    """Use the invite of a node whose certificate is not valid any more.

    Raises:
        NotAdmitted: the given error, if the invite is not valid either: the node was started as before.
        EdgenodeError: as `node_security`.
    """
    try:
        security = _enrolled(options)
    except NotAdmitted as refused:
        raise error from refused
    except EdgenodeError:
        log.warning("this node needs an invite, because its certificate is not valid any more", reason=str(error))
        raise
    log.warning("enrolled again, because the certificate was not valid any more", reason=str(error))
    return security


def _enrolled(options: NodeOptions) -> Security:
    """Use the node's invite, and write its new credentials."""
    given = () if options.controller in ("mdns", "none") else (split_address(options.controller)[0],)
    invite = read_invite(options.join or "")
    credentials = enrol(invite, options.name, options.config.run.cluster, given)
    keep_controller_address(options.state_dir, str(invite.public or ""))
    write_credentials(options.credentials, credentials)
    return MutualTls(credentials, lambda subject, key_id: True)


def _needs_invite(options: NodeOptions) -> bool:
    """Return whether a node has no valid certificate of the cluster of its invite.

    Raises:
        ConfigError: it has none of its cluster at all, and the invite cannot be read.
        SecurityError: as before, and it is not an invite.
    """
    own = _own_of_cluster(options)
    if own is None:
        return True
    reason = ""
    try:
        if fingerprint(own.authority) != read_invite(options.join or "").authority:
            return True
    except EdgenodeError as exc:  # such as a file that was removed after its use
        reason = str(exc)
    log.info(
        "this node is enrolled already: it needs the invite only if its certificate is refused",
        node=options.name,
        **({"reason": reason} if reason else {}),
    )
    return False


def _own_of_cluster(options: NodeOptions) -> Credentials | None:
    """Return the node's credentials, if its certificate is of this node and its cluster, and has not expired."""
    try:
        own = read_credentials(options.credentials)
        is_own = own is not None and own.subject == Subject("node", options.name)
        if own is None or not is_own or cluster_of(own.authority) != options.config.run.cluster:
            return None
    except SecurityError:  # damaged: the invite mends it
        return None
    return own if own.expires() > datetime.now(UTC) else None


def read_invite(text: str) -> Invite:
    """An invite, or what is in a file or in standard input ("-"): there, the list of processes does not show it.

    Raises:
        ConfigError: the file cannot be read, or has no invite.
        SecurityError: the text is a damaged invite.
    """
    if PREFIX in text.lower() and not Path(text).exists():
        return Invite.parse(text)
    try:
        content = _typed_command() if text == "-" else text and Path(text).read_text(encoding="utf-8")
        if not content.strip():
            raise ValueError("it is empty; run edgenode invite NAME where the controller runs, and copy its line")
        return Invite.parse(content)
    except (OSError, ValueError, SecurityError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        what = "standard input" if text == "-" else f"{text!a}"
        raise ConfigError(f"--join: {what} is neither an invite nor a file that contains one: {why}") from exc


def _typed_command() -> str:
    """A command from standard input, which goes on after a line that ends with a backslash."""
    lines = [sys.stdin.readline()]
    while lines[-1].rstrip().endswith("\\"):
        lines.append(sys.stdin.readline())
    return "".join(lines)
