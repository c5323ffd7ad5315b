"""Graceful changes of plan: when a record is offered, to which member, and what settles the offer."""

from __future__ import annotations

import re
from dataclasses import replace

from edgenode.core.protocol.events import (
    UNREQUESTED,
    Disconnected,
    Evict,
    Pause,
    Persist,
    Reply,
    Reported,
    Resume,
    Rotate,
    Send,
    Stop,
)
from edgenode.core.protocol.orders import (
    Fence,
    Fetched,
    Leadership,
    Leave,
    LeaveRefused,
    Offer,
    Progress,
    Refuse,
    Welcome,
)
from edgenode.core.protocol.plan.flood import reach
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import PendingChange
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Period
from tests.core.protocol.cluster_driver import (
    A,
    B,
    C,
    QuietCluster,
    a_run_spec,
    a_started_cluster,
    answer,
    join,
    kinds,
    node_names,
    only,
    persisted,
    progress,
    reconnect,
    the_plan,
)

# --- offers -----------------------------------------------------------------------------------------


def test_change_is_offered_to_one_member_far_enough_ahead() -> None:
    cluster = a_started_cluster()
    progress(cluster, "n0", 10)
    offer = only(Offer, cluster.handle(Rotate(7, (B, C), Period(2))))
    record = offer.record
    assert offer.node == "n0"
    assert record.start > 10 + reach(the_plan(cluster), "n0", 10)
    assert (record.schedule.graphs, record.schedule.every, record.schedule.origin) == (
        (B, C),
        2,
        record.start,
    )
    replies = answer(cluster, offer, True, 11)
    assert replies == [persisted(cluster), Reply(7, record.start)]
    assert the_plan(cluster).latest == record


def test_graphs_that_break_the_requirements_are_refused() -> None:
    cluster = a_started_cluster(requirements=Requirements("d-psgd", doubly_stochastic=True))
    (reply,) = cluster.handle(Rotate(1, (GraphSpec("b"), GraphSpec("chord")), Period(1)))
    assert isinstance(reply, Reply)
    assert reply.start is None
    assert reply.error.startswith("d-psgd cannot use chord: its weights are not doubly stochastic")
    assert kinds(cluster.handle(Rotate(2, (GraphSpec("b"),), Period(1)))) == ["Persist", "Offer"]


def test_changes_wait_for_the_one_before_and_are_batched() -> None:
    cluster = a_started_cluster(3)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    start = offer.record.start
    assert answer(cluster, offer, True, 1) == [persisted(cluster), Reply(1, start)]
    queued = cluster.handle(Rotate(2, (A,), Period(5, "epochs")))
    assert kinds(queued) == ["Persist", "Reply"]
    assert cluster.handle(Reported("n2", Leave())) == []
    assert progress(cluster, "n0", start) == progress(cluster, "n2", start) == []
    second = only(Offer, progress(cluster, "n1", start))
    assert (second.record.number, second.record.schedule.graphs, second.record.names) == (2, (A,), ("n0", "n1"))
    assert second.record.schedule.every == 50
    assert answer(cluster, second, True, start + 1) == [persisted(cluster), Reply(UNREQUESTED, second.record.start)]


# --- queued changes ---------------------------------------------------------------------------------


def test_change_behind_another_is_answered_at_once() -> None:
    cluster = a_started_cluster(2)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    start = offer.record.start
    why = f"the change of round {start}"
    assert only(Reply, cluster.handle(Rotate(2, (C,), Period(1)))) == Reply(2, None, "", why, start + 6)
    answer(cluster, offer, True, 1)
    reply = only(Reply, cluster.handle(Stop(3)))
    assert (reply.request_id, reply.waits_for, reply.earliest) == (3, why, start + 6)
    assert [(p.change, p.waits_for) for p in cluster.pending()] == [("graph c", why), ("stop of all nodes", why)]
    progress(cluster, "n0", start)
    second = only(Offer, progress(cluster, "n1", start))
    assert second.record.start >= reply.earliest
    assert cluster.pending() == (
        PendingChange("graph c", "the answer of n0", second.record.start),
        PendingChange("stop of all nodes", "the answer of n0", second.record.start),
    )
    answer(cluster, second, True, start)
    assert cluster.pending() == ()


