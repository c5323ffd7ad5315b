"""The addresses of a peer: where it answered, or those of the plan and of mDNS."""

from __future__ import annotations

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.net.peer_client import PeerAddresses
from edgenode.node.peer_directory import PeerDirectory

PLAN = create_plan("edgenode", [Member("n0", 0, "old:1"), Member("n1", 0, "old:2")], factory.schedule(Config()))
MEMBERS = Member("n1", 3, "new:2"), Member("n2", 0, "new:3")
CHANGED = PLAN.extend(PLAN.successor(9, members=MEMBERS, evictions=(("n0", 7), ("n1", 7))))


def test_the_newest_record_that_names_a_peer_gives_its_address() -> None:
    directory = PeerDirectory()
    assert directory.find("n1", PLAN) == PeerAddresses(("old:2",), 0)
    assert directory.find("n1", CHANGED) == PeerAddresses(("new:2",), 3)
    assert directory.find("n0", CHANGED) == PeerAddresses(("old:1",), 0)


def test_a_peer_without_an_address_has_none_yet() -> None:
    assert PeerDirectory().find("n9", PLAN) == PeerAddresses(())


def test_the_address_where_a_fixed_peer_answered_is_the_only_one() -> None:
    assert PeerDirectory({"n1": "fixed:2"}).find("n1", CHANGED) == PeerAddresses(("fixed:2",), 0)


def test_observed_address_of_a_peer_is_no_address_of_its_own() -> None:
    """A link dials those of its own in turn, and a dial that a router drops takes long."""
    directory = PeerDirectory(observed={"n1": "outside:2"}.__getitem__)
    assert (directory.find("n1", PLAN).addresses, directory.observed("n1")) == (("old:2",), "outside:2")


def test_a_peer_may_show_its_older_key_for_some_rounds() -> None:
    plan = create_plan("edgenode", [Member("n0", key="a" * 64), Member("n1", key="b" * 64)], factory.schedule(Config()))
    renewed = plan.extend(plan.successor(9, members=(Member("n0", key="c" * 64), Member("n1", key="b" * 64))))
    assert PeerDirectory().find("n0", renewed, 8).keys == {"a" * 64, "c" * 64}
    assert PeerDirectory().find("n0", renewed, 9).keys == {"c" * 64}
    again = Member("n0", 1, key="d" * 64), Member("n1", key="b" * 64)
    back = renewed.extend(renewed.successor(20, members=again, evictions=(("n0", 10),)))
    assert PeerDirectory().find("n0", back, 0).keys == {"d" * 64}  # another process
