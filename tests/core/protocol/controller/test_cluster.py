"""The controller's decisions when nodes connect, when it restarts, when operators pause, and at the end of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.controller.cluster import Cluster
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
    StepDown,
    Stop,
)
from edgenode.core.protocol.orders import (
    Abort,
    Fence,
    Fetched,
    Halt,
    Hello,
    Leadership,
    Leave,
    LeaveRefused,
    Offer,
    Refuse,
    Welcome,
)
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.schedule import Period, ScheduleSpec
from tests.core.protocol.cluster_driver import (
    FIRST,
    B,
    C,
    QuietCluster,
    a_finished_cluster,
    a_run_spec,
    a_started_cluster,
    all_of,
    answer,
    answer_fence,
    fences,
    finish,
    follower,
    join,
    kinds,
    node_names,
    only,
    persisted,
    progress,
    reconnect,
    sponsor,
    the_plan,
)

# --- a node connects --------------------------------------------------------------------------------


def test_taken_id_is_refused_with_both_addresses() -> None:
    cluster = QuietCluster(a_run_spec())
    cluster.handle(join("n0"))
    reason = only(Refuse, cluster.handle(join("n0", address="other:2"))).reason
    assert "n0.local:1" in reason
    assert "other:2" in reason
    assert cluster.state.missing == 3


def test_other_configuration_is_refused_with_both_digests() -> None:
    reason = only(Refuse, QuietCluster(a_run_spec()).handle(join("n0", run_digest="f00"))).reason
    assert "digest" in reason
    assert "f00" in reason


def test_newcomer_is_sent_to_a_sponsor_and_to_all_members() -> None:
    cluster = a_started_cluster(2)
    members = the_plan(cluster).latest.members
    assert cluster.handle(join("n9")) == [sponsor("n9", members)]


def test_welcome_lost_with_its_link_is_sent_again() -> None:
    cluster = a_started_cluster(2)
    progress(cluster, "n0", 0)
    for name in node_names(2):
        cluster.handle(Disconnected(name))
    assert cluster.handle(join("n1")) == [Send("n1", Welcome(the_plan(cluster), 0))]
    # n0 was in the run, and its x is lost: its old process is dead
    assert only(Fence, cluster.handle(join("n0"))) == Send("n1", Fence(0, 1, frozenset({"n0"})))


def test_member_restarted_while_alone_is_evicted_later() -> None:
    cluster = a_started_cluster(2)
    for name in node_names(2):
        cluster.handle(Disconnected(name))
    assert cluster.handle(join("n0", process="second")) == []
    again = cluster.handle(join("n1"))
    assert again[0] == Send("n1", Welcome(the_plan(cluster), 0))
    assert only(Fence, again) == Send("n1", Fence(0, 1, frozenset({"n0"})))


def test_member_of_another_run_is_refused_with_both_plans() -> None:
    ours, theirs = a_started_cluster(2), the_plan(a_started_cluster(2, schedule=ScheduleSpec((B,))))
    ours.handle(Disconnected("n0"))
    reason = only(Refuse, ours.handle(reconnect("n0", theirs))).reason
    assert the_plan(ours).latest.digest in reason
    assert theirs.latest.digest in reason


def test_reconnected_member_is_not_evicted() -> None:
    cluster = a_started_cluster(2)
    for name in node_names(2):
        progress(cluster, name, 5)
    cluster.handle(Disconnected("n1"))
    assert cluster.handle(reconnect("n1", the_plan(cluster))) == []


def test_new_process_of_a_member_proves_that_the_old_one_is_dead() -> None:
    cluster = a_started_cluster(2, min_nodes=2)  # the proof counts like force
    for name in node_names(2):
        progress(cluster, name, 5)
    cluster.handle(Disconnected("n1"))
    actions = cluster.handle(join("n1", process="second"))
    assert fences(actions) == [Send("n0", Fence(0, 1, frozenset({"n1"})))]
    committed = answer_fence(cluster, fences(actions)[0], 5, ("n1", 4))
    assert the_plan(cluster).latest.evictions == (("n1", 4),)
    assert kinds(committed) == ["Persist", "EvictionCommitted", "Sponsor"]  # and the new process may join
    progress(cluster, "n0", the_plan(cluster).latest.start)
    assert only(Offer, cluster.handle(Reported("n1", Fetched()))).record.members[1] == Member("n1", 1, "n1.local:1")


# --- leadership -------------------------------------------------------------------------------------


def test_greeting_is_the_first_order_of_every_link() -> None:
    leadership = Leadership(0, "abc", "10.0.0.5:7700")
    for cluster in (Cluster(a_run_spec(1), leadership), Cluster(a_run_spec(2), leadership)):
        assert cluster.handle(join("n0"))[0] == Send("n0", Hello(replace(leadership, run_id="abc")))


@pytest.mark.parametrize("leader", [Leadership(1, "abc", "10.0.0.5:7700"), Leadership(0, "other", "10.0.0.6:7700")])
def test_controller_steps_down_and_names_both_controllers(leader: Leadership) -> None:
    newcomer = Cluster(a_run_spec(2), Leadership(0, "abd", "10.0.0.9:7700"), persisted(a_started_cluster(2)))
    reason = only(StepDown, newcomer.handle(follower(leader))).reason
    assert leader.address in reason
    assert "10.0.0.9:7700" in reason


def test_controller_without_a_plan_steps_down_for_any_run() -> None:
    assert kinds(Cluster(a_run_spec(2), Leadership(5, "x")).handle(follower(Leadership(0, "abc")))) == ["StepDown"]


def test_restarted_controller_leads_its_former_followers() -> None:
    again = Cluster(a_run_spec(2), Leadership(1, "b"), persisted(a_started_cluster(2)))
    assert kinds(again.handle(follower(Leadership(0, "a")))) == ["Hello"]


def test_recovering_controller_outranks_the_former_leader() -> None:
    """Even if that one made no record: members have promised its fences, and answer no lower term."""
    cluster = Cluster(a_run_spec(2), Leadership(0, "b"), recover=True)
    assert only(Hello, cluster.handle(follower(Leadership(7, "a")))).leadership.term == 8
    assert cluster.state.leadership.term == 8


# --- a controller restarts --------------------------------------------------------------------------


def test_restarted_controller_continues_in_a_higher_term() -> None:
    before = a_started_cluster(2, term=3)
    cluster = QuietCluster(before.state.run_spec, Leadership(before.state.leadership.term + 1), persisted(before))
    assert cluster.state.plan == before.state.plan
    assert cluster.state.missing == 0
    for name in node_names(2):
        cluster.handle(reconnect(name, the_plan(before)))
        progress(cluster, name, 5)
    record = only(Offer, cluster.handle(Rotate(1, (B,), Period(1)))).record
    assert (record.term, record.parent) == (4, the_plan(before).latest.digest)
    assert only(Fence, cluster.handle(Evict(2, "n1"))).term == 4


def test_recovering_controller_takes_the_newest_plan() -> None:
    plan = the_plan(a_started_cluster(2))
    newer = plan.extend(plan.successor(30))
    cluster = QuietCluster(a_run_spec(2), recover=True)
    assert cluster.handle(reconnect("n0", plan)) == [persisted(cluster)]
    assert cluster.handle(reconnect("n1", newer)) == [persisted(cluster)]
    assert the_plan(cluster) == newer


def test_recovering_controller_leads_in_a_term_above_the_plan() -> None:
    """Its ballots begin at 1. In the old term they would be below what the members have promised."""
    plan = the_plan(a_started_cluster(3))
    cluster = QuietCluster(a_run_spec(3), recover=True)
    cluster.handle(join("n0", running=True, plan=plan, fence=Fence(0, 1, frozenset({"n2"}))))
    actions = cluster.handle(join("n1", running=True, plan=plan, fence=Fence(0, 1, frozenset({"n2"}))))
    assert only(Fence, actions) == Send("n1", Fence(1, 1, frozenset({"n2"})))


def test_recovering_controller_offers_nothing_before_all_reports() -> None:
    """A member without a report may know a record of the former controller. Another of its number would be a fork."""
    plan = the_plan(a_started_cluster(2))
    newer = plan.extend(plan.successor(30))
    cluster = QuietCluster(a_run_spec(2), recover=True)
    cluster.handle(reconnect("n1", plan))
    progress(cluster, "n1", 8)
    assert only(Reply, cluster.handle(Rotate(1, (B,), Period(1)))).waits_for == "a report of n0"
    assert cluster.handle(reconnect("n0", newer)) == [persisted(cluster)]
    progress(cluster, "n1", 30)
    offer = only(Offer, progress(cluster, "n0", 31))
    assert (offer.record.number, offer.record.parent) == (2, newer.latest.digest)


def test_nodes_that_wait_at_a_recovering_controller_may_join() -> None:
    plan = the_plan(a_started_cluster(2))
    cluster = QuietCluster(a_run_spec(2), recover=True)
    assert cluster.handle(join("n9")) == []
    members = plan.latest.members
    assert cluster.handle(reconnect("n0", plan)) == [persisted(cluster), sponsor("n9", members)]
    assert the_plan(cluster) == plan


# --- divergence -------------------------------------------------------------------------------------

DIVERGED = Abort("training diverged at n1 in round 7: the loss is nan")


def test_run_ends_on_every_node_when_training_diverges_at_one() -> None:
    cluster = a_started_cluster(3)
    cluster.handle(join("x"))
    cluster.handle(Rotate(5, (B,), Period(1)))
    actions = cluster.handle(Reported("n1", DIVERGED))
    why = f"the run has failed: {DIVERGED.reason}"
    assert actions == [
        *(Send(n, DIVERGED) for n in node_names(3)),
        Send("x", Refuse(why)),
        Reply(5, None, why),
    ]
    assert cluster.state.over
    assert cluster.state.waits_for == frozenset()
    assert cluster.handle(Reported("n2", DIVERGED)) == []
    assert cluster.handle(Evict(6, "n1")) == [Reply(6, None, why)]
    assert cluster.handle(Pause(7)) == [Reply(7, None, why)]


def test_node_that_connects_to_a_failed_run_learns_why() -> None:
    cluster = a_started_cluster(3)
    plan = the_plan(cluster)
    cluster.handle(Disconnected("n0"))
    cluster.handle(Disconnected("n2"))
    assert cluster.handle(Reported("n1", DIVERGED)) == [Send("n1", DIVERGED)]
    assert cluster.handle(reconnect("n0", plan)) == [Send("n0", DIVERGED)]
    refused = [Send("n2", Refuse(f"the run has failed: {DIVERGED.reason}"))]
    assert cluster.handle(join("n2")) == refused
    assert cluster.handle(join("n2", process="another")) == refused


def test_only_a_member_can_end_the_run() -> None:
    assert QuietCluster(a_run_spec(3)).handle(Reported("n1", DIVERGED)) == []
    cluster = a_started_cluster(3)
    cluster.handle(join("x"))
    assert cluster.handle(Reported("x", DIVERGED)) == []
    (one, other) = all_of(Fence, cluster.handle(Evict(1, "n1")))
    answer_fence(cluster, one, 3)
    answer_fence(cluster, other, 3)
    assert cluster.handle(Reported("n1", DIVERGED)) == []
    assert not cluster.state.over


# --- pausing ----------------------------------------------------------------------------------------


def test_pause_is_persisted_then_sent_to_all_then_answered() -> None:
    cluster = a_started_cluster(2)
    progress(cluster, "n0", 7)
    cluster.handle(join("x"))
    actions = cluster.handle(Pause(3))
    assert actions == [
        replace(persisted(cluster), paused=True),
        *(Send(n, Halt(True)) for n in ("n0", "n1", "x")),
        Reply(3, 7),
    ]
    assert cluster.handle(Pause(4)) == [Reply(4, 7)]
    assert kinds(cluster.handle(Resume(5))) == ["Persist", "Halt", "Halt", "Halt", "Reply"]
    assert not cluster.state.paused
    assert cluster.handle(Resume(6)) == [Reply(6, 7)]


def test_greeting_names_the_pause_after_a_restart_too() -> None:
    first = Cluster(a_run_spec(2), FIRST)
    for name in node_names(2):
        (hello, *_) = first.handle(join(name))
        assert hello == Send(name, Hello(FIRST, paused=False))
    persist = only(Persist, first.handle(Pause(0)))
    second = Cluster(a_run_spec(2), Leadership(1), persist)
    running = join("n0", plan=persist.plan, running=True, follows=FIRST)
    assert second.handle(running)[0] == Send("n0", Hello(Leadership(1), paused=True))
    assert only(Hello, second.handle(join("x"))).paused


def test_recovered_run_is_not_paused() -> None:
    plan = the_plan(a_started_cluster(2))
    recovered = Cluster(a_run_spec(2), FIRST, recover=True)
    hello = only(Hello, recovered.handle(join("n0", plan=plan, running=True, follows=Leadership(0, "lost"))))
    assert not hello.paused


def test_stop_ends_a_pause_and_takes_the_queued_rotation_along() -> None:
    """A run that is started again after the stop uses the graph that was requested."""
    cluster = a_started_cluster(2)
    cluster.handle(Pause(0))
    cluster.handle(Rotate(1, (B,), Period(1)))
    assert cluster.state.paused
    actions = cluster.handle(Stop(2))
    assert kinds(actions) == ["Persist", "Persist", "Halt", "Halt", "Offer"]
    assert not any(a.halted for a in all_of(Halt, actions))
    record = only(Offer, actions).record
    assert (record.end, record.schedule.graphs) == (record.start, (B,))


def test_impossible_pauses_and_leaves_during_a_pause_are_refused() -> None:
    assert QuietCluster(a_run_spec(2)).handle(Pause(0)) == [
        Reply(0, None, "the run has not started: it waits for 2 more nodes")
    ]
    cluster = a_started_cluster(2)
    cluster.handle(Pause(1))
    (refused,) = cluster.handle(Reported("n1", Leave()))
    assert refused == Send("n1", LeaveRefused("the run is paused: a hand-over takes a round"))
    cluster.handle(Stop(3))
    assert cluster.handle(Pause(4)) == [Reply(4, None, "the run is stopping")]


def test_pause_ends_when_a_member_reports_a_stop() -> None:
    """The former controller had offered the stop, and died before the answer."""
    plan = the_plan(a_started_cluster(2))
    again = QuietCluster(a_run_spec(2), Leadership(1), Persist(0, 0, plan))
    again.handle(reconnect("n1", plan))
    again.handle(Pause(1))
    stopping = plan.extend(plan.successor(9, end=9))
    actions = again.handle(reconnect("n0", stopping))
    assert actions == [
        replace(persisted(again), paused=True),
        persisted(again),
        Send("n0", Halt(False)),
        Send("n1", Halt(False)),
    ]


# --- the end of a run -------------------------------------------------------------------------------


def test_everything_is_refused_once_the_run_is_over() -> None:
    cluster = a_finished_cluster()
    why = "the run is over: its members completed all 1000 rounds"
    assert cluster.state.over
    assert cluster.handle(join("n4")) == [Send("n4", Refuse(why))]
    assert cluster.handle(join("n1", process="another")) == [Send("n1", Refuse(why))]
    assert cluster.handle(Rotate(1, (B,), Period(1))) == [Reply(1, None, why)]
    assert cluster.handle(Evict(2, "n0", force=True)) == [Reply(2, None, why)]
    assert cluster.state.waits_for == frozenset()


def test_end_refuses_waiting_newcomers_and_pending_requests() -> None:
    cluster = a_started_cluster(3)
    cluster.handle(join("n4"))
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Rotate(2, (C,), Period(1)))
    assert finish(cluster, "n0") == finish(cluster, "n1") == []
    why = "the run is over: its members completed all 1000 rounds"
    assert finish(cluster, "n2") == [
        Send("n4", Refuse(why)),
        Reply(1, None, why),
        Reply(UNREQUESTED, None, f"graph c: {why}"),  # its operator knows that it was queued
    ]
    assert answer(cluster, offer, accepted=False, next_round=1000) == []


def test_stopped_run_is_over() -> None:
    cluster = a_started_cluster(2)
    offer = only(Offer, cluster.handle(Stop(1)))
    answer(cluster, offer, accepted=True, next_round=0)
    for name in node_names(2):
        finish(cluster, name, begun=offer.record.start - 1)
        cluster.handle(Disconnected(name))
    why = f"the run is over: its members stopped before round {offer.record.start}"
    assert cluster.handle(join("n9")) == [Send("n9", Refuse(why))]


def test_closing_controller_refuses_only_newcomers() -> None:
    cluster = a_started_cluster(3)
    for name in ("n0", "n1"):
        finish(cluster, name)
    cluster.handle(Disconnected("n2"))
    cluster.handle(join("n4"))
    assert [a.node for a in all_of(Refuse, cluster.close())] == ["n4"]
    assert set(cluster.state.membership.present) == {"n0", "n1"}
