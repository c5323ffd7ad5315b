"""Members whose training has ended: they leave as long as enough stay, and the last ones end the run."""

from __future__ import annotations

from edgenode.core.protocol.events import UNREQUESTED, Disconnected, Pause, Persist, Reply, Reported, Resume
from edgenode.core.protocol.orders import Leave, Offer, StopRun, TrainingEnded
from tests.core.protocol.cluster_driver import (
    QuietCluster,
    a_started_cluster,
    all_of,
    answer,
    join,
    kinds,
    only,
    progress,
    the_plan,
)


def ended(cluster: QuietCluster, *names: str) -> list[Offer]:
    """The offers that follow when members report that they train no more."""
    return [offer for name in names for offer in all_of(Offer, cluster.handle(Reported(name, TrainingEnded())))]


def test_a_member_that_trains_no_more_leaves() -> None:
    cluster = a_started_cluster(3)
    (offer,) = ended(cluster, "n0")
    assert (offer.record.handoffs, offer.record.end) == ((("n0", "n1"),), None)
    assert ended(cluster, "n0") == []  # it asks again and again


def test_the_last_members_stop_the_run() -> None:
    """They train no more at the same time: each asks before the first answer to an offer."""
    cluster = a_started_cluster(3)
    (offer,) = ended(cluster, "n0")
    assert ended(cluster, "n1", "n2") == []
    assert answer(cluster, offer, True, 1)
    for name in ("n0", "n1"):
        progress(cluster, name, offer.record.start)
    last = only(Offer, progress(cluster, "n2", offer.record.start))
    assert (last.record.names, last.record.handoffs, last.record.end) == (("n1", "n2"), (), last.record.start)


def test_all_members_stop_together_if_no_departure_was_accepted() -> None:
    cluster = a_started_cluster(3)
    (offer,) = ended(cluster, "n0")
    ended(cluster, "n1", "n2")
    again = only(Offer, answer(cluster, offer, False, 30))
    assert again.record.end == again.record.start
    cluster.handle(Disconnected("n0"))


def test_a_member_that_must_stay_waits_until_no_other_trains() -> None:
    cluster = a_started_cluster(2, min_nodes=2)
    assert cluster.handle(Reported("n0", TrainingEnded())) == []
    (offer,) = ended(cluster, "n1")
    assert (offer.record.names, offer.record.end) == (("n0", "n1"), offer.record.start)


def test_a_member_that_trains_again_in_a_new_process_counts_as_training() -> None:
    cluster = a_started_cluster(2, min_nodes=2)
    ended(cluster, "n0")
    cluster.handle(Disconnected("n0"))
    plan = the_plan(cluster)
    cluster.handle(join("n0", running=True, plan=plan, process="another"))
    assert ended(cluster, "n1") == []


def test_a_pause_holds_a_member_that_would_leave() -> None:
    cluster = a_started_cluster(3)
    cluster.handle(Pause(1))
    assert cluster.handle(Reported("n0", TrainingEnded())) == []
    cluster.handle(Resume(2))
    assert len(ended(cluster, "n0")) == 1


def test_strangers_and_members_that_left_are_not_heard() -> None:
    cluster = a_started_cluster(2)
    cluster.handle(join("n9"))
    for report in (TrainingEnded(), StopRun()):
        assert all_of(Offer, cluster.handle(Reported("n9", report))) == []
        assert all_of(Offer, cluster.handle(Reported("never seen", report))) == []
    assert the_plan(cluster).latest.end is None


def test_any_member_can_stop_the_run() -> None:
    cluster = a_started_cluster(3)
    actions = cluster.handle(Reported("n1", StopRun()))
    assert kinds(actions) == ["Persist", "Offer"]
    offer = only(Offer, actions)
    assert (offer.record.names, offer.record.end) == (("n0", "n1", "n2"), offer.record.start)
    assert cluster.handle(Reported("n1", StopRun())) == []
    assert answer(cluster, offer, True, 1)[-1] == Reply(UNREQUESTED, offer.record.start)
    assert cluster.handle(Reported("n2", TrainingEnded())) == []
    assert kinds(cluster.handle(Reported("n2", Leave()))) == ["LeaveRefused"]


def test_a_stop_that_a_member_asks_for_resumes_a_paused_run() -> None:
    cluster = a_started_cluster(2)
    cluster.handle(Pause(1))
    cluster.handle(Reported("n0", StopRun()))
    assert not cluster.state.paused


def test_a_stop_that_comes_too_late_changes_nothing() -> None:
    cluster = a_started_cluster(2)
    for name in ("n0", "n1"):
        progress(cluster, name, 999)
    for report in (StopRun(), TrainingEnded()):
        assert not any(isinstance(action, Persist | Reply) for action in cluster.handle(Reported("n0", report)))
