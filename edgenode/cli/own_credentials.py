"""Finds the credentials of commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgenode.errors import ConfigError, SecurityError
from edgenode.security.local import CONTROLLER_FOLDER, OPERATOR, OWN
from edgenode.storage.filesystem import default_state_dir

if TYPE_CHECKING:
    from edgenode.net.tls import MutualTls, Security

_TERMINAL = 80  # columns of a usual terminal


def operator_securities(explicit: Path | None, insecure: bool, cluster: str | None) -> list[Security]:
    """The credentials of an operator, from the option or from this machine.

    There may be some of several authorities, of which the controller shows the right one. Of each authority, those with
    the most rights are returned.

    Raises:
        ConfigError: there are none.
        SecurityError: no file is intact, or others can read them.
    """
    from edgenode.net.tls import INSECURE

    if insecure:
        return [INSECURE]
    paths = [explicit] if explicit is not None else _on_this_machine(cluster)
    if not paths:
        raise ConfigError(
            f"no credentials for {cluster or 'a cluster'} on this machine: run this command where the controller runs, "
            f"pass its {OPERATOR} with --credentials, or ask for an invite (edgenode invite NAME --role operator)"
        )
    found: dict[bytes, Security] = {}
    damaged: list[SecurityError] = []
    for path in paths:
        try:
            security = _security(path)
            found.setdefault(security.credentials.authority, security)
        except SecurityError as exc:
            damaged.append(exc)
    if not found:
        raise damaged[0]
    return list(found.values())


def run_command(invite: str, name: str | None = None) -> str:
    """Return the command for a device that an invite lets in, next to its run.toml. A line has at most 80 characters.

    Args:
        name: the name of the device, if the invite is for that one only.
    """
    named = f"edgenode run --name {name}" if name else "edgenode run"
    command = f"{named} --join {invite}"
    return command if len(command) <= _TERMINAL else f"{named} \\\n  --join {invite}"


def invite_command(state_dir: Path) -> str:
    """Return the command for an invite on a controller's machine. A service's folder belongs to another user."""
    if "STATE_DIRECTORY" in os.environ:  # systemd sets it
        return f"sudo edgenode invite --credentials {state_dir / OPERATOR}"
    if state_dir / OPERATOR in _on_this_machine(None):
        return "edgenode invite"
    return f"edgenode invite --credentials {state_dir / OPERATOR}"


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


def _security(path: Path) -> MutualTls:
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
    """The file with the most rights on this machine."""
    paths = _on_this_machine(cluster)
    base = default_state_dir("", "")
    of_user = [path for path in paths if path.is_relative_to(base)]
    clusters = {path.relative_to(base).parts[0] for path in of_user}
    if paths == of_user and len(clusters) > 1:
        raise ConfigError(
            f"there are credentials for {len(clusters)} clusters, {', '.join(sorted(clusters))}: choose one with "
            "--cluster NAME"
        )
    return paths[0] if paths else None


def _on_this_machine(cluster: str | None) -> list[Path]:
    """The files in the daemon's state folder (a container names it) and in this user's, most rights first."""
    named = os.environ.get("EDGENODE_STATE_DIR")
    found = _in_state_dir(Path(named) if named else None)
    base = default_state_dir(cluster or "", "")
    patterns = (f"{CONTROLLER_FOLDER}/{OPERATOR}", OPERATOR, f"*/{OWN}")
    of_user = [path for pattern in patterns for path in sorted(base.glob(pattern if cluster else f"*/{pattern}"))]
    return [*([found] if found else []), *of_user]
