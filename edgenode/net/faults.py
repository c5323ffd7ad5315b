"""Counts protocol violations by peer and kind, and logs the first of each. This process continues."""

from __future__ import annotations

from collections import Counter

import structlog

from edgenode.core.protocol.status import Fault
from edgenode.errors import EdgenodeError

log = structlog.get_logger()

_MOST_PEERS = 1024  # without TLS anyone can have any name


class Faults:
    """The faults of the peers of one process."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, peer: str, kind: str, error: EdgenodeError) -> None:
        """Count a message that was rejected, of one of the `FAULT_KINDS`."""
        key = peer or "unknown", kind
        if key not in self._counts and len(self._counts) >= _MOST_PEERS:
            key = "others", kind
        if key not in self._counts:
            log.warning("refused what a peer sent; more of this kind is only counted", peer=key[0], kind=kind,
                        reason=str(error))  # fmt: skip
        self._counts[key] += 1

    def of(self, peer: str) -> tuple[Fault, ...]:
        """The faults of one peer."""
        return tuple(fault for fault in self.by_peer if fault.peer == peer)

    @property
    def by_peer(self) -> tuple[Fault, ...]:
        """The number of faults of each kind, by peer."""
        return tuple(Fault(peer, kind, count) for (peer, kind), count in sorted(self._counts.items()))
