"""A run that trains longer than it was created to: while it trains, after a stop, and after its end."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from edgenode.core.protocol.events import Answered, Extend, PlanChanged, Received, Reply, Reported, Rotate, Stop, Train
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import Leadership, Offer, OfferAnswer, Progress, Refuse, Welcome
from edgenode.core.protocol.plan.last_phase import end_of, phase_at
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.plan.resume import restore_plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Schedule, ScheduleSpec
from edgenode.errors import GraphError, RemoteProtocolError
from tests.core.protocol.cluster_driver import (
    A,
    B,
    QuietCluster,
    a_finished_cluster,
    a_run_spec,
    a_started_cluster,
    all_of,
    answer,
    join,
    node_names,
    only,
    persisted,
    progress,
    the_plan,
)
from tests.core.protocol.node_driver import a_node, a_plan, from_n1, kinds, play_round, receive, train
from tests.core.protocol.node_driver import only as only_action

ALLREDUCE = ScheduleSpec((A,), last=GraphSpec("allreduce"), last_from=991)


def a_scsp_cluster() -> QuietCluster:
    """991 rounds of training, and 9 of an allreduce of eight nodes."""
    return a_started_cluster(8, schedule=ALLREDUCE, gossip_rounds=9)


def extended(cluster: QuietCluster, rounds: int) -> Plan:
    """The plan after an extension that a member has accepted."""
    offer = only(Offer, cluster.handle(Extend(1, rounds)))
    answer(cluster, offer, accepted=True, next_round=0)
    return the_plan(cluster)


# --- while the run trains ---------------------------------------------------------------------------


def test_extension_moves_the_last_phase_of_every_node() -> None:
    cluster = a_scsp_cluster()
    assert (the_plan(cluster).latest.rounds, end_of(the_plan(cluster), cluster.state.rounds)) == (991, 1000)
    plan = extended(cluster, 2000)
    assert (plan.latest.rounds, plan.latest.schedule.last_from) == (2000, 2000)
    assert (cluster.state.rounds, end_of(plan, cluster.state.rounds)) == (2009, 2009)
    assert phase_at(plan, 991) is None
    assert cluster.state.requested == plan.latest.schedule


def test_extension_is_answered_with_its_round() -> None:
    cluster = a_started_cluster()
    offer = only(Offer, cluster.handle(Extend(7, 1500)))
    assert only(Reply, answer(cluster, offer, accepted=True, next_round=0)) == Reply(7, offer.record.start)


def test_later_changes_keep_the_extension() -> None:
    cluster = a_scsp_cluster()
    start = extended(cluster, 2000).latest.start
    for name in node_names(8):
        progress(cluster, name, start)
    record = only(Offer, cluster.handle(Rotate(2, (B,), Period(1)))).record
    assert (record.rounds, record.schedule.last_from, record.schedule.graphs) == (2000, 2000, (B,))


def test_change_that_began_before_an_extension_is_learned_keeps_it() -> None:
    """The next controller knows the extension from a member, and adapts the graph that was requested before."""
    before = a_scsp_cluster()
    saved = persisted(before)
    plan = extended(before, 2000)
    cluster = QuietCluster(before.state.run_spec, Leadership(1), saved)
    for name in node_names(8):
        cluster.handle(join(name, running=True, plan=plan))
        progress(cluster, name, plan.latest.start)
    record = only(Offer, cluster.handle(Extend(1, 3000))).record
    assert (record.rounds, record.schedule.last_from) == (3000, 3000)


@pytest.mark.parametrize("rounds", [1, 999, 1000])
def test_run_is_not_shortened(rounds: int) -> None:
    reply = only(Reply, a_started_cluster().handle(Extend(1, rounds)))
    assert reply.error == (
        f"the run trains for 1000 rounds already, and {rounds} are not more; it can be extended, but not shortened: "
        "edgenode stop ends it earlier"
    )


def test_extension_counts_from_the_one_that_waits() -> None:
    cluster = a_started_cluster()
    only(Offer, cluster.handle(Extend(1, 1500)))
    assert "1500 rounds already" in only(Reply, cluster.handle(Extend(2, 1200))).error


@pytest.mark.parametrize("at", [985, 991, 995])
def test_extension_at_the_end_of_training_says_what_to_do(at: int) -> None:
    cluster = a_scsp_cluster()
    for name in node_names(8):
        progress(cluster, name, at)
    error = only(Reply, cluster.handle(Extend(1, 2000))).error
    assert error.startswith("too late: training ends before round 991, and round ")
    assert "let the run end, set run.rounds = 2000, and start the controller and the nodes again" in error


def test_extension_that_comes_too_late_takes_no_other_change_with_it() -> None:
    """An allreduce has no room for it after training, but the gossip on the run's own graphs has for a rotation."""
    cluster = a_started_cluster(2, rounds=100, gossip_rounds=50)
    for name in node_names(2):
        progress(cluster, name, 30)
    first = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Extend(2, 80))
    cluster.handle(Rotate(3, (A,), Period(1)))
    answer(cluster, first, accepted=True, next_round=30)
    progress(cluster, "n0", 46)
    actions = progress(cluster, "n1", 46)
    errors = [reply.error for reply in all_of(Reply, actions)]
    assert len(errors) == 1
    assert errors[0].startswith("training for 80 rounds: too late: training ends before round 50")
    assert only(Offer, actions).record.rounds == 50