def test_newest_queued_rotation_replaces_the_older_and_says_so() -> None:
    cluster = a_started_cluster(2)
    answer(cluster, only(Offer, cluster.handle(Rotate(1, (B,), Period(1)))), True, 1)
    cluster.handle(Rotate(2, (C,), Period(1)))
    waits = cluster.handle(Rotate(3, (A, C), Period(6, "epochs"), wait=True))
    assert waits == [Reply(UNREQUESTED, None, "graph c: replaced by graphs a+c, 6ep each"), persisted(cluster)]
    replaced, _, newest = cluster.handle(Rotate(4, (A,), Period(1)))
    assert replaced == Reply(3, None, "replaced by graph a")
    assert isinstance(newest, Reply)
    assert newest.replaces == "graphs a+c, 6ep each"
    assert [p.change for p in cluster.pending()] == ["graph a"]


def test_rotation_that_waits_is_answered_with_its_round() -> None:
    cluster = a_started_cluster(2)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert kinds(cluster.handle(Rotate(2, (C,), Period(1), wait=True))) == ["Persist"]
    answer(cluster, offer, True, 1)
    progress(cluster, "n0", offer.record.start)
    second = only(Offer, progress(cluster, "n1", offer.record.start))
    assert only(Reply, answer(cluster, second, True, 1)) == Reply(2, second.record.start)


def test_rotation_of_a_paused_run_waits_for_the_resume() -> None:
    cluster = a_started_cluster(2)
    cluster.handle(Pause(0))
    assert only(Reply, cluster.handle(Rotate(1, (B,), Period(1)))) == Reply(1, None, "", "the run resumes", 6)
    assert only(Reply, cluster.handle(Rotate(2, (C,), Period(1)))[1:]).replaces == "graph b"
    resumed = cluster.handle(Resume(3))
    assert only(Offer, resumed).record.schedule.graphs == (C,)


def test_newcomer_is_admitted_to_a_paused_run_without_the_rotation() -> None:
    cluster = a_started_cluster(2)
    cluster.handle(Pause(0))
    cluster.handle(Rotate(1, (B,), Period(1)))
    cluster.handle(join("n9"))
    record = only(Offer, cluster.handle(Reported("n9", Fetched()))).record
    assert (record.names, record.schedule.graphs) == (("n0", "n1", "n9"), (A,))
    assert [p.change for p in cluster.pending()] == ["n9 joins", "graph b"]


def test_change_during_an_eviction_waits_for_it() -> None:
    cluster = a_started_cluster(3)
    cluster.handle(Evict(1, "n2"))
    assert only(Reply, cluster.handle(Rotate(2, (B,), Period(1)))).waits_for == "the eviction of n2"


def test_queued_changes_survive_a_restart_of_the_controller() -> None:
    cluster = a_started_cluster(2)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    answer(cluster, offer, True, 1)
    saved = only(Persist, cluster.handle(Rotate(2, (C,), Period(1))))
    again = QuietCluster(a_run_spec(2), Leadership(1), saved)
    for name in node_names(2):
        again.handle(reconnect(name, saved.plan))
    progress(again, "n0", offer.record.start)
    assert only(Offer, progress(again, "n1", offer.record.start)).record.schedule.graphs == (C,)


def test_change_that_members_know_is_not_offered_again_after_a_restart() -> None:
    cluster = a_started_cluster(2)
    persist, offered = cluster.handle(Rotate(1, (B,), Period(1)))
    assert isinstance(persist, Persist) and isinstance(offered, Send) and isinstance(offered.order, Offer)
    again = QuietCluster(a_run_spec(2), Leadership(1), persist)
    again.handle(reconnect("n0", persist.plan.extend(offered.order.record)))
    assert again.pending() == ()
    assert again.state.difference == ""
    assert the_plan(again).latest.schedule.graphs == (B,)


def test_rotation_that_was_replaced_is_not_offered_after_a_restart() -> None:
    """A resume of all can leave two in the queue. The newer one is offered before the queue is persisted again."""
    cluster = a_started_cluster(2)
    persist, offered = cluster.handle(Rotate(1, (C,), Period(1)))
    assert isinstance(persist, Persist) and isinstance(offered, Send) and isinstance(offered.order, Offer)
    saved = replace(persist, queued=(Rotate(UNREQUESTED, (B,), Period(1)), *persist.queued))
    again = QuietCluster(a_run_spec(2), Leadership(1), saved)
    again.handle(reconnect("n0", persist.plan.extend(offered.order.record)))
    assert again.pending() == ()
    assert again.state.requested is not None and again.state.requested.graphs == (C,)


