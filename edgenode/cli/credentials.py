"""How the commands find their credentials, and what they do without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgenode.errors import ConfigError
from edgenode.security.local import CONTROLLER_FOLDER, OPERATOR, OWN
from edgenode.storage.filesystem import default_state_dir

if TYPE_CHECKING:
    from edgenode.net.tls import Security


insecure_option = click.option(
    "--insecure", is_flag=True, envvar="EDGENODE_INSECURE", show_envvar=True,
    help="Work without TLS and certificates, on this machine's loopback address only.",
)  # fmt: skip
join_option = click.option(
    "--join", metavar="INVITE|FILE|-", envvar="EDGENODE_JOIN", show_envvar=True,
    help="Enrol this device first: an invite (edgenode invite), a file that contains it, or - for standard input.",
)  # fmt: skip


def operator_security(explicit: Path | None, insecure: bool, cluster: str | None) -> Security:
    """The credentials of an operator: those of the option, or those on this machine.

    Raises:
        ConfigError: there are none, or several and no cluster is given.
        SecurityError: the file is damaged or readable by others.
    """
    from edgenode.net.tls import INSECURE

    if insecure:
        return INSECURE
    path = explicit or _found(cluster)
    if path is None:
        raise ConfigError(
            f"no credentials for {cluster or 'a cluster'} on this machine: run this command where the controller runs, "
            f"pass its {OPERATOR} with --credentials, or ask for an invite (edgenode operator add NAME)"
        )
    return _security(path)


def local_security(state_dir: Path | None, insecure: bool, cluster: str | None) -> Security | None:
    """The credentials of the node or the operator on this machine, or None without any.

    Raises:
        ConfigError: there are credentials for several clusters and no cluster is given.
        SecurityError: the file is damaged or readable by others.
    """
    from edgenode.net.tls import INSECURE

    if insecure:
        return INSECURE
    path = _in_state_dir(state_dir) or _found(cluster)
    return None if path is None else _security(path)


def _security(path: Path) -> Security:
    from edgenode.net.tls import MutualTls
    from edgenode.security.secret_files import read_credentials

    credentials = read_credentials(path)
    if credentials is None:
        raise ConfigError(f"{path} does not exist")
    return MutualTls(credentials, lambda subject, key_id: True)


def _in_state_dir(state_dir: Path | None) -> Path | None:
    files = () if state_dir is None else (state_dir / OPERATOR, state_dir / OWN)
    return next((path for path in files if path.is_file()), None)


def _found(cluster: str | None) -> Path | None:
    """The file with the most rights, in the daemon's state folder (a container names it) or this user's."""
    named = os.environ.get("EDGENODE_STATE_DIR")
    if found := _in_state_dir(Path(named) if named else None):
        return found
    for pattern in (f"{CONTROLLER_FOLDER}/{OPERATOR}", OPERATOR, f"*/{OWN}"):
        base = default_state_dir(cluster or "", "")
        paths = sorted(base.glob(pattern if cluster else f"*/{pattern}"))
        clusters = {path.relative_to(base).parts[0] for path in paths} if cluster is None else set()
        if len(clusters) > 1:
            raise ConfigError(
                f"there are credentials for {len(clusters)} clusters, {', '.join(sorted(clusters))}: choose one with "
                "--cluster NAME"
            )
        if paths:
            return paths[0]
    return None