def test_queued_extension_survives_a_restart_and_a_resume_of_all() -> None:
    before = a_started_cluster(2)
    only(Offer, before.handle(Rotate(1, (B,), Period(1))))
    before.handle(Extend(2, 1500))
    cluster = QuietCluster(before.state.run_spec, Leadership(1), persisted(before))
    plan = the_plan(before)
    for name in node_names(2):
        actions = cluster.handle(join(name, saved=frozenset({50}), plan=plan, process="again"))
    assert [change.change for change in cluster.pending()] == ["graph b", "training for 1500 rounds"]
    assert only(Offer, actions).record.rounds == 1500


def test_extension_that_a_member_knows_already_is_answered() -> None:
    before = a_started_cluster(2)
    only(Offer, before.handle(Extend(1, 1500)))
    saved = persisted(before)
    plan = extended(a_started_cluster(2), 1500)
    cluster = QuietCluster(before.state.run_spec, Leadership(1), saved)
    for name in node_names(2):
        actions = cluster.handle(join(name, running=True, plan=plan))
    actions = [*actions, *(a for name in node_names(2) for a in progress(cluster, name, plan.latest.start))]
    assert all_of(Offer, actions) == []
    assert cluster.pending() == ()


def test_stopping_run_is_not_extended() -> None:
    cluster = a_started_cluster()
    only(Offer, cluster.handle(Stop(1)))
    assert only(Reply, cluster.handle(Extend(2, 2000))).error == "the run is stopping"


def test_member_that_knows_an_extension_may_be_past_the_old_end() -> None:
    """Its report, too: the controller learns by the same report that the offer was accepted."""
    cluster = a_started_cluster(1, rounds=20)
    record = only(Offer, cluster.handle(Extend(1, 40))).record
    cluster.handle(Reported("n0", Progress(25, record.number, record.digest)))
    assert the_plan(cluster).latest == record
    with pytest.raises(RemoteProtocolError, match="of a run of 40 rounds"):
        progress(cluster, "n0", 41)


# --- a node -----------------------------------------------------------------------------------------


def test_node_trains_on_past_the_old_end() -> None:
    node = a_node("n0", a_plan(2, rounds=3), 3)
    node.start()
    record = node.state.plan.successor(3, rounds=5)
    assert only_action(OfferAnswer, node.handle(Offer(record))).accepted
    for t in range(2):
        play_round(node, t)
    train(node)
    assert only_action(Train, receive(node, 2)).round == 3
    play_round(node, 3)
    train(node)
    assert kinds(receive(node, 4)) == ["Answer", "Mixed", "Save", "Await"]


def test_node_learns_an_extension_with_a_push_of_the_round_after_the_old_end() -> None:
    """Its sender is ahead: it has mixed what this node has pushed."""
    node = a_node("n0", a_plan(2, rounds=3), 3)
    node.start()
    record = node.state.plan.successor(3, rounds=5)
    plan = node.state.plan.extend(record)
    receive(node, 0)
    train(node)
    message = replace(from_n1(node, 3), number=1, digest=plan.at(3).digest, records=(record,))
    assert only_action(PlanChanged, node.handle(Received(message))).record == record
    assert node.state.end == 5


def test_node_that_has_ended_takes_no_extension() -> None:
    node = a_node("n0", a_plan(2, rounds=1), 1)
    node.start()
    play_round(node, 0)
    assert not only_action(OfferAnswer, node.handle(Offer(node.state.plan.successor(9, rounds=20)))).accepted
    assert kinds(node.handle(Answered("n1", Ack(0, Verdict.OK, 0)))) == ["Finish"]


def test_record_does_not_shorten_a_run() -> None:
    plan = a_plan(2, rounds=9)
    with pytest.raises(RemoteProtocolError, match="record 1 shortens the run to 8 rounds"):
        plan.extend(plan.successor(5, rounds=8))


# --- by the file ------------------------------------------------------------------------------------


