"""What a node knows of its peers: answers, records, rounds they have begun."""

from __future__ import annotations

from dataclasses import replace

from edgenode.core.protocol.member.peer_knowledge import PeerKnowledge
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule

MEMBERS = (Member("n0"), Member("n1", 4), Member("n2"))
RING = create_plan("lab", MEMBERS, Schedule((GraphSpec("a"),), 1))  # n0 -> n1 -> n2 -> n0
PLAN = RING.extend(RING.successor(5, schedule=Schedule((GraphSpec("b"),), 1)))  # reversed from round 5 on
PUSH = Message("n1", 4, 3, 0, RING.latest.digest, 0.5, (1.0, 0.25), b"")


# --- answers ----------------------------------------------------------------------------------------


def test_peers_owe_answers_to_the_pushes_of_every_round() -> None:
    peers = PeerKnowledge(PLAN)
    for peer, t in (("n2", 3), ("n1", 3), ("n1", 4)):
        peers.pushed(peer, t)
    assert [peers.owes("n1", t) for t in (2, 3, 4)] == [False, True, True]
    assert not peers.owes("n0", 3)
    assert [peers.owing(t) for t in (3, 4, 5)] == [(), ("n1", "n2"), ("n1", "n2")]
    peers.answered("n1", 3)
    assert [peers.owing(t) for t in (4, 5)] == [("n2",), ("n1", "n2")]
    peers.answered("n2", 3)
    assert [peers.owing(t) for t in (4, 5)] == [(), ("n1",)]


# --- rounds that a peer has begun -------------------------------------------------------------------


def test_begun_round_is_the_newest_one_with_evidence() -> None:
    peers = PeerKnowledge(PLAN)
    assert peers.begun == {}
    for peer, t in (("n1", 4), ("n1", 7), ("n1", 6), ("n2", 0)):
        peers.began(peer, t)
    assert peers.begun == {"n1": 7, "n2": 0}
    peers.began("n0", -1)
    assert peers.begun["n0"] == -1


def test_evicted_peer_owes_nothing_and_has_begun_nothing() -> None:
    peers = PeerKnowledge(PLAN)
    for peer in ("n1", "n2"):
        peers.pushed(peer, 3)
        peers.began(peer, 3)
    peers.forget("n1")
    peers.forget("n1")
    assert (peers.owing(9), peers.begun) == (("n2",), {"n2": 3})
    peers.began("n1", 1)  # the next process of its name
    assert peers.begun["n1"] == 1


# --- records that a peer knows ----------------------------------------------------------------------


def test_members_are_known_to_have_the_oldest_record() -> None:
    peers = PeerKnowledge(PLAN)
    assert peers.news_for("n1", RING) == ()
    assert peers.news_for("n1", PLAN) == (PLAN.latest,)


def test_every_member_knows_all_but_the_newest_graceful_record() -> None:
    """It was offered when the one before was in force everywhere. Evictions do not wait for that."""
    assert PeerKnowledge(RING).news_for("n9", PLAN) == (PLAN.latest,)
    plan = PLAN.extend(PLAN.successor(9))
    assert PeerKnowledge(RING).news_for("n1", plan) == (plan.latest,)
    for start, gone in ((12, "n2"), (15, "n1")):
        stay = tuple(m for m in plan.latest.members if m.node != gone)
        plan = plan.extend(plan.successor(start, members=stay, evictions=((gone, 3),)))
    assert PeerKnowledge(RING).news_for("n0", plan) == plan.records[2:]


def test_push_stays_small_after_thousands_of_changes() -> None:
    plan = Plan(tuple(replace(RING.latest, number=n, start=n) for n in range(16_000)))
    assert PeerKnowledge(RING).news_for("n1", plan) == (plan.latest,)


def test_news_is_what_a_peer_does_not_know_oldest_first() -> None:
    peers = PeerKnowledge(RING)
    assert peers.news_for("n1", PLAN) == PLAN.records[1:]
    peers.learned("n1", 1)
    peers.learned("n1", 0)  # a late answer takes nothing back
    assert peers.news_for("n1", PLAN) == ()
    assert peers.news_for("n2", PLAN) == PLAN.records[1:]


def test_resumed_chain_counts_from_its_first_record() -> None:
    resumed = Plan((replace(PLAN.latest, number=6),))
    plan = resumed.extend(resumed.successor(12))
    assert PeerKnowledge(resumed).news_for("n1", plan) == (plan.latest,)
