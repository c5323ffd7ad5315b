"""The credentials of a cluster whose processes all run on this machine, as a demo's do, and where each lies on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgenode import names
from edgenode.security.subject import Subject

if TYPE_CHECKING:
    from edgenode.security.certificates import Credentials

AUTHORITY = "authority"
OPERATOR = "operator.pem"
OWN = "credentials.pem"
CONTROLLER_FOLDER = names.CONTROLLER


def prepare(out: Path, cluster: str, nodes: Iterable[str]) -> Credentials:
    """Make what is missing: an authority for the controller, and credentials for each node, in their state folders.

    The state folders are those in ``out`` with the names of the nodes, and "controller".

    Returns:
        The operator's credentials.

    Raises:
        SecurityError: a file is damaged or readable by others, or cannot be written.
    """
    from edgenode.security.authority import LOCAL_OPERATOR, Authority

    authority = Authority(out / CONTROLLER_FOLDER / AUTHORITY, cluster)
    for name in nodes:
        authority.keep(out / name / OWN, Subject("node", name))
    return authority.keep(out / CONTROLLER_FOLDER / OPERATOR, LOCAL_OPERATOR)
