"""What connected nodes wait for, and how long one waits that was evicted though it lives."""

from __future__ import annotations

from edgenode.controller.standby import NO_LINKS, TOO_SLOW, Probation, standbys
from edgenode.core.protocol.orders import Standby
from tests.core.protocol.cluster_driver import QuietCluster, a_run_spec, a_started_cluster, join


def test_wait_doubles_up_to_five_minutes() -> None:
    now = [1000.0]
    probation, waits = Probation(20.0, lambda: now[0]), []
    for _ in range(6):
        waits.append(probation.begin("n1", TOO_SLOW))
        assert probation.waiting() == {"n1": f"n1 was evicted for {waits[-1]:.0f} s, because {TOO_SLOW}"}
        now[0] += waits[-1] + 30  # it returns, and is evicted again
        assert probation.waiting() == {}
    assert waits == [20, 40, 80, 160, 300, 300]
    assert probation.begin("n2", NO_LINKS) == 20
    now[0] += 300 + 300  # its links worked for five minutes
    assert probation.begin("n1", NO_LINKS) == 20


def test_wait_is_not_longer_for_a_rejected_eviction() -> None:
    now = [1000.0]
    probation = Probation(20.0, lambda: now[0])
    probation.begin("n1", NO_LINKS)
    now[0] += 19
    assert probation.begin("n1", NO_LINKS) == 20
    now[0] += 1
    assert probation.waiting() == {}


def test_nodes_of_a_run_to_come_wait_for_the_others() -> None:
    cluster = QuietCluster(a_run_spec(3))
    for node in ("n1", "n0"):
        cluster.handle(join(node))
    waits = [(send.node, send.order) for send in standbys(cluster.state, {"n1": "it is slow"})]
    assert waits == [(node, Standby(("n0", "n1"), 1)) for node in ("n0", "n1")]


def test_evicted_newcomer_alone_is_sent_why_it_waits() -> None:
    cluster = a_started_cluster(2)
    for node in ("n8", "n9"):
        cluster.handle(join(node))
    why = "n8 is slow"
    waits = standbys(cluster.state, dict.fromkeys(("n8", "n1", "n7"), why))  # n1 is a member, and n7 is not here
    assert [(send.node, send.order) for send in waits] == [("n8", Standby((), 0, why))]
