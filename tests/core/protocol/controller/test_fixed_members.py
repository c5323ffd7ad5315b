"""Runs with fixed members: who is turned away, who restarts, and what the others resume from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgenode.core.protocol.events import (
    UNREQUESTED,
    Avoid,
    ClusterAction,
    Disconnected,
    Evict,
    Extend,
    Pause,
    Reply,
    Reported,
    Resume,
    Rotate,
    Send,
    Stop,
)
from edgenode.core.protocol.orders import (
    Ended,
    FenceAnswer,
    Fetched,
    Leadership,
    Leave,
    Offer,
    Progress,
    Refuse,
    Restart,
    Sponsor,
    TrainingEnded,
    Welcome,
)
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec
from tests.core.protocol.cluster_driver import (
    QuietCluster,
    a_run_spec,
    a_started_cluster,
    answer,
    join,
    node_names,
    only,
    progress,
    reconnect,
    the_plan,
)

FIXED = Requirements("diloco", fixed=True, spans_period=True)
ADMITS = replace(FIXED, admits=True)
DOUBLING = ScheduleSpec((GraphSpec("doubling"),))


def a_fixed_cluster(nodes: int = 3, requirements: Requirements = FIXED) -> QuietCluster:
    cluster = a_started_cluster(nodes, requirements=requirements, schedule=DOUBLING)
    for name in node_names(nodes):
        progress(cluster, name, 1)
    return cluster


def orders(actions: list[ClusterAction], kind: type[Any]) -> list[str]:
    """The nodes that get such an order."""
    return [action.node for action in actions if isinstance(action, Send) and isinstance(action.order, kind)]


def restarts(
    cluster: QuietCluster, name: str, process: str, *saved: int, plan: Plan | None = None
) -> list[ClusterAction]:
    """A process ends, and the next one connects."""
    gone = cluster.handle(Disconnected(name))
    plan = (plan or the_plan(cluster)) if saved else None
    return [*gone, *cluster.handle(join(name, process=process, saved=frozenset(saved), plan=plan))]


def test_member_that_restarts_restarts_the_others_once_per_link() -> None:
    cluster = a_fixed_cluster()
    assert orders(restarts(cluster, "n1", "second", 0, 40), Restart) == ["n0", "n2"]
    assert orders(progress(cluster, "n2", 2), Restart) == []
    cluster.handle(Disconnected("n2"))
    running = Reported("n2", replace(join("n2").report, running=True, plan=the_plan(cluster)))
    assert orders(cluster.handle(running), Restart) == ["n2"]


def test_all_resume_from_the_newest_round_that_all_have_saved() -> None:
    cluster = a_fixed_cluster()
    assert not orders(restarts(cluster, "n1", "second", 40, 50), Welcome)
    assert not orders(restarts(cluster, "n0", "second", 50, 60), Welcome)
    cluster.handle(Disconnected("n2"))
    assert cluster.state.waits_for == {"n2"}
    welcomed = restarts(cluster, "n2", "second", 40, 50)
    assert orders(welcomed, Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == 50
    assert set(the_plan(cluster).latest.incarnations.values()) == {1}


def test_member_without_the_round_of_the_others_resumes_nothing() -> None:
    """SCSP would take it for a newcomer. Here, the others need what it has lost."""
    cluster = a_fixed_cluster()
    restarts(cluster, "n0", "second", 40, 50)
    restarts(cluster, "n1", "second", 40, 50)
    refused = restarts(cluster, "n2", "second", 10, 20)
    assert orders(refused, Refuse) == ["n0", "n1", "n2"]
    assert not orders(refused, Welcome)


def test_members_that_have_not_gone_beyond_round_0_start_again() -> None:
    cluster = a_fixed_cluster()
    restarts(cluster, "n0", "second", 0)
    restarts(cluster, "n1", "second")
    assert orders(restarts(cluster, "n2", "second", 0), Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == 0


def test_strangers_are_turned_away() -> None:
    cluster = a_fixed_cluster()
    (refused,) = cluster.handle(join("n9"))
    assert refused == Send("n9", Refuse("the members of this run are fixed: n0, n1, n2"))
    assert "n9" not in cluster.state.membership.present


def test_no_member_is_evicted_without_force() -> None:
    cluster = a_fixed_cluster()
    for request_id in (7, UNREQUESTED):
        (reply,) = cluster.handle(Evict(request_id, "n1"))
        assert isinstance(reply, Reply)
        assert reply.error == (
            "n1 stays: diloco needs every member of this run, and its graph; to go on without it, add --force"
        )
    assert the_plan(cluster).latest.names == ("n0", "n1", "n2")


def test_algorithm_whose_state_depends_on_neighbours_goes_on_without_nobody() -> None:
    cluster = a_started_cluster(3, requirements=Requirements("d2", fixed=True))
    (reply,) = cluster.handle(Evict(7, "n1", force=True))
    assert reply == Reply(7, None, "n1 stays: d2 needs every member of this run, and its graph")


def a_masked_cluster(nodes: int, requirements: Requirements = FIXED) -> QuietCluster:
    """A run whose messages are masked: each process comes with its key."""
    cluster = QuietCluster(
        a_run_spec(nodes, requirements=requirements, schedule=ScheduleSpec((GraphSpec("complete"),)), masked=True)
    )
    for i, name in enumerate(node_names(nodes)):
        cluster.handle(join(name, process=f"{i:064x}"))
    for name in node_names(nodes):
        progress(cluster, name, 1)
    return cluster


def mask_keys(cluster: QuietCluster) -> list[str]:
    return [member.mask_key for member in the_plan(cluster).latest.members]


def test_plan_of_masked_messages_has_the_key_of_each_process() -> None:
    cluster = a_masked_cluster(3)
    assert mask_keys(cluster) == [f"{i:064x}" for i in range(3)]
    for i, name in enumerate(node_names(3)):
        restarts(cluster, name, f"{i + 7:064x}", 40, 50)
    assert the_plan(cluster).latest.start == 50
    assert mask_keys(cluster) == [f"{i + 7:064x}" for i in range(3)]
    assert all(member.mask_key == "" for member in the_plan(a_fixed_cluster()).latest.members)


@pytest.mark.parametrize("process", ["", "second", "AB" * 32])
def test_process_without_a_key_for_masks_is_turned_away(process: str) -> None:
    cluster = a_masked_cluster(3)
    assert orders(restarts(cluster, "n1", process, 40, 50), Refuse) == ["n1"]
    assert "n1" not in cluster.state.membership.present


def test_sum_of_masked_messages_keeps_three_members() -> None:
    cluster = a_masked_cluster(4)
    cluster.handle(Disconnected("n1"))
    assert orders(cluster.handle(Evict(7, "n1", force=True)), Restart) == ["n0", "n2", "n3"]
    (reply,) = cluster.handle(Evict(8, "n2", force=True))
    assert reply == Reply(8, None, "n2 stays: without it 2 of 4 members would be left, and masked messages need 3")


def test_others_resume_between_two_exchanges_without_a_member_that_is_given_up() -> None:
    cluster = a_fixed_cluster(3)
    cluster.handle(Disconnected("n1"))
    assert orders(cluster.handle(Evict(7, "n1", force=True)), Restart) == ["n0", "n2"]
    assert orders(cluster.handle(Evict(8, "n1", force=True)), Restart) == []
    assert cluster.state.membership.to_gather(the_plan(cluster)) == {"n0", "n2"}
    assert not orders(restarts(cluster, "n0", "second", 40, 43), Welcome)
    resumed = restarts(cluster, "n2", "second", 40, 43)
    assert orders(resumed, Welcome) == ["n0", "n2"]
    latest = the_plan(cluster).latest
    assert (latest.start, latest.names, latest.rounds) == (40, ("n0", "n2"), 1000)
    assert [Reply(i, 40) in resumed for i in (7, 8)] == [True, True]
    idle, pair = (latest.schedule.graph(t, latest.names).edges for t in (40, 41))
    assert (idle, pair) == (frozenset(), {("n0", "n2"), ("n2", "n0")})
    assert cluster.state.membership.to_gather(the_plan(cluster)) == frozenset()


def test_member_that_is_given_up_and_comes_back_is_turned_away() -> None:
    cluster = a_fixed_cluster(3)
    cluster.handle(Evict(7, "n1", force=True))  # it is alive
    refused = restarts(cluster, "n1", "second", 40)
    assert Send("n1", Refuse("n1 was evicted, and the others resume")) in refused
    restarts(cluster, "n0", "second", 40)
    assert orders(restarts(cluster, "n2", "second", 40), Welcome) == ["n0", "n2"]
    refused = cluster.handle(join("n1", process="third", saved=frozenset({40}), plan=the_plan(cluster)))
    assert orders(refused, Refuse) == ["n1"]
    running = replace(join("n1").report, running=True, plan=a_fixed_cluster(3).state.plan)
    refused = cluster.handle(Reported("n1", running))
    assert Send("n1", Refuse("the run has resumed without n1")) in refused


def test_member_that_is_given_up_does_not_take_part_even_if_it_is_the_last_to_come() -> None:
    cluster = a_fixed_cluster(2)
    for name in node_names(2):
        cluster.handle(Disconnected(name))
    cluster.handle(join("n0", process="second", saved=frozenset({40}), plan=the_plan(cluster)))
    assert orders(cluster.handle(Evict(7, "n1", force=True)), Welcome) == ["n0"]
    assert the_plan(cluster).latest.names == ("n0",)


def test_last_member_stays() -> None:
    cluster = a_fixed_cluster(2)
    cluster.handle(Evict(7, "n1", force=True))
    (reply,) = cluster.handle(Evict(8, "n0", force=True))
    assert reply == Reply(8, None, "n0 stays: without it 0 of 2 members would be left")


def test_resumes_after_that_keep_the_rounds_of_an_exchange() -> None:
    cluster = a_fixed_cluster(3)
    cluster.handle(Evict(7, "n1", force=True))
    cluster.handle(Disconnected("n1"))
    for name in ("n0", "n2"):
        restarts(cluster, name, "second", 40)
    for name in ("n0", "n2"):
        restarts(cluster, name, "third", 40, 60)
    latest = the_plan(cluster).latest
    assert (latest.start, latest.names, latest.schedule.exchange) == (60, ("n0", "n2"), 2)
    cluster.handle(Disconnected("n0"))
    cluster.handle(Evict(9, "n0", force=True))
    assert orders(restarts(cluster, "n2", "fourth", 60, 80), Welcome) == ["n2"]
    assert cluster.state.exchange_rounds == 2


def test_controller_that_lost_its_disk_does_not_follow_a_member_that_was_given_up() -> None:
    cluster = a_fixed_cluster(3)
    before = the_plan(cluster)
    cluster.handle(Evict(7, "n1", force=True))
    cluster.handle(Disconnected("n1"))
    for name in ("n0", "n2"):
        restarts(cluster, name, "second", 40)
    after = the_plan(cluster)
    run_spec, leadership = cluster.state.run_spec, cluster.state.leadership
    recovering = QuietCluster(run_spec, replace(leadership, term=1), recover=True)
    for name, plan in (("n1", before), ("n0", after), ("n2", after)):
        actions = recovering.handle(Reported(name, replace(join(name).report, running=True, plan=plan)))
        assert orders(actions, Refuse) == (["n1"] if name == "n0" else [])
    assert the_plan(recovering) == after


def test_nobody_waits_for_the_answers_of_a_member_that_ended() -> None:
    cluster = a_fixed_cluster()
    latest = the_plan(cluster).latest
    farewell = FenceAnswer(0, 0, 999, (), the_plan(cluster).records)
    cluster.handle(Reported("n0", Progress(1000, latest.number, latest.digest, farewell)))
    cluster.handle(Disconnected("n0"))
    actions = cluster.handle(Evict(UNREQUESTED, "n0"))
    assert [a for a in actions if isinstance(a, Send)] == [Send("n1", Ended("n0")), Send("n2", Ended("n0"))]


def end(cluster: QuietCluster, name: str) -> list[ClusterAction]:
    """A member ends, and stays."""
    latest = the_plan(cluster).latest
    farewell = FenceAnswer(0, 0, 999, (), the_plan(cluster).records)
    return cluster.handle(Reported(name, Progress(1000, latest.number, latest.digest, farewell)))


def test_member_that_has_ended_stays_for_one_that_returns() -> None:
    cluster = a_fixed_cluster()
    for name in ("n0", "n2"):
        assert orders(end(cluster, name), Ended) == []
    assert orders(restarts(cluster, "n1", "second", 40, 50), Restart) == ["n0", "n2"]
    restarts(cluster, "n0", "second", 40, 50, 1000)
    assert orders(restarts(cluster, "n2", "second", 40, 50, 1000), Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == 50
    for name in ("n0", "n1"):
        assert orders(end(cluster, name), Ended) == []


def test_all_are_let_go_once_all_have_ended() -> None:
    cluster = a_fixed_cluster()
    for name in ("n0", "n1"):
        assert orders(end(cluster, name), Ended) == []
    assert [a for a in end(cluster, "n2") if isinstance(a, Send)] == [Send(n, Ended(n)) for n in node_names(3)]
    assert orders(end(cluster, "n2"), Ended) == []
    cluster.handle(Disconnected("n1"))  # before the order came
    running = Reported("n1", replace(join("n1").report, running=True, plan=the_plan(cluster)))
    assert orders(cluster.handle(running), Ended) == ["n1"]


def test_neither_leave_nor_other_graph_nor_broken_link_changes_anything() -> None:
    cluster = a_fixed_cluster()
    (refused,) = cluster.handle(Reported("n1", Leave()))
    assert isinstance(refused, Send)
    assert "n1 cannot leave: diloco needs every member of this run" in str(refused.order)
    (reply,) = cluster.handle(Rotate(3, (GraphSpec("complete"),), Period(1)))
    assert isinstance(reply, Reply)
    assert "the graph stays" in reply.error
    assert cluster.handle(Reported("n1", TrainingEnded())) == []
    cluster.state.broken = frozenset({("n0", "n2")})
    assert cluster.handle(Avoid(frozenset({("n0", "n2")}))) == []
    assert cluster.state.adapted(("n0", "n1", "n2")).schedule == the_plan(cluster).latest.schedule


@pytest.mark.parametrize("t", range(1, 9))
def test_changes_start_with_an_exchange(t: int) -> None:
    cluster = a_fixed_cluster()
    for name in node_names(3):
        progress(cluster, name, t)
    (offer,) = [a.order for a in cluster.handle(Stop(1)) if isinstance(a, Send) and isinstance(a.order, Offer)]
    assert offer.record.end == offer.record.start
    assert offer.record.start % 2 == 0


def test_run_is_extended_by_whole_exchanges() -> None:
    cluster = a_fixed_cluster()
    (reply,) = cluster.handle(Extend(1, 1001))
    assert reply == Reply(1, None, "an exchange takes 2 rounds, so 1001 must be a multiple of 2")
    assert orders(cluster.handle(Extend(2, 1002)), Offer) == ["n0"]


def test_others_that_have_all_ended_do_not_restart_without_a_member_that_is_given_up() -> None:
    cluster = a_fixed_cluster()
    for name in ("n0", "n2"):
        end(cluster, name)
    cluster.handle(Disconnected("n1"))
    actions = cluster.handle(Evict(7, "n1", force=True))
    assert Reply(7, None, "the run is over: its members completed all 1000 rounds") in actions
    assert (orders(actions, Restart), orders(actions, Ended)) == ([], ["n0", "n2"])
    running = Reported("n1", replace(join("n1").report, running=True, plan=the_plan(cluster)))
    assert orders(cluster.handle(running), Restart) == ["n1"]  # it waits for answers that nobody gives any more


def test_member_that_ends_while_all_restart_resumes_with_the_others() -> None:
    cluster = a_fixed_cluster()
    cluster.handle(Evict(7, "n1", force=True))
    for name in node_names(3):
        end(cluster, name)
    assert not cluster.state.over
    for name in ("n0", "n2"):
        restarted = restarts(cluster, name, "second", 40)
    assert orders(restarted, Welcome) == ["n0", "n2"]


# --- runs of exchanges that admit nodes ---------------------------------------------------------------


def joins(cluster: QuietCluster, name: str, process: str = "") -> list[ClusterAction]:
    """A node comes, fetches a model and is admitted."""
    assert orders(cluster.handle(join(name, process=process)), Sponsor) == [name]
    return is_admitted(cluster, name)


def is_admitted(cluster: QuietCluster, name: str) -> list[ClusterAction]:
    offer = only(Offer, cluster.handle(Reported(name, Fetched())))
    return answer(cluster, offer, True, offer.record.start - 1)


@pytest.mark.parametrize("t", range(1, 5))
def test_node_joins_with_an_exchange(t: int) -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    for name in node_names(3):
        progress(cluster, name, t)
    welcome = only(Welcome, joins(cluster, "n9"))
    latest = the_plan(cluster).latest
    assert (welcome.node, welcome.plan, welcome.round) == ("n9", the_plan(cluster), latest.start)
    assert latest.start > t
    assert latest.start % 2 == 0
    assert (latest.names, latest.schedule.name) == (("n0", "n1", "n2", "n9"), "doubling")


def test_exchange_keeps_its_rounds_when_more_members_would_need_more() -> None:
    cluster = a_fixed_cluster(4, ADMITS)
    joins(cluster, "n9")
    latest = the_plan(cluster).latest
    assert (latest.schedule.name, latest.schedule.exchange, cluster.state.exchange_rounds) == ("complete", 2, 2)
    assert "doubling takes 3 rounds with 5 nodes" in cluster.state.difference
    successor = QuietCluster(cluster.state.run_spec, Leadership(1), cluster.state.persist())
    recovering = QuietCluster(cluster.state.run_spec, Leadership(1), recover=True)
    recovering.handle(reconnect("n0", the_plan(cluster)))
    for other in (successor, recovering):
        four = other.state.adapted(tuple(node_names(4))).schedule
        assert four == replace(latest.schedule, graphs=DOUBLING.graphs)


def test_member_without_its_state_restarts_the_others_and_joins_again() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    assert orders(restarts(cluster, "n1", "second"), Restart) == ["n0", "n2"]
    restarts(cluster, "n0", "second", 40, 50)
    resumed = restarts(cluster, "n2", "second", 40, 50)
    assert [orders(resumed, kind) for kind in (Welcome, Sponsor, Refuse)] == [["n0", "n2"], ["n1"], []]
    assert (the_plan(cluster).latest.start, the_plan(cluster).latest.names) == (50, ("n0", "n2"))
    for name in ("n0", "n2"):
        progress(cluster, name, 51)
    assert orders(is_admitted(cluster, "n1"), Welcome) == ["n1"]
    assert the_plan(cluster).latest.names == ("n0", "n1", "n2")


def test_one_member_with_its_state_is_enough_to_resume() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    restarts(cluster, "n0", "second")
    restarts(cluster, "n1", "second")
    resumed = restarts(cluster, "n2", "second", 0, 40)
    assert [orders(resumed, kind) for kind in (Welcome, Sponsor)] == [["n2"], ["n0", "n1"]]
    assert the_plan(cluster).latest.start == 40


def test_without_any_state_all_start_again() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    joins(cluster, "n9")
    for name in ("n0", "n1", "n2"):
        restarts(cluster, name, "second", *([0] if name == "n0" else []))
    assert orders(restarts(cluster, "n9", "second"), Welcome) == ["n0", "n1", "n2", "n9"]
    assert (the_plan(cluster).latest.start, the_plan(cluster).latest.schedule.exchange) == (0, 2)


def test_members_resume_from_where_one_had_not_joined_and_it_joins_again() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    joins(cluster, "n9")
    t = the_plan(cluster).latest.start
    for name, saved in (("n0", (0, t - 2)), ("n1", (t - 2, t)), ("n2", (0, t - 2))):
        restarts(cluster, name, "second", *saved)
    resumed = restarts(cluster, "n9", "second", t)
    assert [orders(resumed, kind) for kind in (Welcome, Sponsor)] == [["n0", "n1", "n2"], ["n9"]]
    assert the_plan(cluster).latest.start == t - 2


def test_members_resume_from_where_nobody_loses_what_it_has_not_sent() -> None:
    """The one that joined was a member of the newest round of the others, and lacks it."""
    cluster = a_fixed_cluster(3, ADMITS)
    joins(cluster, "n9")
    t = the_plan(cluster).latest.start
    for name in ("n0", "n1", "n2"):
        restarts(cluster, name, "second", t - 2, t + 8)
    assert orders(restarts(cluster, "n9", "second", t), Welcome) == ["n0", "n1", "n2"]
    assert the_plan(cluster).latest.start == t - 2


def test_checkpoint_of_a_round_before_its_member_joined_counts_for_nothing() -> None:
    cluster = a_fixed_cluster(2, ADMITS)
    joins(cluster, "n9")
    for name in ("n0", "n1"):
        restarts(cluster, name, "second", 2)
    assert orders(restarts(cluster, "n9", "second", 2), Welcome) == ["n0", "n1"]


def test_newcomer_that_waits_while_all_resume_is_sent_to_a_sponsor_again() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    assert orders(cluster.handle(join("n9")), Sponsor) == ["n9"]
    for name in ("n0", "n1"):
        assert orders(restarts(cluster, name, "second", 40), Sponsor) == []
    assert orders(restarts(cluster, "n2", "second", 40), Sponsor) == ["n9"]
    for name in ("n0", "n1", "n2"):
        progress(cluster, name, 41)
    offer = only(Offer, cluster.handle(Reported("n9", Fetched())))
    assert cluster.handle(Reported("n9", Fetched())) == []  # of the sponsor before
    assert orders(answer(cluster, offer, True, 41), Welcome) == ["n9"]
    assert cluster.state.queue == []


def test_process_that_takes_the_name_of_one_that_has_not_begun_joins_again() -> None:
    cluster = a_fixed_cluster(2, ADMITS)
    assert orders(cluster.handle(join("n9", process="first")), Sponsor) == ["n9"]
    offer = only(Offer, cluster.handle(Reported("n9", Fetched())))
    cluster.handle(Disconnected("n9"))
    cluster.handle(join("n9", process="second"))
    admitted = answer(cluster, offer, True, offer.record.start - 1)
    assert [orders(admitted, kind) for kind in (Welcome, Restart)] == [[], ["n0", "n1"]]
    restarts(cluster, "n0", "second", 2)
    resumed = restarts(cluster, "n1", "second", 2)
    assert [orders(resumed, kind) for kind in (Welcome, Sponsor)] == [["n0", "n1"], ["n9"]]


def test_evicted_member_that_comes_back_joins() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    cluster.handle(Evict(7, "n1", force=True))
    cluster.handle(Disconnected("n1"))
    before = the_plan(cluster)
    for name in ("n0", "n2"):
        restarts(cluster, name, "second", 40)
    for name in ("n0", "n2"):
        progress(cluster, name, 41)
    assert orders(restarts(cluster, "n1", "second", 40, plan=before), Sponsor) == ["n1"]
    assert orders(is_admitted(cluster, "n1"), Welcome) == ["n1"]


# --- the failure detector -----------------------------------------------------------------------------


def error_of(actions: list[ClusterAction]) -> str:
    """The reason why a request is refused."""
    (error,) = [action.error for action in actions if isinstance(action, Reply)]
    return error


@pytest.mark.parametrize("request_id", [UNREQUESTED, 7])
def test_others_resume_without_a_silent_member(request_id: int) -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    cluster.handle(Disconnected("n1"))
    assert orders(cluster.handle(Evict(request_id, "n1")), Restart) == ["n0", "n2"]
    restarts(cluster, "n0", "second", 40, 43)
    resumed = restarts(cluster, "n2", "second", 40, 43)
    assert orders(resumed, Welcome) == ["n0", "n2"]
    assert (the_plan(cluster).latest.start, the_plan(cluster).latest.names) == (40, ("n0", "n2"))
    assert [a for a in resumed if isinstance(a, Reply)] == ([Reply(7, 40)] if request_id == 7 else [])


@pytest.mark.parametrize(("request_id", "resumed"), [(UNREQUESTED, ["n0", "n1", "n2"]), (7, ["n0", "n2"])])
def test_silent_member_that_is_back_in_time_resumes_with_the_others(request_id: int, resumed: list[str]) -> None:
    """One that an operator has evicted does not."""
    cluster = a_fixed_cluster(3, ADMITS)
    cluster.handle(Evict(request_id, "n1"))
    restarts(cluster, "n1", "second", 40)
    restarts(cluster, "n0", "second", 40)
    assert orders(restarts(cluster, "n2", "second", 40), Welcome) == resumed


def test_silent_member_that_comes_back_and_dies_is_out_again() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    cluster.handle(Evict(UNREQUESTED, "n1"))
    restarts(cluster, "n1", "second", 40)
    restarts(cluster, "n0", "second", 40)
    cluster.handle(Disconnected("n1"))
    assert orders(restarts(cluster, "n2", "second", 40), Welcome) == ["n0", "n2"]


def test_half_of_the_members_are_left_unless_an_operator_forces_less() -> None:
    cluster = a_fixed_cluster(4, ADMITS)
    for name in ("n1", "n2", "n3"):
        cluster.handle(Disconnected(name))
    assert orders(cluster.handle(Evict(UNREQUESTED, "n1")), Restart) == ["n0"]
    assert cluster.handle(Evict(UNREQUESTED, "n2")) == []
    assert error_of(cluster.handle(Evict(UNREQUESTED, "n3"))) == "n3 stays: without it 1 of 4 members would be left"
    assert not orders(restarts(cluster, "n0", "second", 40), Welcome)
    assert orders(cluster.handle(Evict(7, "n3", force=True)), Welcome) == ["n0"]


def test_fewest_members_are_kept() -> None:
    spec = a_run_spec(4, requirements=ADMITS, schedule=DOUBLING, min_nodes=3)
    cluster = QuietCluster(spec)
    for name in node_names(4):
        cluster.handle(join(name))
    for name in node_names(4):
        progress(cluster, name, 1)
    assert orders(cluster.handle(Evict(UNREQUESTED, "n1")), Restart) == node_names(4)
    assert error_of(cluster.handle(Evict(UNREQUESTED, "n2"))) == "n2 stays: without it 2 of 4 members would be left"
    masked = a_masked_cluster(3, ADMITS)
    assert "masked messages need 3" in error_of(masked.handle(Evict(UNREQUESTED, "n1")))


@pytest.mark.parametrize(("nodes", "evicted"), [(2, False), (3, True)])
def test_controller_that_lost_its_disk_needs_a_majority(nodes: int, evicted: bool) -> None:
    plan = the_plan(a_fixed_cluster(nodes, ADMITS))
    run_spec = a_run_spec(nodes, requirements=ADMITS, schedule=DOUBLING)
    cluster = QuietCluster(run_spec, Leadership(1), recover=True)
    for name in node_names(nodes)[:-1]:
        cluster.handle(reconnect(name, plan))
        cluster.handle(Reported(name, Progress(1, plan.latest.number, plan.latest.digest)))
    actions = cluster.handle(Evict(UNREQUESTED, f"n{nodes - 1}"))
    assert orders(actions, Restart) == (node_names(nodes)[:-1] if evicted else [])


def test_after_a_power_cut_all_are_waited_for() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    for name in node_names(3):
        cluster.handle(Disconnected(name))
    for name in ("n0", "n1"):
        restarts(cluster, name, "second", 40)
    assert cluster.awaited == frozenset()
    assert error_of(cluster.handle(Evict(UNREQUESTED, "n2"))) == (
        "n2 stays: no other member of the run is in a round; to go on without it, add --force"
    )
    assert orders(cluster.handle(Evict(7, "n2", force=True)), Welcome) == ["n0", "n1"]


def test_member_that_does_not_come_back_with_the_others_is_awaited() -> None:
    cluster = a_fixed_cluster(4, ADMITS)
    cluster.handle(Disconnected("n2"))
    assert orders(restarts(cluster, "n1", "second", 40), Restart) == ["n0", "n3"]
    assert cluster.awaited == frozenset()  # the others are in their rounds
    for name in ("n0", "n3"):
        restarts(cluster, name, "second", 40)
    assert cluster.awaited == {"n2"}
    cluster.handle(Pause(1))
    assert cluster.awaited == frozenset()
    cluster.handle(Resume(2))
    assert orders(cluster.handle(Evict(UNREQUESTED, "n2")), Welcome) == ["n0", "n1", "n3"]
    assert cluster.awaited == frozenset()


def test_members_that_ended_and_restarted_resume_without_one_that_dies_meanwhile() -> None:
    cluster = a_fixed_cluster(3, ADMITS)
    for name in ("n0", "n2"):
        end(cluster, name)
    assert error_of(cluster.handle(Evict(UNREQUESTED, "n1"))).startswith("n1 stays: no other member")
    restarts(cluster, "n1", "second", 40)
    restarts(cluster, "n0", "second", 40, 1000)
    cluster.handle(Disconnected("n1"))
    restarts(cluster, "n2", "second", 40, 1000)
    assert orders(cluster.handle(Evict(UNREQUESTED, "n1")), Welcome) == ["n0", "n2"]
    assert the_plan(cluster).latest.start == 1000
