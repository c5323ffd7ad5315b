"""Where the controller sees nodes, as it names that to the others. No rule depends on it, and no record has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ObservedAddress:
    """The address of a node as it is seen from outside its network: that of its router, with the port of the node.

    Attributes:
        address: host:port. The node answers there if its router forwards the port.
    """

    node: str
    address: str


@dataclass(frozen=True, slots=True)
class Observed:
    """An order: these nodes may also be reached at these addresses. What was named of others before still counts."""

    addresses: tuple[ObservedAddress, ...]
