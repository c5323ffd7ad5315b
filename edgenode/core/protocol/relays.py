"""The relays of a cluster besides its controller, as the controller names them to nodes. No rule depends on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """A process that only relays.

    Attributes:
        address: host:port where members dial it.
        key: the id of the key that it has shown. Empty without TLS.
    """

    name: str
    address: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Relays:
    """An order: members may wait at these relays."""

    relays: tuple[RelayAddress, ...]
