"""How a run is created, and how it resumes when all of its members were down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgenode.core.protocol.events import (
    UNREQUESTED,
    Disconnected,
    Evict,
    Reply,
    Reported,
    Rotate,
    Send,
    Stop,
)
from edgenode.core.protocol.orders import (
    Fetched,
    Leadership,
    Offer,
    Refuse,
    Sponsor,
    Welcome,
)
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize, Epoch
from edgenode.core.topology.schedule import Period, ScheduleSpec
from tests.core.protocol.cluster_driver import (
    A,
    B,
    C,
    QuietCluster,
    a_run_spec,
    a_started_cluster,
    all_of,
    answer,
    finish,
    join,
    kinds,
    node_names,
    only,
    persisted,
    progress,
    the_plan,
)

# --- a new run --------------------------------------------------------------------------------------


def test_run_is_created_when_the_last_node_connects() -> None:
    cluster = QuietCluster(a_run_spec(3))
    assert cluster.state.missing == 3
    assert cluster.handle(join("n2")) == cluster.handle(join("n0")) == []
    assert cluster.state.missing == 1
    welcomes = cluster.handle(join("n1"))
    plan = the_plan(cluster)
    assert welcomes == [persisted(cluster), *(Send(name, Welcome(plan, 0)) for name in node_names(3))]
    assert [(m.node, m.address) for m in plan.latest.members] == [(n, f"{n}.local:1") for n in node_names(3)]
    assert cluster.state.missing == 0


def test_an_epoch_is_one_pass_of_the_mean_node() -> None:
    cluster = QuietCluster(a_run_spec(2, schedule=ScheduleSpec((A, B), Period(3, "epochs"))))
    cluster.handle(join("n0", data=DataSize(400, 32)))
    cluster.handle(join("n1", data=DataSize(100, 32)))
    plan = the_plan(cluster)
    assert plan.latest.epoch == cluster.state.epoch == Epoch(250, 8)
    assert plan.latest.schedule.every == 24
    assert plan.successor(30).epoch == Epoch(250, 8)


def test_node_that_disconnects_before_the_start_is_waited_for() -> None:
    cluster = QuietCluster(a_run_spec(2))
    cluster.handle(join("n0"))
    cluster.handle(Disconnected("n0"))
    assert cluster.handle(join("n1")) == []
    assert kinds(cluster.handle(join("n0"))) == ["Persist", "Welcome", "Welcome"]


def test_unconnected_schedule_refuses_all_nodes() -> None:
    one_way = GraphSpec("one-way", (("n0", "n1"),))
    cluster = QuietCluster(a_run_spec(2, schedule=ScheduleSpec((one_way,))))
    cluster.handle(join("n0"))
    actions = cluster.handle(join("n1"))
    assert [a.node for a in all_of(Refuse, actions)] == node_names(2)
    assert all("no path n1->n0" in a.reason for a in all_of(Refuse, actions))
    assert cluster.state.plan is None
    assert cluster.state.missing == 2


# --- resuming ---------------------------------------------------------------------------------------


def test_run_resumes_from_the_newest_round_that_all_have_saved() -> None:
    old = the_plan(a_started_cluster(2))
    cluster = QuietCluster(a_run_spec(2))
    cluster.handle(join("n0", saved=frozenset({0, 20, 40}), plan=old))
    welcomes = cluster.handle(join("n1", saved=frozenset({20, 0}), plan=old, address="moved:7"))
    plan = the_plan(cluster)
    assert welcomes == [persisted(cluster), *(Send(name, Welcome(plan, 20)) for name in node_names(2))]
    assert (plan.latest.number, plan.latest.parent, plan.latest.start) == (1, old.latest.digest, 20)
    assert plan.latest.members[1].address == "moved:7"


def test_restarted_controller_resumes_all_with_new_incarnations() -> None:
    before = a_started_cluster(2)
    cluster = QuietCluster(before.state.run_spec, Leadership(1), persisted(before))
    plan = the_plan(before)
    assert cluster.handle(join("n0", saved=frozenset({0, 50, 100}), plan=plan, process="x")) == []
    actions = cluster.handle(join("n1", saved=frozenset({0, 50}), plan=plan, process="y"))
    resumed = the_plan(cluster)
    assert actions == [persisted(cluster), *(Send(name, Welcome(resumed, 50)) for name in node_names(2))]
    assert (resumed.latest.number, resumed.latest.start, resumed.latest.term) == (1, 50, 1)
    assert [m.incarnation for m in resumed.latest.members] == [1, 1]


@pytest.mark.parametrize(("saved", "resumes"), [({"n0": 40, "n1": 40}, True), ({"n0": 40, "n1": 20}, False)])
def test_restarted_controller_waits_for_no_leaver_that_all_passed(saved: dict[str, int], resumes: bool) -> None:
    old = the_plan(a_started_cluster(3))
    left = old.extend(old.successor(30, members=old.latest.members[:2], handoffs=(("n2", "n0"),)))
    cluster = QuietCluster(a_run_spec(3), Leadership(1), replace(persisted(a_started_cluster(3)), plan=left))
    assert cluster.handle(join("n0", saved=frozenset({0, saved["n0"]}), plan=left, process="x")) == []
    assert cluster.state.waits_for == {"n1", "n2"}
    actions = cluster.handle(join("n1", saved=frozenset({0, saved["n1"]}), plan=left, process="y"))
    assert kinds(actions) == (["Persist", "Welcome", "Welcome"] if resumes else [])
    assert cluster.state.waits_for == (frozenset() if resumes else {"n2"})


def test_stopped_run_continues_when_it_is_resumed() -> None:
    old = the_plan(a_started_cluster(2))
    stopped = old.extend(old.successor(30, end=30))
    cluster = QuietCluster(a_run_spec(2))
    for name in node_names(2):
        cluster.handle(join(name, saved=frozenset({30}), plan=stopped))
    assert the_plan(cluster).latest.end is None
    assert the_plan(cluster).latest.number == 2


def test_stop_holds_for_resumed_members_if_others_ended_by_it() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Stop(1)))
    answer(cluster, offer, accepted=True, next_round=0)
    stop = offer.record.start
    for name in node_names(2):
        finish(cluster, name, begun=stop - 1)
    for name in ("n2", "n3"):
        cluster.handle(Disconnected(name))
    old = the_plan(cluster)
    assert cluster.handle(join("n2", saved=frozenset({0}), plan=old, process="again")) == []
    actions = cluster.handle(join("n3", saved=frozenset({0}), plan=old, process="again"))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome"]
    assert (the_plan(cluster).latest.start, the_plan(cluster).latest.end) == (0, stop)


def test_member_without_a_checkpoint_joins_the_resumed_run() -> None:
    old = the_plan(a_started_cluster(3))
    cluster = QuietCluster(a_run_spec(3))
    for name in node_names(2):
        assert cluster.handle(join(name, saved=frozenset({20}), plan=old)) == []
    assert cluster.state.waits_for == {"n2"}
    actions = cluster.handle(join("n2"))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome", "Sponsor"]
    assert (the_plan(cluster).latest.names, the_plan(cluster).latest.start) == (("n0", "n1"), 20)
    assert only(Sponsor, actions).node == "n2"


def test_run_does_not_resume_with_less_than_half() -> None:
    old = the_plan(a_started_cluster(3))
    cluster = QuietCluster(a_run_spec(3))
    cluster.handle(join("n0", saved=frozenset({20}), plan=old))
    cluster.handle(join("n1"))
    refused = cluster.handle(join("n2"))
    assert [r.node for r in all_of(Refuse, refused)] == node_names(3)
    assert "n0 has [20]; n1 has none; n2 has none" in only(Refuse, refused[:1]).reason


def test_resume_waits_for_members_and_lets_newcomers_join() -> None:
    old = the_plan(a_started_cluster(2))
    cluster = QuietCluster(a_run_spec(2))
    cluster.handle(join("n0", saved=frozenset({20}), plan=old))
    assert cluster.handle(join("n9")) == []
    actions = cluster.handle(join("n1", saved=frozenset({20}), plan=old))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome", "Sponsor"]
    assert the_plan(cluster).latest.names == ("n0", "n1")
    assert only(Sponsor, actions).node == "n9"


def test_held_newcomer_is_not_admitted_until_it_is_free() -> None:
    cluster = a_started_cluster(2)
    cluster.hold(frozenset({"n8"}))
    assert cluster.handle(join("n8")) == []
    assert cluster.handle(Reported("n8", Fetched())) == []
    assert only(Sponsor, cluster.handle(join("n9"))).node == "n9"
    cluster.hold(frozenset())
    assert only(Sponsor, progress(cluster, "n0", 5)).node == "n8"


def test_operator_can_give_up_a_member_that_does_not_return() -> None:
    old = the_plan(a_started_cluster(3))
    cluster = QuietCluster(a_run_spec(3))
    for name in node_names(2):
        cluster.handle(join(name, saved=frozenset({20}), plan=old))
    assert only(Reply, cluster.handle(Evict(4, "n2"))).start is None
    actions = cluster.handle(Evict(5, "n2", force=True))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome", "Reply"]
    assert only(Reply, actions).start == 20
    assert the_plan(cluster).latest.names == ("n0", "n1")


def test_rotation_not_in_force_at_the_resume_is_requested_again() -> None:
    before = a_started_cluster(2)
    offer = only(Offer, before.handle(Rotate(1, (B, C), Period(3))))
    answer(before, offer, accepted=True, next_round=0)
    again = QuietCluster(a_run_spec(2), Leadership(1), persisted(before))
    early, late = ({r: join(n, saved=frozenset({r}), plan=the_plan(before)) for r in (2, 50)} for n in node_names(2))
    again.handle(early[2])
    actions = again.handle(late[2])
    assert the_plan(again).latest.schedule.graphs == (A,)
    schedule = only(Offer, actions).record.schedule
    assert (schedule.graphs, schedule.every) == ((B, C), 3)

    again = QuietCluster(a_run_spec(2), Leadership(1), persisted(before))
    again.handle(early[50])
    assert Offer not in map(type, again.handle(late[50]))
    assert the_plan(again).latest.schedule.graphs == (B, C)


def test_stop_and_eviction_expire_when_all_members_went_down() -> None:
    cluster = a_started_cluster(2)
    plan = the_plan(cluster)
    cluster.handle(Rotate(1, (B,), Period(1)))
    cluster.handle(Stop(2))
    cluster.handle(Evict(3, "n1"))
    for name in node_names(2):
        cluster.handle(Disconnected(name))
    cluster.handle(join("n0", process="2", saved=frozenset({0}), plan=plan))
    resumed = cluster.handle(join("n1", process="2", saved=frozenset({0}), plan=plan))
    errors = {a.request_id: a.error for a in resumed if isinstance(a, Reply)}
    assert errors == {
        3: "all members went down before that",
        UNREQUESTED: "stop of all nodes: all members went down before that",  # its operator knows that it was queued
    }
    assert only(Offer, resumed).record.schedule.graphs == (B,)


def test_queued_rotation_survives_that_all_members_went_down() -> None:
    cluster = a_started_cluster(2)
    answer(cluster, only(Offer, cluster.handle(Rotate(1, (B,), Period(1)))), True, 0)
    cluster.handle(Rotate(2, (C,), Period(1)))
    plan = the_plan(cluster)
    for name in node_names(2):
        cluster.handle(Disconnected(name))
    cluster.handle(join("n0", process="2", saved=frozenset({0}), plan=plan))
    resumed = cluster.handle(join("n1", process="2", saved=frozenset({0}), plan=plan))
    assert only(Offer, resumed).record.schedule.graphs == (C,)  # and it replaces b, which was not in force


def test_members_that_died_at_the_end_resume_if_they_are_enough() -> None:
    cluster = a_started_cluster(4)
    plan = the_plan(cluster)
    finish(cluster, "n0")
    for name in node_names():
        cluster.handle(Disconnected(name))
    assert cluster.state.waits_for == {"n1", "n2", "n3"}
    for name in ("n1", "n2"):
        assert cluster.handle(join(name, process="2", saved=frozenset({950}), plan=plan)) == []
    resumed = cluster.handle(join("n3", process="2", saved=frozenset({950}), plan=plan))
    assert [a.round for a in all_of(Welcome, resumed)] == [950] * 3
    assert not cluster.state.over


def test_single_member_that_died_at_the_end_is_refused() -> None:
    cluster = a_started_cluster(3)
    for name in ("n0", "n1"):
        finish(cluster, name)
    for name in node_names(3):
        cluster.handle(Disconnected(name))
    (refusal,) = cluster.handle(join("n2", process="2"))
    assert isinstance(refusal, Send)
    assert isinstance(refusal.order, Refuse)
    assert "no checkpoint round is common to enough members" in refusal.order.reason
