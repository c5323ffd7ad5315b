"""The controller's decisions: who founds a run, who is turned away, and how the plan changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from edgenode.core.protocol import cluster as core
from edgenode.core.protocol.events import (
    UNREQUESTED,
    ClusterAction,
    ClusterEvent,
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
    EvictionCommitted,
    Fence,
    FenceAnswer,
    Fetched,
    Halt,
    Hello,
    Join,
    Leadership,
    Leave,
    LeaveRefused,
    Offer,
    OfferAnswer,
    Progress,
    Refuse,
    Sponsor,
    Welcome,
)
from edgenode.core.protocol.plan import Member, Plan, reach
from edgenode.core.protocol.run_spec import RunSpec
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec

A, B, C = GraphSpec("a"), GraphSpec("b"), GraphSpec("c")
FIRST = Leadership(0)


def is_hello(action: ClusterAction) -> bool:
    return isinstance(action, Send) and isinstance(action.order, Hello)


class Cluster(core.Cluster):
    """The first of its name, and without its greetings, which have tests of their own."""

    def __init__(
        self, run_spec: RunSpec, leadership: Leadership = FIRST, saved: Persist | None = None, recover: bool = False
    ):
        super().__init__(run_spec, leadership, saved, recover)

    def handle(self, event: ClusterEvent) -> list[ClusterAction]:
        return [action for action in super().handle(event) if not is_hello(action)]


def a_charter(nodes: int = 4, **changes: Any) -> RunSpec:
    run_spec = RunSpec("lab", nodes, "digest", ScheduleSpec((A,)), rounds=1000)
    return replace(run_spec, **changes)


def join(name: str, **changes: Any) -> Reported:
    return Reported(name, replace(Join(f"{name}.local:1", "digest", rounds_per_epoch=10), **changes))


def names(n: int = 4) -> list[str]:
    return [f"n{i}" for i in range(n)]


def founded(nodes: int = 4, term: int = 0, **changes: Any) -> Cluster:
    cluster = Cluster(a_charter(nodes, **changes), Leadership(term))
    for name in names(nodes):
        cluster.handle(join(name))
    return cluster


def the_plan(cluster: Cluster) -> Plan:
    assert cluster.plan is not None
    return cluster.plan


def progress(cluster: Cluster, name: str, next_round: int) -> list[ClusterAction]:
    latest = the_plan(cluster).latest
    return cluster.handle(Reported(name, Progress(next_round, latest.number, latest.digest)))


def answer(cluster: Cluster, offer: Sent, accepted: bool, next_round: int) -> list[ClusterAction]:
    report = OfferAnswer(offer.record.number, offer.record.digest, accepted, next_round)
    return cluster.handle(Reported(offer.node, report))


def saved(cluster: Cluster) -> Persist:
    return Persist(cluster.term, cluster._state.ballot, the_plan(cluster))


def kinds(actions: list[ClusterAction]) -> list[str]:
    return [type(a.order if isinstance(a, Send) else a).__name__ for a in actions]


def every(kind: type, actions: list[ClusterAction]) -> list[Any]:
    """The actions of a kind. One that sends an order of that kind has the fields of both."""
    sent = [Sent(a.node, a.order) for a in actions if isinstance(a, Send) and isinstance(a.order, kind)]
    return sent or [a for a in actions if isinstance(a, kind)]


def only(kind: type, actions: list[ClusterAction]) -> Any:
    found = every(kind, actions)
    assert len(found) == 1, actions
    return found[0]


@dataclass(frozen=True)
class Sent:
    """An order on its way: its node, and its own fields."""

    node: str
    order: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.order, name)

    def __eq__(self, other: object) -> bool:
        return other == Send(self.node, self.order) or (isinstance(other, Sent) and other.order == self.order)

    __hash__ = None  # type: ignore[assignment]


# --- founding ---------------------------------------------------------------------------------------


def test_founds_the_run_when_the_last_node_is_there_and_welcomes_all_alike() -> None:
    cluster = Cluster(a_charter(3))
    assert cluster.missing() == 3
    assert cluster.handle(join("n2")) == cluster.handle(join("n0")) == []
    assert cluster.missing() == 1
    welcomes = cluster.handle(join("n1"))
    plan = the_plan(cluster)
    assert welcomes == [Persist(0, 0, plan), *(Send(name, Welcome(plan, 0)) for name in names(3))]
    assert [(m.node, m.address) for m in plan.latest.members] == [(n, f"{n}.local:1") for n in names(3)]
    assert cluster.missing() == 0


def test_a_turn_in_epochs_is_counted_on_the_node_with_most_data() -> None:
    cluster = Cluster(a_charter(2, schedule=ScheduleSpec((A, B), Period(3, "epochs"))))
    cluster.handle(join("n0", rounds_per_epoch=7))
    cluster.handle(join("n1", rounds_per_epoch=12))
    assert the_plan(cluster).latest.schedule.every == 36


def test_one_who_left_before_the_founding_is_waited_for_again() -> None:
    cluster = Cluster(a_charter(2))
    cluster.handle(join("n0"))
    cluster.handle(Disconnected("n0"))
    assert cluster.handle(join("n1")) == []
    assert kinds(cluster.handle(join("n0"))) == ["Persist", "Welcome", "Welcome"]


def test_a_taken_id_is_refused_with_both_addresses() -> None:
    cluster = Cluster(a_charter())
    cluster.handle(join("n0"))
    reason = only(Refuse, cluster.handle(join("n0", address="other:2"))).reason
    assert "n0.local:1" in reason
    assert "other:2" in reason
    assert cluster.missing() == 3


def test_another_configuration_is_refused_with_both_digests() -> None:
    reason = only(Refuse, Cluster(a_charter()).handle(join("n0", run_digest="f00"))).reason
    assert "digest" in reason
    assert "f00" in reason


def test_a_late_newcomer_is_sent_to_a_member_for_the_model_and_told_whom_it_must_reach() -> None:
    cluster = founded(2)
    members = the_plan(cluster).latest.members
    assert cluster.handle(join("n9")) == [sponsor("n9", members)]


def test_a_schedule_that_cannot_carry_the_run_refuses_everyone_and_founds_nothing() -> None:
    one_way = GraphSpec("one-way", (("n0", "n1"),))
    cluster = Cluster(a_charter(2, schedule=ScheduleSpec((one_way,))))
    cluster.handle(join("n0"))
    actions = cluster.handle(join("n1"))
    assert [a.node for a in every(Refuse, actions)] == names(2)
    assert all("no path n1->n0" in a.reason for a in every(Refuse, actions))
    assert cluster.plan is None
    assert cluster.missing() == 2


def test_a_member_whose_welcome_was_lost_with_its_link_is_welcomed_again() -> None:
    cluster = founded(2)
    progress(cluster, "n0", 0)
    for name in names(2):
        cluster.handle(Disconnected(name))
    assert cluster.handle(join("n1")) == [Send("n1", Welcome(the_plan(cluster), 0))]
    # it was in the run, and its x is gone: the process of its name that is in the run is dead
    assert only(Fence, cluster.handle(join("n0"))) == Send("n1", Fence(0, 1, frozenset({"n0"})))


def test_a_member_that_restarted_while_nobody_was_there_is_cut_out_when_another_takes_its_lost_welcome() -> None:
    cluster = founded(2)
    for name in names(2):
        cluster.handle(Disconnected(name))
    assert cluster.handle(join("n0", process="second")) == []
    again = cluster.handle(join("n1"))
    assert again[0] == Send("n1", Welcome(the_plan(cluster), 0))
    assert only(Fence, again) == Send("n1", Fence(0, 1, frozenset({"n0"})))


# --- resuming ---------------------------------------------------------------------------------------


def test_resumes_from_the_newest_round_that_all_have_saved() -> None:
    old = the_plan(founded(2))
    cluster = Cluster(a_charter(2))
    cluster.handle(join("n0", saved=frozenset({0, 20, 40}), plan=old))
    welcomes = cluster.handle(join("n1", saved=frozenset({20, 0}), plan=old, address="moved:7"))
    plan = the_plan(cluster)
    assert welcomes == [Persist(0, 0, plan), *(Send(name, Welcome(plan, 20)) for name in names(2))]
    assert (plan.latest.number, plan.latest.parent, plan.latest.start) == (1, old.latest.digest, 20)
    assert plan.latest.members[1].address == "moved:7"


def test_a_resumed_run_was_stopped_and_goes_on() -> None:
    old = the_plan(founded(2))
    stopped = old.extend(old.successor(30, end=30))
    cluster = Cluster(a_charter(2))
    for name in names(2):
        cluster.handle(join(name, saved=frozenset({30}), plan=stopped))
    assert the_plan(cluster).latest.end is None
    assert the_plan(cluster).latest.number == 2


def test_a_stop_holds_for_those_who_resume_if_others_have_ended_by_it() -> None:
    cluster = founded()
    offer = only(Offer, cluster.handle(Stop(1)))
    answer(cluster, offer, accepted=True, next_round=0)
    stop = offer.record.start
    for name in names(2):
        part(cluster, name, begun=stop - 1)
    for name in ("n2", "n3"):
        cluster.handle(Disconnected(name))
    old = the_plan(cluster)
    assert cluster.handle(join("n2", saved=frozenset({0}), plan=old, process="again")) == []
    actions = cluster.handle(join("n3", saved=frozenset({0}), plan=old, process="again"))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome"]
    assert (the_plan(cluster).latest.start, the_plan(cluster).latest.end) == (0, stop)


def test_a_run_goes_on_without_the_checkpoint_of_one_member_who_comes_back_as_a_newcomer() -> None:
    old = the_plan(founded(3))
    cluster = Cluster(a_charter(3))
    for name in names(2):
        assert cluster.handle(join(name, saved=frozenset({20}), plan=old)) == []
    assert cluster.waits_for() == {"n2"}
    actions = cluster.handle(join("n2"))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome", "Sponsor"]
    assert (the_plan(cluster).latest.names, the_plan(cluster).latest.start) == (("n0", "n1"), 20)
    assert only(Sponsor, actions).node == "n2"


def test_a_run_does_not_go_on_with_less_than_half() -> None:
    old = the_plan(founded(3))
    cluster = Cluster(a_charter(3))
    cluster.handle(join("n0", saved=frozenset({20}), plan=old))
    cluster.handle(join("n1"))
    refused = cluster.handle(join("n2"))
    assert [r.node for r in every(Refuse, refused)] == names(3)
    assert "n0 has [20]; n1 has none; n2 has none" in only(Refuse, refused[:1]).reason


def test_a_resumed_run_waits_for_its_own_members_and_lets_others_join() -> None:
    old = the_plan(founded(2))
    cluster = Cluster(a_charter(2))
    cluster.handle(join("n0", saved=frozenset({20}), plan=old))
    assert cluster.handle(join("n9")) == []
    actions = cluster.handle(join("n1", saved=frozenset({20}), plan=old))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome", "Sponsor"]
    assert the_plan(cluster).latest.names == ("n0", "n1")
    assert only(Sponsor, actions).node == "n9"


def test_an_operator_can_give_up_a_member_that_does_not_come_back_when_all_were_down() -> None:
    old = the_plan(founded(3))
    cluster = Cluster(a_charter(3))
    for name in names(2):
        cluster.handle(join(name, saved=frozenset({20}), plan=old))
    assert only(Reply, cluster.handle(Evict(4, "n2"))).start is None
    actions = cluster.handle(Evict(5, "n2", force=True))
    assert kinds(actions) == ["Persist", "Welcome", "Welcome", "Reply"]
    assert only(Reply, actions).start == 20
    assert the_plan(cluster).latest.names == ("n0", "n1")


# --- changes ----------------------------------------------------------------------------------------


def test_a_change_is_offered_to_one_member_far_enough_ahead_and_its_answer_replies() -> None:
    cluster = founded()
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
    assert replies == [saved(cluster), Reply(7, record.start)]
    assert the_plan(cluster).latest == record


def test_graphs_that_the_algorithm_is_not_made_for_are_refused_and_others_are_not() -> None:
    cluster = founded(requirements=Requirements("d-psgd", balanced=True))
    (no,) = cluster.handle(Rotate(1, (GraphSpec("b"), GraphSpec("chord")), Period(1)))
    assert isinstance(no, Reply)
    assert no.start is None
    assert no.error.startswith("d-psgd cannot use chord: it is unbalanced")
    assert kinds(cluster.handle(Rotate(2, (GraphSpec("b"),), Period(1)))) == ["Offer"]


def test_changes_wait_for_the_one_before_to_be_in_force_everywhere_and_are_batched() -> None:
    cluster = founded(2)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert cluster.handle(Rotate(2, (C,), Period(1))) == []
    start = offer.record.start
    assert answer(cluster, offer, True, 1) == [saved(cluster), Reply(1, start)]
    assert cluster.handle(Rotate(3, (A,), Period(5, "epochs"))) == []
    assert progress(cluster, "n0", start) == []
    second = only(Offer, progress(cluster, "n1", start))
    assert (second.record.number, second.record.schedule.graphs) == (2, (A,))
    assert second.record.schedule.every == 50
    replies = answer(cluster, second, True, start + 1)
    assert replies == [saved(cluster), Reply(2, second.record.start), Reply(3, second.record.start)]


def test_any_members_report_that_it_has_the_record_settles_the_offer() -> None:
    cluster = founded()
    record = only(Offer, cluster.handle(Rotate(1, (B,), Period(1)))).record
    cluster.handle(Disconnected("n0"))
    actions = cluster.handle(Reported("n2", Progress(3, record.number, record.digest)))
    assert actions == [saved(cluster), Reply(1, record.start)]
    assert the_plan(cluster).latest == record


def test_an_offer_that_came_too_late_is_replaced_with_twice_the_margin() -> None:
    cluster = founded()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    distance = []
    for _ in range(3):
        offer = only(Offer, answer(cluster, offer, False, 100))
        assert (offer.node, offer.record.number) == ("n0", 1)  # nobody has the other: the number is free
        distance.append(offer.record.start - 100 - reach(the_plan(cluster), "n0", 100) - 2)
    assert distance == [8, 16, 32]
    answer(cluster, offer, True, 100)
    for name in names():
        progress(cluster, name, offer.record.start)
    fresh = only(Offer, cluster.handle(Rotate(2, (C,), Period(1))))
    assert fresh.record.start - offer.record.start < 10  # accepted: the margin is back to the first


def test_a_lost_answer_repeats_the_same_record() -> None:
    cluster = founded()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Disconnected("n0"))
    assert cluster.handle(Rotate(2, (C,), Period(1))) == []  # not to anyone else, nor another record
    back = join("n0", running=True, plan=the_plan(cluster))
    assert cluster.handle(back) == [offer]


def test_a_lost_answer_is_not_asked_for_again_when_the_member_shows_it_has_the_record() -> None:
    cluster = founded()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Disconnected("n0"))
    extended = the_plan(cluster).extend(offer.record)
    actions = cluster.handle(join("n0", running=True, plan=extended))
    assert actions == [saved(cluster), Reply(1, offer.record.start)]
    assert the_plan(cluster) == extended


def test_an_answer_to_another_offer_changes_nothing() -> None:
    cluster = founded()
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    mismatch = replace(offer, order=Offer(the_plan(cluster).successor(99)))
    assert answer(cluster, mismatch, True, 1) == answer(cluster, replace(offer, node="n1"), True, 1) == []
    assert len(the_plan(cluster).records) == 1


def test_without_a_member_on_the_line_a_change_waits_for_one() -> None:
    cluster = founded(2)
    for name in names(2):
        cluster.handle(Disconnected(name))
    assert cluster.handle(Rotate(1, (B,), Period(1))) == []
    assert only(Offer, cluster.handle(join("n1", running=True, plan=the_plan(cluster)))).node == "n1"


def test_impossible_changes_are_refused_with_the_reason() -> None:
    waiting = Cluster(a_charter(2))
    assert only(Reply, waiting.handle(Stop(0))).error == "the run has not started: it waits for 2 more nodes"
    cluster = founded(2)
    unknown = GraphSpec("file", (("n0", "n7"), ("n7", "n0")))
    assert "unknown node 'n7'" in only(Reply, cluster.handle(Rotate(1, (unknown,), Period(1)))).error
    one_way = GraphSpec("file", (("n0", "n1"),))
    reply = only(Reply, cluster.handle(Rotate(2, (one_way,), Period(1))))
    assert reply.start is None
    assert "not strongly connected: no path n1->n0" in reply.error


def test_a_change_too_near_the_end_is_refused_and_so_are_those_behind_it() -> None:
    cluster = founded(2, rounds=20)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert cluster.handle(Rotate(2, (C,), Period(1))) == []
    replies = answer(cluster, offer, False, 20)
    assert [(r.request_id, r.start, r.error) for r in replies if isinstance(r, Reply)] == [
        (request_id, None, "too late: the run ends with round 20") for request_id in (1, 2)
    ]


def test_a_stop_is_one_round_for_all_and_nothing_follows_it() -> None:
    cluster = founded()
    offer = only(Offer, cluster.handle(Stop(1)))
    assert offer.record.end == offer.record.start
    assert only(Reply, cluster.handle(Rotate(2, (B,), Period(1)))).error == "the run is stopping"
    assert answer(cluster, offer, True, 1) == [saved(cluster), Reply(1, offer.record.end)]
    assert only(Reply, cluster.handle(Stop(3))).error == "the run is stopping"


# --- a controller that was away ---------------------------------------------------------------------


def back(name: str, plan: Plan) -> Reported:
    return join(name, running=True, plan=plan)


def test_a_controller_that_lost_its_disk_recovers_the_newest_plan_of_the_members() -> None:
    plan = the_plan(founded(2))
    newer = plan.extend(plan.successor(30))
    cluster = Cluster(a_charter(2), recover=True)
    assert cluster.handle(back("n0", plan)) == [saved(cluster)]
    assert cluster.handle(back("n1", newer)) == [saved(cluster)]
    assert the_plan(cluster) == newer


def test_a_zombie_that_knows_of_another_change_of_the_same_number_is_told_of_its_cut() -> None:
    """The controller had offered it a record, and took that for lost when it cut it out."""
    cluster = founded(3)
    old = the_plan(cluster)
    offered = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    for fence in fences(cluster.handle(Evict(2, "n0"))):
        behind_fence(cluster, fence, 5)
    cluster.handle(Disconnected("n0"))
    told = cluster.handle(back("n0", old.extend(offered.record)))
    assert only(EvictionCommitted, told) == Send("n0", EvictionCommitted(the_plan(cluster).records[1:]))


def test_a_member_that_missed_the_end_of_a_fence_is_told_of_it_before_the_next_offer() -> None:
    cluster = founded(3)
    old = the_plan(cluster)
    for fence in fences(cluster.handle(Evict(1, "n2"))):
        behind_fence(cluster, fence, 5)
    for name in names(2):
        progress(cluster, name, 6)
    offer = only(Offer, cluster.handle(Rotate(2, (B,), Period(1))))
    cluster.handle(Disconnected(offer.node))
    again = cluster.handle(join(offer.node, running=True, plan=old, fenced=frozenset({"n2"})))
    assert again == [Send(offer.node, EvictionCommitted(the_plan(cluster).records[1:])), offer]


def test_a_restarted_controller_offers_nothing_before_it_has_heard_every_member() -> None:
    """One not heard of may hold a record of the controller before: another of the same number would be a fork."""
    plan = the_plan(founded(2))
    newer = plan.extend(plan.successor(30))
    cluster = Cluster(a_charter(2), recover=True)
    cluster.handle(back("n1", plan))
    progress(cluster, "n1", 8)
    assert cluster.handle(Rotate(1, (B,), Period(1))) == []
    assert cluster.handle(back("n0", newer)) == [saved(cluster)]
    progress(cluster, "n1", 30)
    offer = only(Offer, progress(cluster, "n0", 31))
    assert (offer.record.number, offer.record.parent) == (2, newer.latest.digest)


def test_those_who_gathered_at_a_restarted_controller_may_join_the_run_that_is_on() -> None:
    plan = the_plan(founded(2))
    cluster = Cluster(a_charter(2), recover=True)
    assert cluster.handle(join("n9")) == []
    members = plan.latest.members
    assert cluster.handle(back("n0", plan)) == [saved(cluster), sponsor("n9", members)]
    assert the_plan(cluster) == plan


def test_a_member_of_another_run_is_refused_with_both_plans() -> None:
    ours, theirs = founded(2), the_plan(founded(2, schedule=ScheduleSpec((B,))))
    ours.handle(Disconnected("n0"))
    reason = only(Refuse, ours.handle(back("n0", theirs))).reason
    assert the_plan(ours).latest.digest in reason
    assert theirs.latest.digest in reason


def test_a_controller_that_comes_back_with_what_was_saved_has_a_higher_term() -> None:
    before = founded(2, term=3)
    cluster = Cluster(before.run_spec, Leadership(before.term + 1), saved(before))
    assert cluster.plan == before.plan
    assert cluster.missing() == 0
    for name in names(2):
        cluster.handle(back(name, the_plan(before)))
        progress(cluster, name, 5)
    record = only(Offer, cluster.handle(Rotate(1, (B,), Period(1)))).record
    assert (record.term, record.parent) == (4, the_plan(before).latest.digest)
    assert only(Fence, cluster.handle(Evict(2, "n1"))).term == 4


def test_a_controller_that_lost_its_disk_has_a_higher_term_than_the_plan_it_finds() -> None:
    """Its ballots begin anew: in the old term they would be below what the members have promised."""
    plan = the_plan(founded(3))
    cluster = Cluster(a_charter(3), recover=True)
    cluster.handle(join("n0", running=True, plan=plan, fenced=frozenset({"n2"})))
    actions = cluster.handle(join("n1", running=True, plan=plan, fenced=frozenset({"n2"})))
    assert only(Fence, actions) == Send("n1", Fence(1, 1, frozenset({"n2"})))


def test_a_recovering_controller_breaks_no_tie_before_it_has_heard_every_member() -> None:
    """Its predecessor may have cut out the half that it knows, and the other half may completed all its rounds."""
    plan = the_plan(founded(2))
    cluster = Cluster(a_charter(2), Leadership(1), recover=True)
    cluster.handle(back("n1", plan))
    progress(cluster, "n1", 8)
    (reply,) = cluster.handle(Evict(5, "n0"))
    assert reply == Reply(5, None, "n0 stays: without it 1 of 2 members would be left")
    cluster.handle(back("n0", plan))
    progress(cluster, "n0", 8)
    assert only(Fence, cluster.handle(Evict(6, "n0"))).node == "n1"


def test_a_zombie_that_reached_a_recovering_controller_first_is_told_as_soon_as_it_knows() -> None:
    before = founded(3)
    old = the_plan(before)
    for fence in fences(before.handle(Evict(UNREQUESTED, "n2"))):
        behind_fence(before, fence, 5)
    plan = the_plan(before)
    again = Cluster(a_charter(3), Leadership(1), recover=True)
    again.handle(join("n2", plan=old, running=True, follows=FIRST))
    told = again.handle(join("n0", plan=plan, running=True, follows=FIRST))
    assert only(EvictionCommitted, told) == Send("n2", EvictionCommitted(plan.records))


# --- who leads --------------------------------------------------------------------------------------


def test_whoever_reaches_the_controller_hears_first_who_it_is() -> None:
    leadership = Leadership(0, "abc", "10.0.0.5:7700")
    for cluster in (core.Cluster(a_charter(1), leadership), core.Cluster(a_charter(2), leadership)):
        assert cluster.handle(join("n0"))[0] == Send("n0", Hello(leadership))


def follower(leader: Leadership) -> Reported:
    return join("n0", running=True, plan=the_plan(founded(2)), follows=leader)


@pytest.mark.parametrize("leader", [Leadership(1, "abc", "10.0.0.5:7700"), Leadership(0, "other", "10.0.0.6:7700")])
def test_a_controller_gives_way_to_the_one_that_a_running_member_follows_and_names_both(leader: Leadership) -> None:
    newcomer = core.Cluster(a_charter(2), Leadership(0, "abd", "10.0.0.9:7700"), saved(founded(2)))
    reason = only(StepDown, newcomer.handle(follower(leader))).reason
    assert leader.address in reason
    assert "10.0.0.9:7700" in reason


def test_a_controller_without_a_plan_gives_way_to_any_run() -> None:
    assert kinds(core.Cluster(a_charter(2), Leadership(5, "x")).handle(follower(Leadership(0, "abc")))) == ["StepDown"]


def test_a_restarted_controller_leads_those_who_followed_it_before() -> None:
    again = core.Cluster(a_charter(2), Leadership(1, "b"), saved(founded(2)))
    assert kinds(again.handle(follower(Leadership(0, "a")))) == ["Hello"]


def test_a_recovering_controller_outranks_whomever_the_members_followed() -> None:
    """Even one that made no record: its fences are promises, and a lower term would be void."""
    cluster = core.Cluster(a_charter(2), Leadership(0, "b"), recover=True)
    assert only(Hello, cluster.handle(follower(Leadership(7, "a")))).leadership.term == 8
    assert cluster.term == 8


# --- joining ----------------------------------------------------------------------------------------


def test_a_newcomer_that_has_the_model_becomes_a_member_by_a_record_and_is_welcomed_to_its_start() -> None:
    cluster = founded(2)
    assert kinds(cluster.handle(join("n9"))) == ["Sponsor"]
    offer = only(Offer, cluster.handle(Reported("n9", Fetched())))
    assert (offer.node, offer.record.names) == ("n0", ("n0", "n1", "n9"))
    start = offer.record.start
    assert answer(cluster, offer, True, 1) == [saved(cluster), Send("n9", Welcome(the_plan(cluster), start))]
    assert the_plan(cluster).latest.members[-1] == Member("n9", 0, "n9.local:1")
    cluster.handle(Disconnected("n9"))
    assert cluster.handle(join("n9")) == [
        Send("n9", Welcome(the_plan(cluster), start))
    ]  # the first was lost with its link


def test_a_newcomer_that_goes_away_before_the_offer_is_not_admitted() -> None:
    cluster = founded(2)
    first = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(join("n9"))
    assert cluster.handle(Reported("n9", Fetched())) == []  # it waits for the change before
    cluster.handle(Disconnected("n9"))
    answer(cluster, first, True, 1)
    assert [a for name in names(2) for a in progress(cluster, name, first.record.start)] == []
    assert cluster.handle(Reported("n9", Fetched())) == []


def test_a_newcomer_to_a_run_that_is_nearly_over_is_refused() -> None:
    cluster = founded(2, rounds=5)
    cluster.handle(join("n9"))
    assert cluster.handle(Reported("n9", Fetched())) == [Send("n9", Refuse("too late: the run ends with round 5"))]


# --- leaving ----------------------------------------------------------------------------------------


def test_a_leaver_hands_over_to_a_member_that_stays() -> None:
    cluster = founded(3)
    offer = only(Offer, cluster.handle(Reported("n0", Leave())))
    assert (offer.record.names, offer.record.handoffs) == (("n1", "n2"), (("n0", "n1"),))
    assert answer(cluster, offer, True, 1) == [saved(cluster)]
    assert the_plan(cluster).latest == offer.record


def test_nobody_leaves_who_is_no_member_or_without_whom_too_few_are_left() -> None:
    cluster = founded(3, min_nodes=2)
    assert cluster.handle(Reported("n9", Leave())) == [Send("n9", LeaveRefused("n9 is not a member"))]
    assert kinds(cluster.handle(Reported("n0", Leave()))) == ["Offer"]
    assert cluster.handle(Reported("n1", Leave())) == [Send("n1", LeaveRefused("n1 cannot leave: 2 nodes must stay"))]


def test_the_last_member_is_not_cut_out_although_the_fence_began_before_the_other_one_left() -> None:
    cluster = founded(2)
    offer = only(Offer, cluster.handle(Reported("n0", Leave())))
    fence = only(Fence, cluster.handle(Evict(2, "n1")))
    assert kinds(answer(cluster, offer, True, 1)) == ["Persist"]
    lifted = behind_fence(cluster, fence, 0)
    plan = the_plan(cluster)
    assert lifted == [
        Send("n0", EvictionCommitted(plan.records)),
        Send("n1", EvictionCommitted(plan.records)),
        Reply(2, None, "n1 stays: without it 0 of 1 members would be left"),
    ]
    assert (plan.latest, cluster.evicting()) == (offer.record, frozenset())


# --- eviction ---------------------------------------------------------------------------------------


def behind_fence(cluster: Cluster, fence: Sent, begun: int, *begun_rounds: tuple[str, int]) -> list[ClusterAction]:
    report = FenceAnswer(fence.term, fence.ballot, begun, begun_rounds, the_plan(cluster).records)
    return cluster.handle(Reported(fence.node, report))


def sponsor(node: str, members: tuple[Member, ...]) -> Send:
    return Send(node, Sponsor(members[0].address, tuple(m.address for m in members)))


def fences(actions: list[ClusterAction]) -> list[Sent]:
    return every(Fence, actions)


def test_a_member_is_cut_out_once_all_others_stand_behind_the_fence() -> None:
    cluster = founded(3)
    cluster.handle(Disconnected("n2"))
    actions = cluster.handle(Evict(7, "n2"))
    first, second = (Sent(name, Fence(0, 1, frozenset({"n2"}))) for name in names(2))
    assert actions == [Persist(0, 1, the_plan(cluster)), first, second]
    assert behind_fence(cluster, first, 11, ("n2", 9)) == []
    decreed = behind_fence(cluster, second, 12, ("n2", 10))
    record = the_plan(cluster).latest
    assert (record.start, record.names, record.evictions) == (13, ("n0", "n1"), (("n2", 10),))
    news = the_plan(cluster).records
    assert decreed == [saved(cluster), *(Send(name, EvictionCommitted(news)) for name in names(2)), Reply(7, 13)]


def test_no_minority_goes_on_without_the_others_unless_it_is_forced() -> None:
    cluster = founded(4)
    for name in ("n2", "n3"):
        cluster.handle(Disconnected(name))
    assert len(fences(cluster.handle(Evict(1, "n3")))) == 2
    assert len(fences(cluster.handle(Evict(2, "n2")))) == 2  # two of four: not less than half
    assert cluster.handle(Evict(3, "n1")) == [Reply(3, None, "n1 stays: without it 1 of 4 members would be left")]
    (alone,) = fences(cluster.handle(Evict(4, "n1", force=True)))
    assert alone == Send("n0", Fence(0, 3, frozenset({"n1", "n2", "n3"})))
    decreed = behind_fence(cluster, alone, 5)
    assert the_plan(cluster).latest.names == ("n0",)
    assert [a.request_id for a in decreed if isinstance(a, Reply)] == [1, 2, 4]


def test_whoever_asks_for_a_removal_that_is_under_way_is_answered_with_it() -> None:
    cluster = founded(3)
    (first, second) = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    assert cluster.handle(Evict(5, "n2")) == []
    behind_fence(cluster, first, 7)
    assert only(Reply, behind_fence(cluster, second, 7)) == Reply(5, 8)


def test_the_last_member_is_never_evicted_and_min_nodes_only_by_force() -> None:
    assert only(Reply, founded(1).handle(Evict(1, "n0", force=True))).start is None
    cluster = founded(3, min_nodes=3)
    assert only(Reply, cluster.handle(Evict(1, "n2"))).error == "n2 stays: without it 2 of 3 members would be left"
    assert len(fences(cluster.handle(Evict(2, "n2", force=True)))) == 2
    assert cluster.handle(Evict(3, "n9")) == [Reply(3, None, "n9 is not a member")]


def test_promises_to_an_older_ballot_do_not_count() -> None:
    cluster = founded(4)
    old = fences(cluster.handle(Evict(1, "n3")))
    new = fences(cluster.handle(Evict(2, "n2")))
    assert [behind_fence(cluster, fence, 5) for fence in old] == [[], [], []]
    assert behind_fence(cluster, new[0], 5) == []
    assert "EvictionCommitted" in kinds(behind_fence(cluster, new[1], 5))


def test_what_only_the_dead_may_have_heard_is_offered_again_after_the_fence() -> None:
    cluster = founded(3)
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert offer.node == "n0"
    cluster.handle(Disconnected("n0"))
    for fence in fences(cluster.handle(Evict(2, "n0"))):
        behind_fence(cluster, fence, 5)
    cut = the_plan(cluster).latest
    assert (cut.number, cut.schedule.graphs) == (1, (A,))
    again = [a for name in ("n1", "n2") for a in progress(cluster, name, cut.start)]
    assert (only(Offer, again).record.number, only(Offer, again).record.schedule.graphs) == (2, (B,))


def test_a_new_process_under_a_members_name_proves_that_the_old_one_is_dead() -> None:
    cluster = founded(2, min_nodes=2)  # the proof is as good as force
    for name in names(2):
        progress(cluster, name, 5)
    cluster.handle(Disconnected("n1"))
    actions = cluster.handle(join("n1", process="second"))
    assert fences(actions) == [Send("n0", Fence(0, 1, frozenset({"n1"})))]
    decreed = behind_fence(cluster, fences(actions)[0], 5, ("n1", 4))
    assert the_plan(cluster).latest.evictions == (("n1", 4),)
    assert kinds(decreed) == ["Persist", "EvictionCommitted", "Sponsor"]  # and the new one may join
    progress(cluster, "n0", the_plan(cluster).latest.start)
    assert only(Offer, cluster.handle(Reported("n1", Fetched()))).record.members[1] == Member("n1", 1, "n1.local:1")


def test_a_member_that_dials_again_is_not_taken_for_another_process() -> None:
    cluster = founded(2)
    for name in names(2):
        progress(cluster, name, 5)
    cluster.handle(Disconnected("n1"))
    assert cluster.handle(back("n1", the_plan(cluster))) == []


def test_when_all_are_down_the_run_goes_on_from_the_newest_common_round() -> None:
    before = founded(2)
    cluster = Cluster(before.run_spec, Leadership(1), saved(before))
    plan = the_plan(before)
    assert cluster.handle(join("n0", saved=frozenset({0, 50, 100}), plan=plan, process="x")) == []
    actions = cluster.handle(join("n1", saved=frozenset({0, 50}), plan=plan, process="y"))
    resumed = the_plan(cluster)
    assert actions == [saved(cluster), *(Send(name, Welcome(resumed, 50)) for name in names(2))]
    assert (resumed.latest.number, resumed.latest.start, resumed.latest.term) == (1, 50, 1)
    assert [m.incarnation for m in resumed.latest.members] == [1, 1]


def test_a_schedule_that_was_promised_for_later_than_the_common_round_is_asked_for_again() -> None:
    before = founded(2)
    offer = only(Offer, before.handle(Rotate(1, (B, C), Period(3))))
    answer(before, offer, accepted=True, next_round=0)
    again = Cluster(a_charter(2), Leadership(1), saved(before))
    early, late = ({r: join(n, saved=frozenset({r}), plan=the_plan(before)) for r in (2, 50)} for n in names(2))
    again.handle(early[2])
    actions = again.handle(late[2])
    assert the_plan(again).latest.schedule.graphs == (A,)
    schedule = only(Offer, actions).record.schedule
    assert (schedule.graphs, schedule.every) == ((B, C), 3)

    again = Cluster(a_charter(2), Leadership(1), saved(before))
    again.handle(early[50])
    assert Offer not in map(type, again.handle(late[50]))
    assert the_plan(again).latest.schedule.graphs == (B, C)


def test_what_was_asked_for_when_all_went_down_is_answered() -> None:
    cluster = founded(2)
    plan = the_plan(cluster)
    cluster.handle(Rotate(1, (B,), Period(1)))
    cluster.handle(Stop(2))
    cluster.handle(Evict(3, "n1"))
    for name in names(2):
        cluster.handle(Disconnected(name))
    cluster.handle(join("n0", process="2", saved=frozenset({0}), plan=plan))
    resumed = cluster.handle(join("n1", process="2", saved=frozenset({0}), plan=plan))
    assert {a.request_id for a in resumed if isinstance(a, Reply) and "went down" in a.error} == {1, 2, 3}


# --- pausing ----------------------------------------------------------------------------------------


def test_a_pause_is_written_down_told_to_everyone_present_and_answered_in_that_order() -> None:
    cluster = founded(2)
    progress(cluster, "n0", 7)
    cluster.handle(join("x"))
    actions = cluster.handle(Pause(3))
    assert actions == [
        replace(saved(cluster), paused=True),
        *(Send(n, Halt(True)) for n in ("n0", "n1", "x")),
        Reply(3, 7),
    ]
    assert cluster.handle(Pause(4)) == [Reply(4, 7)]
    assert kinds(cluster.handle(Resume(5))) == ["Persist", "Halt", "Halt", "Halt", "Reply"]
    assert not cluster.paused
    assert cluster.handle(Resume(6)) == [Reply(6, 7)]


def test_whoever_calls_is_told_whether_the_run_is_paused_by_the_next_controller_too() -> None:
    first = core.Cluster(a_charter(2), FIRST)
    for name in names(2):
        (hello, *_) = first.handle(join(name))
        assert hello == Send(name, Hello(FIRST, paused=False))
    persist = only(Persist, first.handle(Pause(0)))
    second = core.Cluster(a_charter(2), Leadership(1), persist)
    running = join("n0", plan=persist.plan, running=True, follows=FIRST)
    assert second.handle(running)[0] == Send("n0", Hello(Leadership(1), paused=True))
    assert only(Hello, second.handle(join("x"))).paused


def test_a_controller_that_takes_the_plan_from_the_nodes_lets_them_go_on() -> None:
    plan = the_plan(founded(2))
    recovered = core.Cluster(a_charter(2), FIRST, recover=True)
    hello = only(Hello, recovered.handle(join("n0", plan=plan, running=True, follows=Leadership(0, "lost"))))
    assert not hello.paused


def test_a_paused_run_takes_changes_and_a_stop_ends_the_pause() -> None:
    cluster = founded(2)
    cluster.handle(Pause(0))
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    assert only(Reply, answer(cluster, offer, True, 0)) == Reply(1, offer.record.start)
    progress(cluster, "n0", offer.record.start)
    progress(cluster, "n1", offer.record.start)
    assert cluster.paused
    actions = cluster.handle(Stop(2))
    assert kinds(actions) == ["Persist", "Halt", "Halt", "Offer"]
    assert not any(a.halted for a in every(Halt, actions))


def test_no_pause_before_the_founding_nor_of_a_run_that_stops_and_no_leave_in_one() -> None:
    assert Cluster(a_charter(2)).handle(Pause(0)) == [
        Reply(0, None, "the run has not started: it waits for 2 more nodes")
    ]
    cluster = founded(2)
    cluster.handle(Pause(1))
    (refused,) = cluster.handle(Reported("n1", Leave()))
    assert refused == Send("n1", LeaveRefused("the run is paused: a hand-over takes a round"))
    cluster.handle(Stop(3))
    assert cluster.handle(Pause(4)) == [Reply(4, None, "the run is stopping")]


def test_a_pause_ends_when_a_controller_learns_that_the_run_was_to_stop() -> None:
    """The one before it had offered the stop, and died before the answer."""
    plan = the_plan(founded(2))
    again = Cluster(a_charter(2), Leadership(1), Persist(0, 0, plan))
    again.handle(back("n1", plan))
    again.handle(Pause(1))
    stopping = plan.extend(plan.successor(9, end=9))
    actions = again.handle(back("n0", stopping))
    assert actions == [
        replace(saved(again), paused=True),
        saved(again),
        Send("n0", Halt(False)),
        Send("n1", Halt(False)),
    ]


# --- the end of a run -------------------------------------------------------------------------------


def part(cluster: Cluster, name: str, begun: int = 999, held: dict[str, int] | None = None) -> list[ClusterAction]:
    """A member has done all its rounds."""
    plan = the_plan(cluster)
    farewell = FenceAnswer(0, 0, begun, tuple(sorted((held or {}).items())), plan.records)
    return cluster.handle(Reported(name, Progress(begun + 1, plan.latest.number, plan.latest.digest, farewell)))


def parted(nodes: int = 4) -> Cluster:
    """A run that is over, all links closed."""
    cluster = founded(nodes)
    for name in names(nodes):
        assert part(cluster, name) == []
        cluster.handle(Disconnected(name))
    return cluster


def test_whoever_comes_when_the_run_is_over_is_told_so() -> None:
    cluster = parted()
    why = "the run is over: its members completed all 1000 rounds"
    assert cluster.over
    assert cluster.handle(join("n4")) == [Send("n4", Refuse(why))]
    assert cluster.handle(join("n1", process="another")) == [Send("n1", Refuse(why))]
    assert cluster.handle(Rotate(1, (B,), Period(1))) == [Reply(1, None, why)]
    assert cluster.handle(Evict(2, "n0", force=True)) == [Reply(2, None, why)]
    assert cluster.waits_for() == frozenset()


def test_whoever_waits_when_the_run_ends_is_told_so_and_so_is_who_asked_for_a_change() -> None:
    cluster = founded(3)
    cluster.handle(join("n4"))
    offer = only(Offer, cluster.handle(Rotate(1, (B,), Period(1))))
    cluster.handle(Rotate(2, (C,), Period(1)))
    assert part(cluster, "n0") == part(cluster, "n1") == []
    why = "the run is over: its members completed all 1000 rounds"
    assert part(cluster, "n2") == [Send("n4", Refuse(why)), Reply(2, None, why), Reply(1, None, why)]
    assert answer(cluster, offer, accepted=False, next_round=1000) == []


def test_a_run_that_was_stopped_is_over_too() -> None:
    cluster = founded(2)
    offer = only(Offer, cluster.handle(Stop(1)))
    answer(cluster, offer, accepted=True, next_round=0)
    for name in names(2):
        part(cluster, name, begun=offer.record.start - 1)
        cluster.handle(Disconnected(name))
    why = f"the run is over: its members stopped before round {offer.record.start}"
    assert cluster.handle(join("n9")) == [Send("n9", Refuse(why))]


def test_nobody_is_asked_for_a_promise_who_has_said_farewell() -> None:
    """What it says then counts for every fence: it heard of the dead what nobody else did."""
    cluster = founded(4)
    part(cluster, "n0", begun=999, held={"n2": 998})
    cluster.handle(Disconnected("n0"))
    asked = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    assert [fence.node for fence in asked] == ["n1", "n3"]
    assert cluster.awaited() == {"n1", "n3"}
    behind_fence(cluster, asked[0], 998)
    behind_fence(cluster, asked[1], 998)
    record = the_plan(cluster).latest
    assert (record.start, record.evictions) == (1000, (("n2", 998),))


def test_a_farewell_in_the_middle_of_a_fence_is_a_promise() -> None:
    cluster = founded(3)
    first, _ = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    behind_fence(cluster, first, 998)
    assert "EvictionCommitted" in kinds(part(cluster, "n1"))
    assert the_plan(cluster).latest.evictions == (("n2", -1),)


def test_those_who_died_at_the_end_go_on_from_their_checkpoints_if_they_are_enough() -> None:
    cluster = founded(4)
    plan = the_plan(cluster)
    part(cluster, "n0")
    for name in names():
        cluster.handle(Disconnected(name))
    assert cluster.waits_for() == {"n1", "n2", "n3"}
    for name in ("n1", "n2"):
        assert cluster.handle(join(name, process="2", saved=frozenset({950}), plan=plan)) == []
    resumed = cluster.handle(join("n3", process="2", saved=frozenset({950}), plan=plan))
    assert [a.round for a in every(Welcome, resumed)] == [950] * 3
    assert not cluster.over


def test_one_who_died_at_the_end_does_not_begin_anew_alone() -> None:
    cluster = founded(3)
    for name in ("n0", "n1"):
        part(cluster, name)
    for name in names(3):
        cluster.handle(Disconnected(name))
    (refusal,) = cluster.handle(join("n2", process="2"))
    assert isinstance(refusal, Send)
    assert isinstance(refusal.order, Refuse)
    assert "no checkpoint round is common to enough members" in refusal.order.reason


def test_a_leaver_that_is_gone_may_be_cut_out_if_it_left_a_neighbour_without_an_answer() -> None:
    cluster = founded(3)
    offer = only(Offer, cluster.handle(Reported("n2", Leave())))
    answer(cluster, offer, accepted=True, next_round=0)
    start = offer.record.start
    for name in names(3):
        progress(cluster, name, start)
    cluster.handle(Disconnected("n2"))
    first, second = fences(cluster.handle(Evict(UNREQUESTED, "n2")))
    behind_fence(cluster, first, start, ("n2", start - 1))
    behind_fence(cluster, second, start)
    assert the_plan(cluster).latest.evictions == (("n2", start - 1),)
    assert cluster.handle(Evict(2, "n2")) == [Reply(2, None, "n2 is not a member")]


def test_a_controller_that_ends_refuses_newcomers_and_nobody_else() -> None:
    cluster = founded(3)
    for name in ("n0", "n1"):
        part(cluster, name)
    cluster.handle(Disconnected("n2"))
    cluster.handle(join("n4"))
    assert [a.node for a in every(Refuse, cluster.close())] == ["n4"]
    assert set(cluster.present) == {"n0", "n1"}