def saved_plan(rounds: int = 100, last: str | None = None) -> Plan:
    schedule = Schedule((A,), 1, last=GraphSpec(last) if last else None, last_from=rounds if last else 0)
    return create_plan("home", [Member("x"), Member("y")], schedule, rounds=rounds)


def resumed(plan: Plan, saved: int, rounds: int) -> tuple[Plan, int]:
    offers = {node: (frozenset({saved}), plan) for node in "xy"}
    return restore_plan(plan, plan.latest.members, offers, rounds=rounds)


def test_stopped_run_resumes_longer() -> None:
    plan, start = resumed(saved_plan(), 40, 250)
    assert (start, plan.latest.rounds, end_of(plan, 250)) == (40, 250, 250)


def test_finished_run_continues_from_its_end_to_another_last_phase() -> None:
    plan, start = resumed(saved_plan(last="allreduce"), 103, 250)
    assert (start, plan.latest.rounds, end_of(plan, 253)) == (103, 250, 253)
    assert phase_at(plan, 103) is None
    assert phase_at(plan, 250) is not None


def test_finished_run_that_is_not_extended_is_over() -> None:
    plan, start = resumed(saved_plan(last="allreduce"), 103, 100)
    assert (start, end_of(plan, 103)) == (103, 103)


@pytest.mark.parametrize("rounds", [101, 103])
def test_extension_below_what_is_done_is_refused(rounds: int) -> None:
    done = rf"^run.rounds = {rounds}, but the run has done 103 rounds, .*set it above 103$"
    with pytest.raises(GraphError, match=done):
        resumed(saved_plan(last="allreduce"), 103, rounds)


def test_extension_of_the_plan_is_in_force_from_an_earlier_checkpoint_on() -> None:
    before = a_scsp_cluster()
    plan = extended(before, 2000)
    saved = plan.latest.start - 1
    cluster = QuietCluster(before.state.run_spec)
    for name in node_names(8):
        actions = cluster.handle(join(name, saved=frozenset({saved}), plan=plan))
    welcome = all_of(Welcome, actions)[0]
    assert (welcome.round, welcome.plan.latest.rounds, welcome.plan.latest.schedule.last_from) == (saved, 2000, 2000)


def test_controller_with_more_rounds_resumes_a_finished_run() -> None:
    finished = the_plan(a_finished_cluster(2))
    cluster = QuietCluster(a_run_spec(2, rounds=1800))
    for name in node_names(2):
        actions = cluster.handle(join(name, saved=frozenset({1000}), plan=finished))
    assert [(sent.round, sent.plan.latest.rounds) for sent in all_of(Welcome, actions)] == [(1000, 1800)] * 2
    assert cluster.state.rounds == 1800


def test_controller_with_fewer_rounds_keeps_those_of_the_plan() -> None:
    plan = the_plan(a_started_cluster(2))
    cluster = QuietCluster(a_run_spec(2, rounds=500))
    for name in node_names(2):
        cluster.handle(join(name, saved=frozenset({300}), plan=plan))
    assert (the_plan(cluster).latest.rounds, cluster.state.rounds) == (1000, 1000)


def test_too_few_rounds_are_refused_to_every_node() -> None:
    schedule = replace(ALLREDUCE, last_from=10)
    finished = the_plan(a_started_cluster(2, schedule=schedule, rounds=13, gossip_rounds=3))
    cluster = QuietCluster(a_run_spec(2, schedule=replace(schedule, last_from=12), rounds=15, gossip_rounds=3))
    for name in node_names(2):
        actions = cluster.handle(join(name, saved=frozenset({13}), plan=finished))
    refusals = all_of(Refuse, actions)
    assert [refuse.node for refuse in refusals] == ["n0", "n1"]
    assert "run.rounds = 12, but the run has done 13 rounds" in refusals[0].reason


def test_run_that_died_before_its_first_round_begins_longer() -> None:
    before = a_scsp_cluster()
    spec = a_run_spec(8, schedule=replace(ALLREDUCE, last_from=1491), rounds=1500, gossip_rounds=9)
    cluster = QuietCluster(spec, Leadership(1), persisted(before))
    for name in node_names(8):
        actions = cluster.handle(join(name, process="again"))
    record = all_of(Welcome, actions)[0].plan.latest
    assert (record.start, record.rounds, record.schedule.last_from) == (0, 1491, 1491)


def test_mass_of_a_node_that_trains_on_is_exact() -> None:
    node = a_node("n0", a_plan(2, rounds=2), 2)
    node.start()
    node.handle(Offer(node.state.plan.successor(2, rounds=4)))
    for t in range(4):
        play_round(node, t)
    assert node.state.learner.mass()[1] == Fraction(1, 1)
