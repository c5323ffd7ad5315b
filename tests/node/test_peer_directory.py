"""The addresses of a peer: where it answered, or those of the plan and of mDNS."""

from __future__ import annotations

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.protocol.plan import Member, create_plan
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
