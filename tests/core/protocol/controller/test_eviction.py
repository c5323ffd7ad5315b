"""Evictions: what a fence needs to be complete, which rounds of the evicted count, and how a cluster evicts."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.controller.eviction import Ballot
from edgenode.core.protocol.events import (
    UNREQUESTED,
    ClusterAction,
    Disconnected,
    Evict,
    Reply,
    Reported,
    Revoke,
    Rotate,
    Send,
)
from edgenode.core.protocol.orders import (
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Fetched,
    Leadership,
    Leave,
    Offer,
)
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Period, Schedule
from tests.core.protocol.cluster_driver import (
    FIRST,
    A,
    B,
    QuietCluster,
    Sent,
    a_run_spec,
    a_started_cluster,
    all_of,
    answer,
    answer_fence,
    fences,
    finish,
    join,
    kinds,
    node_names,
    only,
    persisted,
    progress,
    reconnect,
    the_plan,
)

PLAN = create_plan("lab", [Member(f"n{i}") for i in range(4)], Schedule((GraphSpec("a"),), 1))


def a_ballot(*evicted: str) -> Ballot:
    return Ballot(2, 5, frozenset(evicted or ("n3",)), frozenset({"n0", "n1"}), [])


def promise(
    begun: int, *begun_rounds: tuple[str, int], term: int = 2, ballot: int = 5, plan: Plan = PLAN
) -> FenceAnswer:
    return FenceAnswer(term, ballot, begun, begun_rounds, plan.records)


# --- the values of a ballot -------------------------------------------------------------------------


def test_fence_is_complete_when_every_survivor_has_promised() -> None:
    ballot = a_ballot()
    assert not ballot.complete
    assert ballot.begun == -1
    assert ballot.take("n1", promise(7))
    assert not ballot.complete
    assert ballot.take("n1", promise(7))  # a repeat counts once
    assert not ballot.complete
    assert ballot.take("n0", promise(5))
    assert ballot.complete
    assert ballot.begun == 7


def test_promise_to_another_ballot_or_of_a_stranger_is_void() -> None:
    ballot = a_ballot()
    assert not ballot.take("n0", promise(5, ballot=4))
    assert not ballot.take("n0", promise(5, term=1))
    assert not ballot.take("n3", promise(5))
    assert not ballot.take("n9", promise(5))
    assert ballot.answers == {}


def test_fence_without_survivors_is_complete() -> None:
    assert Ballot(0, 1, frozenset({"n3"}), frozenset(), []).complete


def test_last_round_is_the_newest_that_any_survivor_has_seen() -> None:
    ballot = a_ballot("n3", "n2")
    ballot.take("n0", promise(9, ("n2", 4), ("n3", 7)))
    ballot.take("n1", promise(8, ("n2", 6), ("n3", -1)))
    assert ballot.last_rounds(PLAN, 10) == (("n2", 6), ("n3", 7))


def test_no_round_counts_that_no_survivor_has_begun() -> None:
    ballot = a_ballot()
    ballot.take("n0", promise(6, ("n3", 8)))
    assert ballot.last_rounds(PLAN, 7) == (("n3", 6),)


def test_evicted_node_without_evidence_counts_up_to_its_join() -> None:
    ballot = a_ballot()
    ballot.take("n0", promise(20, ("n3", -1)))
    assert ballot.last_rounds(PLAN, 21) == (("n3", -1),)
    without = PLAN.extend(PLAN.successor(5, members=PLAN.latest.members[:3], evictions=(("n3", 3),)))
    again = without.extend(without.successor(12, members=(*PLAN.latest.members[:3], Member("n3", 1))))
    assert ballot.last_rounds(again, 21) == (("n3", 11),)


def test_what_an_evicted_node_passed_on_is_evidence() -> None:
    """n2 had mixed all before round 12. So it had the push of round 11 of n1, whose answers were lost since round 4."""
    both = Ballot(2, 5, frozenset({"n1", "n2"}), frozenset({"n0", "n3"}), [])
    both.take("n3", promise(13, ("n1", -1), ("n2", 12)))
    both.take("n0", promise(12, ("n1", 4), ("n2", -1)))
    assert both.last_rounds(PLAN, 14) == (("n1", 11), ("n2", 12))
    one_after_the_other = a_ballot("n1")
    one_after_the_other.take("n0", promise(12, ("n1", 4)))
    rest = tuple(m for m in PLAN.latest.members if m.node != "n2")
    without = PLAN.successor(14, members=rest, evictions=(("n2", 12),))
    assert one_after_the_other.last_rounds(PLAN.extend(without), 15) == (("n1", 11),)


def test_the_longest_plan_of_the_survivors_counts() -> None:
    longer = PLAN.extend(PLAN.successor(8))
    ballot = a_ballot()
    ballot.take("n0", promise(5))
    assert ballot.newest_plan(PLAN) == PLAN
    ballot.take("n1", promise(5, plan=longer))
    assert ballot.newest_plan(PLAN) == longer
    assert a_ballot().newest_plan(longer) == longer


# --- an eviction from fence to commit ---------------------------------------------------------------


def test_member_is_evicted_once_all_survivors_have_promised() -> None:
    cluster = a_started_cluster(3)
    cluster.handle(Disconnected("n2"))
    actions = cluster.handle(Evict(7, "n2"))
    fenced = persisted(cluster)
    assert fenced.ballot == 1
    first, second = (Sent(name, Fence(0, 1, frozenset({"n2"}))) for name in node_names(2))
    assert actions == [fenced, first, second]
    assert answer_fence(cluster, first, 11, ("n2", 9)) == []
    committed = answer_fence(cluster, second, 12, ("n2", 10))
    record = the_plan(cluster).latest
    assert (record.start, record.names, record.evictions) == (13, ("n0", "n1"), (("n2", 10),))
    news = the_plan(cluster).records
    assert committed == [
        persisted(cluster),
        *(Send(name, EvictionCommitted(news)) for name in node_names(2)),
        Reply(7, 13),
    ]


def test_minority_evicts_the_majority_only_by_force() -> None:
    cluster = a_started_cluster(4)
    for name in ("n2", "n3"):
        cluster.handle(Disconnected(name))
    assert len(fences(cluster.handle(Evict(1, "n3")))) == 2
    assert len(fences(cluster.handle(Evict(2, "n2")))) == 2  # two of four are not less than half
    assert cluster.handle(Evict(3, "n1")) == [Reply(3, None, "n1 stays: without it 1 of 4 members would be left")]
    (fence,) = fences(cluster.handle(Evict(4, "n1", force=True)))
    assert fence == Send("n0", Fence(0, 3, frozenset({"n1", "n2", "n3"})))
    committed = answer_fence(cluster, fence, 5)
    assert the_plan(cluster).latest.names == ("n0",)
    assert [a.request_id for a in committed if isinstance(a, Reply)] == [1, 2, 4]


def test_request_for_an_eviction_under_way_is_answered_with_it() -> None:
    cluster = a_started_cluster(3)
    (first, second) = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    assert cluster.handle(Evict(5, "n2")) == []
    answer_fence(cluster, first, 7)
    assert only(Reply, answer_fence(cluster, second, 7)) == Reply(5, 8)


def test_last_member_is_never_evicted_min_nodes_only_by_force() -> None:
    assert only(Reply, a_started_cluster(1).handle(Evict(1, "n0", force=True))).start is None
    cluster = a_started_cluster(3, min_nodes=3)
    assert only(Reply, cluster.handle(Evict(1, "n2"))).error == "n2 stays: without it 2 of 3 members would be left"
    assert len(fences(cluster.handle(Evict(2, "n2", force=True)))) == 2
    assert cluster.handle(Evict(3, "n9")) == [Reply(3, None, "n9 is not a member")]


def test_promises_to_an_older_ballot_do_not_count() -> None:
    cluster = a_started_cluster(4)
    old = fences(cluster.handle(Evict(1, "n3")))
    new = fences(cluster.handle(Evict(2, "n2")))
    assert [answer_fence(cluster, fence, 5) for fence in old] == [[], [], []]
    assert answer_fence(cluster, new[0], 5) == []
    assert "EvictionCommitted" in kinds(answer_fence(cluster, new[1], 5))


def test_offer_to_an_evicted_member_is_made_again() -> None:
    cluster = a_started_cluster(3)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert offer.node == "n0"
    cluster.handle(Disconnected("n0"))
    for fence in fences(cluster.handle(Evict(2, "n0"))):
        answer_fence(cluster, fence, 5)
    eviction = the_plan(cluster).latest
    assert (eviction.number, eviction.schedule.graphs) == (1, (A,))
    again = [a for name in ("n1", "n2") for a in progress(cluster, name, eviction.start)]
    assert (only(Offer, again).record.number, only(Offer, again).record.schedule.graphs) == (2, (B,))


def test_fence_begins_again_over_a_node_that_joins_while_it_is_up() -> None:
    """Two newcomers, neighbours in the graph, passed the round of an eviction that had not asked them."""
    cluster = a_started_cluster(3)
    cluster.handle(join("n3"))
    offer = only(Offer, cluster.handle(Reported("n3", Fetched())))
    old = fences(cluster.handle(Evict(5, "n2")))
    assert [fence.node for fence in old] == ["n0", "n1"]
    joined = answer(cluster, offer, True, 1)
    new = fences(joined)
    assert kinds(joined) == ["Persist", "Welcome", "Persist", "Fence", "Fence", "Fence"]
    assert [(fence.node, fence.ballot) for fence in new] == [("n0", 2), ("n1", 2), ("n3", 2)]
    assert [answer_fence(cluster, fence, 1) for fence in (*old, *new[:2])] == [[], [], [], []]
    committed = answer_fence(cluster, new[2], offer.record.start + 1)
    assert only(Reply, committed) == Reply(5, offer.record.start + 2)
    assert the_plan(cluster).latest.names == ("n0", "n1", "n3")


def test_newcomer_that_died_during_a_fence_is_evicted_after_it() -> None:
    """Its fence must not wait for the node that the first one evicted, nor rest on a promise from before its end."""
    cluster = a_started_cluster(3)
    cluster.handle(join("n3"))
    offer = only(Offer, cluster.handle(Reported("n3", Fetched())))
    cluster.handle(Disconnected("n3"))
    cluster.handle(join("n3", process="another"))
    known = the_plan(cluster).extend(offer.record).records
    first, second = fences(cluster.handle(Evict(5, "n2")))
    assert cluster.handle(Reported(first.node, FenceAnswer(0, 1, 2, (("n2", 1),), known))) == []
    actions = cluster.handle(Reported(second.node, FenceAnswer(0, 1, 2, (("n2", 1),), known)))
    assert the_plan(cluster).latest.names == ("n0", "n1", "n3")
    *_, last, fence = [a for a in actions if isinstance(a, Send) and a.node == "n0"]
    assert [type(last.order), fence] == [EvictionCommitted, fences(actions)[-2]]
    assert (cluster.evictions.evicted, cluster.evictions.awaited) == ({"n3"}, {"n0", "n1"})
    for fence in fences(actions)[-2:]:
        answer_fence(cluster, fence, offer.record.start + 1)
    assert the_plan(cluster).latest.names == ("n0", "n1")


def test_last_member_stays_if_the_other_left_during_the_fence() -> None:
    cluster = a_started_cluster(2)
    offer = only(Offer, cluster.handle(Reported("n0", Leave())))
    fence = only(Fence, cluster.handle(Evict(2, "n1")))
    assert kinds(answer(cluster, offer, True, 1)) == ["Persist"]
    lifted = answer_fence(cluster, fence, 0)
    plan = the_plan(cluster)
    assert lifted == [
        Send("n0", EvictionCommitted(plan.records)),
        Send("n1", EvictionCommitted(plan.records)),
        Reply(2, None, "n1 stays: without it 0 of 1 members would be left"),
    ]
    assert (plan.latest, cluster.evictions.evicted) == (offer.record, frozenset())


def test_recovering_controller_breaks_no_tie_before_all_reports() -> None:
    """Its predecessor may have evicted the half that it knows, and the other half may have finished."""
    plan = the_plan(a_started_cluster(2))
    cluster = QuietCluster(a_run_spec(2), Leadership(1), recover=True)
    cluster.handle(reconnect("n1", plan))
    progress(cluster, "n1", 8)
    (reply,) = cluster.handle(Evict(5, "n0"))
    assert reply == Reply(5, None, "n0 stays: without it 1 of 2 members would be left")
    cluster.handle(reconnect("n0", plan))
    progress(cluster, "n0", 8)
    assert only(Fence, cluster.handle(Evict(6, "n0"))).node == "n1"


def test_fence_of_a_lost_controller_waits_until_its_plan_is_known() -> None:
    """n3 had joined by a record that neither this controller nor the fenced n1 knows. It counts for the majority."""
    before = a_started_cluster(3)
    old = the_plan(before)
    before.handle(join("n3", process="new"))
    answer(before, only(Offer, before.handle(Reported("n3", Fetched()))), True, 0)
    plan = the_plan(before)
    fence = only(Fence, [a for a in before.handle(Evict(UNREQUESTED, "n0")) if getattr(a, "node", "") == "n1"])
    assert fence.number == plan.latest.number > old.latest.number
    again = QuietCluster(a_run_spec(3), Leadership(1), recover=True)
    shown = Fence(fence.term, fence.ballot, fence.evicted, fence.number, fence.run_id)
    assert kinds(again.handle(join("n1", running=True, plan=old, fence=shown))) == ["Persist"]  # it stays fenced
    orders = again.handle(join("n3", running=True, plan=plan))
    assert {order.node for order in fences(orders)} == {"n1", "n3"} and again.evictions.evicted == {"n0"}
    assert not all_of(EvictionCommitted, orders)  # which would free n1 from its promise


WAITING = Fence(0, 1, frozenset({"n0"}), number=1)  # of a lost controller that knew one record more


def a_cluster_behind_a_waiting_fence(nodes: int) -> tuple[QuietCluster, Plan]:
    """A recovering controller to which n1 and n2 have come with a fence whose record it does not know."""
    plan = the_plan(a_started_cluster(nodes))
    cluster = QuietCluster(a_run_spec(nodes), Leadership(1), recover=True)
    for name in ("n1", "n2"):
        assert fences(cluster.handle(join(name, running=True, plan=plan, fence=WAITING))) == []
    return cluster, plan


def test_fence_of_a_lost_controller_waits_no_longer_if_no_member_knows_its_plan() -> None:
    cluster, plan = a_cluster_behind_a_waiting_fence(3)
    assert {order.node for order in fences(cluster.handle(reconnect("n0", plan)))} == {"n1", "n2"}


def test_member_whose_fence_waits_gets_the_next_fence() -> None:
    cluster, plan = a_cluster_behind_a_waiting_fence(4)
    assert {order.node for order in fences(cluster.handle(Evict(1, "n0", force=True)))} == {"n1", "n2"}
    (again,) = fences(cluster.handle(join("n3", running=True, plan=plan, fence=WAITING)))
    assert again.node == "n3"


def test_fence_that_waited_ends_if_the_plan_has_its_eviction() -> None:
    before = a_started_cluster(4)
    old = the_plan(before)
    for fence in fences(before.handle(Evict(UNREQUESTED, "n3"))):
        answer_fence(before, fence, 5)
    middle = the_plan(before)
    for fence in fences(before.handle(Evict(UNREQUESTED, "n0"))):
        answer_fence(before, fence, 7)
    again = QuietCluster(a_run_spec(3), Leadership(1), recover=True)
    shown = Fence(0, 2, frozenset({"n0"}), middle.latest.number)
    again.handle(join("n1", running=True, plan=old, fence=shown))
    orders = again.handle(join("n2", running=True, plan=the_plan(before)))
    assert Send("n1", EvictionCommitted(the_plan(before).records[1:])) in orders and not fences(orders)


@pytest.mark.parametrize(("nodes", "evicted"), [(2, False), (3, True)])
def test_recovering_controller_needs_a_majority_against_a_revoked_key(nodes: int, evicted: bool) -> None:
    """The revoked n1 may be the survivor of an eviction of n0 that this controller has lost."""
    plan = a_plan_with_keys(nodes)
    again = QuietCluster(a_run_spec(nodes), Leadership(1), recover=True)
    again.handle(Revoke(frozenset({"key of n1"})))
    for name in node_names(nodes):
        if name != "n1":
            again.handle(reconnect(name, plan))
    assert again.evictions.evicted == ({"n1"} if evicted else frozenset())
    again.handle(Evict(7, "n1", force=True))
    assert again.evictions.evicted == {"n1"}


def a_plan_with_keys(nodes: int) -> Plan:
    cluster = QuietCluster(a_run_spec(nodes))
    for name in node_names(nodes):
        cluster.handle(join(name, key=f"key of {name}"))
    return the_plan(cluster)


# --- the graph of the operator ----------------------------------------------------------------------

MINE = GraphSpec("mine", (("n0", "n1"), ("n1", "n2"), ("n2", "n3"), ("n3", "n0"), ("n2", "n0")))


def a_cluster_on_my_graph() -> QuietCluster:
    cluster = a_started_cluster(4)
    offer = only(Offer, cluster.handle(Rotate(1, (MINE,), Period(1))))
    answer(cluster, offer, True, 0)
    for name in node_names():
        progress(cluster, name, offer.record.start)
    return cluster


def evict(cluster: QuietCluster, name: str) -> Reply:
    actions: list[ClusterAction] = []
    for fence in fences(cluster.handle(Evict(9, name))):
        actions = answer_fence(cluster, fence, the_plan(cluster).latest.start)
    return next(action for action in actions if isinstance(action, Reply) and action.request_id == 9)


def rejoin(cluster: QuietCluster, name: str) -> None:
    for other in the_plan(cluster).latest.names:
        progress(cluster, other, the_plan(cluster).latest.start)
    cluster.handle(Disconnected(name))
    cluster.handle(join(name, process="next"))
    offer = only(Offer, cluster.handle(Reported(name, Fetched())))
    answer(cluster, offer, True, offer.record.start - 9)


def test_rest_of_a_list_of_edges_is_kept_after_an_eviction() -> None:
    cluster = a_cluster_on_my_graph()
    reply = evict(cluster, "n3")
    assert reply.difference == cluster.state.difference == "graph mine is used without the edges of n3"
    assert the_plan(cluster).latest.schedule.graphs == (MINE.among(("n0", "n1", "n2")),)


def test_unconnected_rest_is_replaced_and_the_reply_says_why() -> None:
    cluster = a_cluster_on_my_graph()
    reply = evict(cluster, "n1")
    assert reply.difference.startswith("graph a is used instead of mine: without n1, mine is not strongly connected")
    assert the_plan(cluster).latest.schedule.graphs == (A,)


def test_requested_graph_returns_with_the_evicted_node() -> None:
    """A regression: preset a stayed for good."""
    cluster = a_cluster_on_my_graph()
    evict(cluster, "n1")
    rejoin(cluster, "n1")
    assert the_plan(cluster).latest.schedule.graphs == (MINE,)
    assert cluster.state.difference == ""


def test_requested_graph_returns_after_two_evictions_and_a_restart() -> None:
    cluster = a_cluster_on_my_graph()
    evict(cluster, "n1")
    evict(cluster, "n3")
    again = QuietCluster(cluster.state.run_spec, Leadership(1), persisted(cluster))
    assert again.state.difference == cluster.state.difference != ""
    for name in ("n0", "n2"):
        again.handle(reconnect(name, the_plan(cluster)))
    rejoin(again, "n3")
    assert again.state.difference.startswith("graph a is used instead of mine: without n1")
    rejoin(again, "n1")
    assert the_plan(again).latest.schedule.graphs == (MINE,)


def test_recovering_controller_finds_the_requested_graph_in_the_plan() -> None:
    cluster = a_cluster_on_my_graph()
    evict(cluster, "n1")
    again = QuietCluster(cluster.state.run_spec, recover=True)
    for name in ("n0", "n2", "n3"):
        again.handle(reconnect(name, the_plan(cluster)))
    assert again.state.difference == cluster.state.difference
    rejoin(again, "n1")
    assert the_plan(again).latest.schedule.graphs == (MINE,)


def test_recovering_controller_finds_a_graph_that_did_not_fit_at_first() -> None:
    """A regression: the graph that was used in its place was taken for the requested one."""
    spokes = GraphSpec("spokes", (("n0", "n1"), ("n1", "n0"), ("n1", "n3"), ("n3", "n1"), ("n0", "n2"), ("n2", "n0")))
    cluster = a_cluster_on_my_graph()
    cluster.handle(Rotate(1, (spokes,), Period(1)))
    evict(cluster, "n1")
    offers = [a for n in ("n0", "n2", "n3") for a in progress(cluster, n, the_plan(cluster).latest.start)]
    answer(cluster, only(Offer, offers), True, the_plan(cluster).latest.start)
    assert cluster.state.difference.startswith("graph a is used instead of spokes: without n1")
    evict(cluster, "n3")
    again = QuietCluster(cluster.state.run_spec, recover=True)
    for name in ("n0", "n2"):
        again.handle(reconnect(name, the_plan(cluster)))
    assert the_plan(again).latest.schedule.graphs == (spokes.among(("n0", "n2")),)
    assert again.state.requested == the_plan(again).latest.schedule


def test_newcomer_that_the_list_does_not_name_replaces_it_until_it_leaves() -> None:
    cluster = a_cluster_on_my_graph()
    rejoin(cluster, "n9")
    assert cluster.state.difference == "graph a is used instead of mine: mine has no edge of n9"
    evict(cluster, "n9")
    assert (the_plan(cluster).latest.schedule.graphs, cluster.state.difference) == ((MINE,), "")


def test_another_graph_ends_the_request_for_the_first() -> None:
    cluster = a_cluster_on_my_graph()
    evict(cluster, "n1")
    for name in ("n0", "n2", "n3"):
        progress(cluster, name, the_plan(cluster).latest.start)
    answer(cluster, only(Offer, cluster.handle(Rotate(2, (B,), Period(1)))), True, the_plan(cluster).latest.start)
    rejoin(cluster, "n1")
    assert (the_plan(cluster).latest.schedule.graphs, cluster.state.difference) == ((B,), "")


# --- after an eviction ------------------------------------------------------------------------------


def test_zombie_with_another_record_of_that_number_is_notified() -> None:
    """The controller had offered it a record, and dropped the offer when it evicted the node."""
    cluster = a_started_cluster(3)
    old = the_plan(cluster)
    offered = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    for fence in fences(cluster.handle(Evict(2, "n0"))):
        answer_fence(cluster, fence, 5)
    cluster.handle(Disconnected("n0"))
    orders = cluster.handle(reconnect("n0", old.extend(offered.record)))
    assert only(EvictionCommitted, orders) == Send("n0", EvictionCommitted(the_plan(cluster).records[1:]))


def test_recovering_controller_notifies_a_zombie_once_it_knows() -> None:
    before = a_started_cluster(3)
    old = the_plan(before)
    for fence in fences(before.handle(Evict(UNREQUESTED, "n2"))):
        answer_fence(before, fence, 5)
    plan = the_plan(before)
    again = QuietCluster(a_run_spec(3), Leadership(1), recover=True)
    again.handle(join("n2", plan=old, running=True, follows=FIRST))
    orders = again.handle(join("n0", plan=plan, running=True, follows=FIRST))
    assert only(EvictionCommitted, orders) == Send("n2", EvictionCommitted(plan.records))


@pytest.mark.parametrize("running", [False, True], ids=["newcomer", "zombie"])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_recovering_controller_takes_the_eviction_for_the_change_it_outran(first: bool, running: bool) -> None:
    """The evicted node had accepted a record that nobody else knows, whoever connects first."""
    before = a_started_cluster(3)
    offer = only(Offer, before.handle(Rotate(1, (B,), Period(1))))
    forked = the_plan(before).extend(offer.record)
    for fence in fences(before.handle(Evict(UNREQUESTED, offer.node))):
        answer_fence(before, fence, 5)
    evicted = join(offer.node, plan=forked, saved=frozenset({3}), running=running, follows=FIRST if running else None)
    left = [join(name, plan=the_plan(before), running=True, follows=FIRST) for name in the_plan(before).latest.names]
    again = QuietCluster(a_run_spec(3), Leadership(1), recover=True)
    reports = [evicted, *left] if first else [*left, evicted]
    actions = [action for report in reports for action in again.handle(report)]
    for fence in fences(actions):  # of the newcomer that is believed to be a member
        answer_fence(again, fence, 5)
    assert the_plan(again) == the_plan(before)
    assert again.state.requested == before.state.requested
    assert not again.evictions.evicted


def test_end_of_a_fence_is_sent_again_before_the_next_offer() -> None:
    cluster = a_started_cluster(3)
    old = the_plan(cluster)
    for fence in fences(cluster.handle(Evict(1, "n2"))):
        answer_fence(cluster, fence, 5)
    for name in node_names(2):
        progress(cluster, name, 6)
    offer = only(Offer, cluster.handle(Rotate(2, (B,), Period(1))))
    cluster.handle(Disconnected(offer.node))
    again = cluster.handle(join(offer.node, running=True, plan=old, fence=Fence(0, 1, frozenset({"n2"}))))
    assert again == [Send(offer.node, EvictionCommitted(the_plan(cluster).records[1:])), offer]


# --- nodes that have ended --------------------------------------------------------------------------


def test_farewell_replaces_every_later_promise() -> None:
    """A farewell counts for every fence: only its node may know which rounds the evicted have begun."""
    cluster = a_started_cluster(4)
    finish(cluster, "n0", begun=999, begun_rounds={"n2": 998})
    cluster.handle(Disconnected("n0"))
    sent = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    assert [fence.node for fence in sent] == ["n1", "n3"]
    assert cluster.evictions.awaited == {"n1", "n3"}
    answer_fence(cluster, sent[0], 998)
    answer_fence(cluster, sent[1], 998)
    record = the_plan(cluster).latest
    assert (record.start, record.evictions) == (1000, (("n2", 998),))


def test_farewell_during_a_fence_is_a_promise() -> None:
    cluster = a_started_cluster(3)
    first, _ = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    answer_fence(cluster, first, 998)
    assert "EvictionCommitted" in kinds(finish(cluster, "n1"))
    assert the_plan(cluster).latest.evictions == (("n2", -1),)


def test_leaver_that_has_exited_can_be_evicted() -> None:
    cluster = a_started_cluster(3)
    offer = only(Offer, cluster.handle(Reported("n2", Leave())))
    answer(cluster, offer, accepted=True, next_round=0)
    start = offer.record.start
    for name in node_names(3):
        progress(cluster, name, start)
    cluster.handle(Disconnected("n2"))
    first, second = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    answer_fence(cluster, first, start, ("n2", start - 1))
    answer_fence(cluster, second, start)
    assert the_plan(cluster).latest.evictions == (("n2", start - 1),)
    assert cluster.handle(Evict(2, "n2")) == [Reply(2, None, "n2 is not a member")]