# --- answers to an offer ----------------------------------------------------------------------------


def test_report_of_any_member_with_the_record_settles_the_offer() -> None:
    cluster = a_started_cluster()
    record = only(Offer, cluster.handle(Rotate(1, (B,), Period(1)))).record
    cluster.handle(Disconnected("n0"))
    actions = cluster.handle(Reported("n2", Progress(3, record.number, record.digest)))
    assert actions == [persisted(cluster), Reply(1, record.start)]
    assert the_plan(cluster).latest == record


def test_late_offer_is_replaced_with_twice_the_margin() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    distance = []
    for _ in range(3):
        offer = only(Offer, answer(cluster, offer, False, 100))
        assert (offer.node, offer.record.number) == ("n0", 1)  # no node has the first record: its number is free
        distance.append(offer.record.start - 100 - reach(the_plan(cluster), "n0", 100) - 2)
    assert distance == [8, 16, 32]
    answer(cluster, offer, True, 100)
    for name in node_names():
        progress(cluster, name, offer.record.start)
    fresh = only(Offer, cluster.handle(Rotate(2, (C,), Period(1))))
    assert fresh.record.start - offer.record.start < 10  # after an acceptance the margin is the first one again


def test_lost_answer_repeats_the_same_offer() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Disconnected("n0"))
    second = cluster.handle(Rotate(2, (C,), Period(1)))
    assert kinds(second) == ["Persist", "Reply"]  # no offer to another node, and no other record
    back = join("n0", running=True, plan=the_plan(cluster))
    assert cluster.handle(back) == [offer]


def test_offer_is_not_repeated_to_a_member_with_the_record() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Disconnected("n0"))
    extended = the_plan(cluster).extend(offer.record)
    actions = cluster.handle(join("n0", running=True, plan=extended))
    assert actions == [persisted(cluster), Reply(1, offer.record.start)]
    assert the_plan(cluster) == extended


def test_answer_to_another_offer_changes_nothing() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    mismatch = replace(offer, order=Offer(the_plan(cluster).successor(99)))
    assert answer(cluster, mismatch, True, 1) == answer(cluster, replace(offer, node="n1"), True, 1) == []
    assert len(the_plan(cluster).records) == 1


def test_change_waits_for_a_connected_member() -> None:
    cluster = a_started_cluster(2)
    for name in node_names(2):
        cluster.handle(Disconnected(name))
    assert only(Reply, cluster.handle(Rotate(1, (B,), Period(1)))).waits_for == "a member connects"
    assert only(Offer, cluster.handle(join("n1", running=True, plan=the_plan(cluster)))).node == "n1"


def test_impossible_changes_are_refused_with_the_reason() -> None:
    waiting = QuietCluster(a_run_spec(2))
    assert only(Reply, waiting.handle(Stop(0))).error == "the run has not started: it waits for 2 more nodes"
    cluster = a_started_cluster(2)
    unknown = GraphSpec("file", (("n0", "n7"), ("n7", "n0")))
    assert "unknown node 'n7'" in only(Reply, cluster.handle(Rotate(1, (unknown,), Period(1)))).error
    one_way = GraphSpec("file", (("n0", "n1"),))
    reply = only(Reply, cluster.handle(Rotate(2, (one_way,), Period(1))))
    assert reply.start is None
    assert "not strongly connected: no path n1->n0" in reply.error


def test_changes_too_near_the_end_are_refused() -> None:
    cluster = a_started_cluster(2, rounds=20)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert only(Reply, cluster.handle(Rotate(2, (C,), Period(1)))).waits_for
    replies = [r for r in answer(cluster, offer, False, 20) if isinstance(r, Reply)]
    assert [(r.request_id, r.start, r.error) for r in replies] == [
        (1, None, "replaced by graph c"),
        (UNREQUESTED, None, "graph c: too late: the run ends with round 20"),
    ]
    for name in node_names(2):
        progress(cluster, name, 14)
    assert only(Reply, cluster.handle(Rotate(3, (B,), Period(1)))).error == "too late: the run ends with round 20"


def test_stop_is_one_round_for_all_and_no_change_follows_it() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Stop(1)))
    assert offer.record.end == offer.record.start
    assert only(Reply, cluster.handle(Rotate(2, (B,), Period(1)))).error == "the run is stopping"
    assert answer(cluster, offer, True, 1) == [persisted(cluster), Reply(1, offer.record.end)]
    assert only(Reply, cluster.handle(Stop(3))).error == "the run is stopping"


