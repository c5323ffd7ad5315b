"""The relays that a node knows."""

from __future__ import annotations

from edgenode.core.protocol.orders import Hello, Leadership, Revoked
from edgenode.core.protocol.relays import RelayAddress, Relays
from edgenode.net.known_relays import KnownRelays

FRA, BER = RelayAddress("fra", "fra:7702", "f" * 64), RelayAddress("ber", "ber:7702", "b" * 64)


def test_relay_stays_known_when_the_controller_names_others() -> None:
    known = KnownRelays()
    known.take(Relays((FRA,)))
    known.take(Relays((BER,)))
    known.take(Relays(()))
    assert list(known) == [FRA, BER]
    moved = RelayAddress("fra", "fra:9", FRA.key)
    known.take(Relays((moved,)))
    assert list(known) == [BER, moved]


def test_revoked_relay_is_forgotten_also_if_it_is_named_again() -> None:
    known = KnownRelays()
    known.take(Relays((FRA, BER)))
    known.take(Revoked(frozenset({FRA.key})))
    known.take(Relays((FRA, BER)))
    assert list(known) == [BER]
    known.take(Hello(Leadership(3), revoked=frozenset({BER.key})))
    assert list(known) == []


def test_relays_that_were_named_first_give_way() -> None:
    known = KnownRelays()
    for i in range(40):
        known.take(Relays((RelayAddress(f"r{i}", "there:1"),)))
    assert [relay.name for relay in known] == [f"r{i}" for i in range(8, 40)]
