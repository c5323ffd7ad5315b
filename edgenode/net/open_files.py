"""How many files this process may have open, and how many of them connections may take.

A process that has none left can neither save nor read its certificate. So connections get a part of the limit only.
"""

from __future__ import annotations

import resource
from contextlib import suppress

from edgenode.net.places import Places

_MOST = 65_536
_RESERVED = 256  # for the disk, outgoing connections, and what libraries open
_STRANGERS, _STRANGERS_PART = 192, 32
_PORTS = 4  # of strangers, of returning ones, of the page, of enrolments
FILES_OF_A_LINK = 3
"""Of a connection that is passed on to gRPC: its own, and both ends of the way on."""


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one. Many systems have a soft limit of 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    with suppress(ValueError, OSError):  # a sandbox forbids it
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)


def _strangers() -> int:
    return max(8, min(_STRANGERS, _limit() // _STRANGERS_PART))


def places_for_links() -> Places:
    """Return the places of a gRPC server."""
    left = _limit() - _RESERVED - _strangers() * (2 * FILES_OF_A_LINK + _PORTS - 2)
    return Places(_strangers(), max(8, left // FILES_OF_A_LINK))


def places_for_requests(proven: int) -> Places:
    """Return the places of an HTTP server, where one address may have all places for proven connections."""
    return Places(_strangers(), proven, proven)