# --- joining ----------------------------------------------------------------------------------------


def test_newcomer_with_the_model_becomes_a_member_by_a_record() -> None:
    cluster = a_started_cluster(2)
    assert kinds(cluster.handle(join("n9"))) == ["Sponsor"]
    offer = only(Offer, cluster.handle(Reported("n9", Fetched())))
    assert (offer.node, offer.record.names) == ("n0", ("n0", "n1", "n9"))
    start = offer.record.start
    assert answer(cluster, offer, True, 1) == [persisted(cluster), Send("n9", Welcome(the_plan(cluster), start))]
    assert the_plan(cluster).latest.members[-1] == Member("n9", 0, "n9.local:1")
    cluster.handle(Disconnected("n9"))
    assert cluster.handle(join("n9")) == [
        Send("n9", Welcome(the_plan(cluster), start))
    ]  # the first one was lost with its link


def test_newcomer_is_welcome_before_the_fence_for_one_that_died() -> None:
    """A node that is not in the run yet would not promise, and the fence would wait for it without end."""
    cluster = a_started_cluster(2)
    first = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    for name in ("n8", "n9"):
        cluster.handle(join(name))
        cluster.handle(Reported(name, Fetched()))
    answer(cluster, first, True, 1)
    progress(cluster, "n0", first.record.start)
    offer = only(Offer, progress(cluster, "n1", first.record.start))
    cluster.handle(Disconnected("n8"))
    cluster.handle(join("n8", process="another"))
    orders = [
        a.order for a in answer(cluster, offer, True, first.record.start) if isinstance(a, Send) and a.node == "n9"
    ]
    assert [type(order) for order in orders] == [Welcome, Fence]


def test_newcomer_that_disconnects_before_the_offer_is_dropped() -> None:
    cluster = a_started_cluster(2)
    first = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(join("n9"))
    assert cluster.handle(Reported("n9", Fetched())) == []  # it waits for the first change
    cluster.handle(Disconnected("n9"))
    answer(cluster, first, True, 1)
    assert [a for name in node_names(2) for a in progress(cluster, name, first.record.start)] == []
    assert cluster.handle(Reported("n9", Fetched())) == []


def test_newcomer_to_a_run_that_is_nearly_over_is_refused() -> None:
    cluster = a_started_cluster(2, rounds=5)
    cluster.handle(join("n9"))
    assert cluster.handle(Reported("n9", Fetched())) == [Send("n9", Refuse("too late: the run ends with round 5"))]


# --- leaving ----------------------------------------------------------------------------------------


def test_leaver_hands_over_to_a_member_that_stays() -> None:
    cluster = a_started_cluster(3)
    offer = only(Offer, cluster.handle(Reported("n0", Leave())))
    assert (offer.record.names, offer.record.handoffs) == (("n1", "n2"), (("n0", "n1"),))
    assert answer(cluster, offer, True, 1) == [persisted(cluster)]
    assert the_plan(cluster).latest == offer.record


def test_member_that_asks_to_leave_again_and_again_leaves_once() -> None:
    cluster = a_started_cluster(3)
    assert kinds(cluster.handle(Reported("n0", Leave()))) == ["Offer"]
    assert cluster.handle(Reported("n0", Leave())) == []
    assert cluster.pending() == cluster.pending()[:1]


def test_leave_is_refused_to_strangers_and_below_min_nodes() -> None:
    cluster = a_started_cluster(3, min_nodes=2)
    assert cluster.handle(Reported("n9", Leave())) == [Send("n9", LeaveRefused("n9 is not a member"))]
    assert kinds(cluster.handle(Reported("n0", Leave()))) == ["Offer"]
    assert cluster.handle(Reported("n1", Leave())) == [Send("n1", LeaveRefused("n1 cannot leave: 2 nodes must stay"))]


def test_change_that_no_node_would_read_is_refused() -> None:
    names = [f"n{i}" for i in range(4)]
    edges = tuple((a, b) for a in names for b in names if a != b)
    wide = tuple(GraphSpec(f"{'x' * 1000}{i}", edges) for i in range(60))
    cluster = a_started_cluster(4)
    for name in names:
        progress(cluster, name, 0)
    error = only(Reply, cluster.handle(Rotate(1, wide, Period(1)))).error
    assert re.fullmatch(r"the plan of 4 nodes takes \d+ bytes in one record, at most 57344: use fewer nodes, .*", error)
