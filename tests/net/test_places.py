"""Who gets a place, and who makes room. Time is a variable."""

from __future__ import annotations

import pytest

from edgenode.net import places
from edgenode.net.places import LEAST_S, Place, Places, network_of

STRANGERS, PROVEN, OF_ONE = 6, 5, 3


class Server:
    """Places, the time, and which connections were hung up on."""

    def __init__(self) -> None:
        self.now, self.ended = 0.0, list[str]()
        self.places = Places(STRANGERS, PROVEN, OF_ONE, lambda: self.now)

    def connect(self, name: str, host: str) -> Place | None:
        return self.places.take(host, lambda: self.ended.append(name))

    def proven(self, name: str, host: str, who: str) -> Place:
        place = self.connect(name, host)
        assert place is not None
        place.prove(who)
        return place


@pytest.fixture
def server() -> Server:
    return Server()


def test_strangers_at_one_address_leave_room_for_others(server: Server) -> None:
    let_in = [server.connect(f"a{i}", "10.0.0.1") for i in range(100)]
    assert sum(place is not None for place in let_in) == 4  # two thirds
    assert server.connect("b", "10.0.0.2") is not None
    assert server.ended == []


def test_new_stranger_takes_the_place_of_the_oldest_that_had_its_time(server: Server) -> None:
    for i in range(STRANGERS):
        server.now = i / 10
        assert server.connect(f"{i}", f"10.0.0.{i}")
    server.now = LEAST_S - 0.01
    assert server.connect("late", "10.0.1.1") is None
    server.now = LEAST_S
    assert server.connect("later", "10.0.1.1") is not None
    assert server.connect("too many", "10.0.1.2") is None
    assert server.ended == ["0"]


def test_flood_cannot_end_a_handshake_before_its_time(server: Server) -> None:
    assert server.connect("true", "10.0.0.1")
    for k in range(1000):
        server.now = k * LEAST_S / 1000
        server.connect("flood", f"10.1.{k % 250}.1")
    assert "true" not in server.ended


def test_ended_connection_frees_its_place(server: Server) -> None:
    for i in range(20):
        place = server.connect(f"{i}", "10.0.0.1")
        assert place is not None
        place.leave()
        place.leave()
    assert server.ended == []


def test_proven_connection_makes_no_room(server: Server) -> None:
    server.proven("member", "10.0.0.1", "key")
    for k in range(100):
        server.now = k * LEAST_S
        server.connect(f"{k}", f"10.1.0.{k}")
    assert "member" not in server.ended
    assert len(server.ended) == 100 - STRANGERS


def test_known_address_has_places_of_its_own(server: Server) -> None:
    server.proven("member", "10.0.0.1", "key").leave()
    for i in range(STRANGERS):
        assert server.connect(f"{i}", f"10.1.0.{i}")
    assert server.connect("stranger", "10.1.1.1") is None
    assert server.connect("again", "10.0.0.1") is not None


def test_limited_number_of_addresses_is_known(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_KNOWN_ADDRESSES", 2)
    for i in (1, 2, 1, 3):
        server.proven(f"{i}", f"10.0.0.{i}", "key").leave()
    for i in range(STRANGERS):
        assert server.connect(f"stranger {i}", f"10.1.0.{i}")
    assert [server.connect("again", f"10.0.0.{i}") is not None for i in (1, 2, 3)] == [True, False, True]


def test_newest_connection_of_an_owner_takes_the_place_of_its_oldest(server: Server) -> None:
    for i in range(OF_ONE + 2):
        server.proven(f"a{i}", f"10.0.0.{i}", "a")
        server.proven(f"b{i}", "10.0.0.9", "b") if not i else None
    assert server.ended == ["a0", "a1"]


def test_owners_together_have_a_number_of_connections(server: Server) -> None:
    for i in range(PROVEN + 1):
        server.proven(f"{i}", f"10.0.0.{i}", f"key {i}")
    assert server.ended == [f"{PROVEN}"]


def test_owner_that_has_most_makes_room_for_another(server: Server) -> None:
    for i in range(OF_ONE):
        server.proven(f"a{i}", "10.0.0.1", "a")
    for i in range(PROVEN - OF_ONE):
        server.proven(f"b{i}", "10.0.0.2", "b")
    server.proven("new", "10.0.0.3", "operator")
    assert server.ended == ["a0"]


def test_further_calls_prove_nothing_new(server: Server) -> None:
    place = server.proven("member", "10.0.0.1", "key")
    for _ in range(10):
        place.prove("key")
    assert server.ended == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:2", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_what_counts_as_one_address(host: str, expected: str) -> None:
    assert network_of(host) == expected
