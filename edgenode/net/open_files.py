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
_OTHER_PORTS = 2  # the page's, and that for enrolments
FILES_OF_A_LINK = 3
"""Of a connection that is passed on to gRPC: its own, and both ends of the way on."""


def places_for_links() -> Places:
    """Return the places of a gRPC server."""
    limit = _raised_limit()
    strangers = _strangers(limit)
    left = limit - _RESERVED - strangers * (2 * FILES_OF_A_LINK + _OTHER_PORTS)
    return Places(strangers, max(8, left // FILES_OF_A_LINK))


def places_for_requests(proven: int) -> Places:
    """Return the places of an HTTP server, with a number of proven connections."""
    return Places(_strangers(_raised_limit()), proven)


def _strangers(limit: int) -> int:
    return max(8, min(_STRANGERS, limit // _STRANGERS_PART))


def _raised_limit() -> int:
    """Raise the soft limit of open files to the hard one, which is higher on most systems. Return it."""
    soft, hard = (_MOST if limit == resource.RLIM_INFINITY else limit for limit in _limits())
    if soft < (wanted := min(hard, _MOST)):
        with suppress(ValueError, OSError):  # a sandbox forbids it
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, _limits()[1]))
            return wanted
    return min(soft, _MOST)


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
