"""Links that do not work: whom the controller believes, and when the graphs do without them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgenode.core.protocol.events import Avoid, ClusterAction, Pause, Reported, Rotate
from edgenode.core.protocol.orders import BlockedLink, Offer, Progress
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.requirements import Requirements
from tests.core.protocol.cluster_driver import (
    QuietCluster,
    a_run_spec,
    a_started_cluster,
    all_of,
    answer,
    node_names,
    only,
    persisted,
    the_plan,
)

LINK = ("n1", "n2")
BLOCKED = BlockedLink("n2", 0, "n2.local:1", "no answer", 12.0, by="n3")


def reports(cluster: QuietCluster, name: str, t: int, *blocked: BlockedLink) -> list[ClusterAction]:
    latest = the_plan(cluster).latest
    return cluster.handle(Reported(name, Progress(t, latest.number, latest.digest, None, blocked)))


def all_report(cluster: QuietCluster, t: int, blocked: Sequence[BlockedLink] = (BLOCKED,)) -> list[ClusterAction]:
    """Every node is in a round, and n1 cannot use some links."""
    names = node_names(len(the_plan(cluster).latest.names))
    return [a for name in names for a in reports(cluster, name, t, *(blocked if name == "n1" else ()))]


def accepted(cluster: QuietCluster, actions: list[ClusterAction]) -> None:
    offer = only(Offer, actions)
    answer(cluster, offer, accepted=True, next_round=offer.record.start - 10)


def without_the_link(**changes: object) -> QuietCluster:
    """A cluster of four in graph a, whose plan does without a link."""
    cluster = a_started_cluster(4, **changes)
    all_report(cluster, 3)
    accepted(cluster, cluster.handle(Avoid(frozenset({LINK}))))
    return cluster


def test_graphs_do_without_a_link_that_has_not_worked_for_long() -> None:
    cluster = without_the_link()
    latest = the_plan(cluster).latest
    assert (latest.schedule.name, latest.schedule.without) == ("b", (LINK,))
    assert LINK not in the_plan(cluster).graph(latest.start).edges
    assert cluster.state.difference.startswith(
        "graph b is used instead of a: without n1->n2, a is not strongly connected"
    )
    assert cluster.state.requested is not None and (cluster.state.requested.name, cluster.state.requested.without) == (
        "a",
        (),
    )


def test_link_that_works_again_is_used_again() -> None:
    cluster = without_the_link()
    start = the_plan(cluster).latest.start
    all_report(cluster, start)
    assert all_of(Offer, all_report(cluster, start + 1)) == []
    accepted(cluster, all_report(cluster, start + 2, []))
    assert (the_plan(cluster).latest.schedule.name, the_plan(cluster).latest.schedule.without) == ("a", ())
    assert cluster.state.difference == ""


def test_link_that_breaks_again_before_it_is_used_stays_left_out() -> None:
    cluster = without_the_link()
    start = the_plan(cluster).latest.start
    reports(cluster, "n1", start)
    assert cluster.state.broken == frozenset()
    assert all_of(Offer, all_report(cluster, start + 2)) == []
    assert cluster.state.broken == {LINK}


def test_sender_that_does_not_know_the_record_yet_says_nothing_of_the_link() -> None:
    cluster = without_the_link()
    start, first = the_plan(cluster).latest.start, the_plan(cluster).records[0]
    cluster.handle(Reported("n1", Progress(4, first.number, first.digest)))
    assert all_of(Offer, all_report(cluster, start)) == []


@pytest.mark.parametrize(
    ("sender", "link"),
    [
        ("n0", BLOCKED),  # no edge of the graph
        ("n1", BlockedLink("n3", 0, "n3.local:1", "no answer", 12.0)),
        ("n1", BlockedLink("n2", 1, "n2.local:1", "no answer", 12.0)),  # another process
        ("n1", BlockedLink("n9", 0, "n9.local:1", "no answer", 12.0)),
        ("n9", BLOCKED),
    ],
    ids=["not its receiver", "no receiver", "another incarnation", "no member", "a stranger"],
)
def test_only_a_sender_is_believed_about_its_receivers(sender: str, link: BlockedLink) -> None:
    cluster = a_started_cluster(4)
    all_report(cluster, 3, [])
    reports(cluster, sender, 3, link)
    assert cluster.links.views == ()
    assert all_of(Offer, cluster.handle(Avoid(frozenset({(sender, link.receiver)})))) == []


def test_link_that_is_not_reported_is_not_left_out() -> None:
    cluster = a_started_cluster(4)
    all_report(cluster, 3, [])
    assert all_of(Offer, cluster.handle(Avoid(frozenset({LINK})))) == []


def test_link_stays_where_no_graph_fits_without_it() -> None:
    cluster = a_started_cluster(2)
    all_report(cluster, 3, [BlockedLink("n0", 0, "n0.local:1", "no answer", 12.0)])
    assert all_of(Offer, cluster.handle(Avoid(frozenset({("n1", "n0")})))) == []
    assert the_plan(cluster).latest.schedule.without == ()
    assert cluster.state.difference == "no graph fits without the broken link n1->n0"


def test_requirements_of_the_algorithm_hold_without_the_link() -> None:
    cluster = without_the_link(requirements=Requirements("d-psgd", doubly_stochastic=True))
    assert the_plan(cluster).graph(the_plan(cluster).latest.start).is_doubly_stochastic


def test_rotation_that_is_requested_meanwhile_does_without_the_link() -> None:
    cluster = without_the_link()
    all_report(cluster, the_plan(cluster).latest.start)
    accepted(cluster, cluster.handle(Rotate(1, (GraphSpec("complete"),), Period(1))))
    latest = the_plan(cluster).latest
    assert (latest.schedule.name, latest.schedule.without) == ("complete", (LINK,))
    assert LINK not in the_plan(cluster).graph(latest.start).edges
    assert cluster.state.difference == "graph complete is used without the broken link n1->n2"


def test_next_controller_knows_the_link_from_the_plan() -> None:
    cluster = without_the_link()
    later = QuietCluster(a_run_spec(), saved=persisted(cluster))
    assert later.state.broken == {LINK}


def test_nothing_changes_while_the_run_is_paused() -> None:
    cluster = a_started_cluster(4)
    all_report(cluster, 3)
    cluster.handle(Pause(1))
    assert all_of(Offer, cluster.handle(Avoid(frozenset({LINK})))) == []


def test_reply_names_the_links_that_hold_the_run() -> None:
    cluster = a_started_cluster(4)
    held = BlockedLink("n2", 0, "n2.local:1", "no answer", 12.4)
    all_report(cluster, 3, [held])
    offer = only(Offer, cluster.handle(Rotate(1, (GraphSpec("b"),), Period(1))))
    (_, reply) = answer(cluster, offer, accepted=True, next_round=3)
    assert reply.start == offer.record.start
    assert reply.held_by == ("n1 cannot reach n2 (n2.local:1) for 12 s: no answer; check firewall, port and address")


def test_relayed_link_holds_nothing() -> None:
    cluster = a_started_cluster(4)
    all_report(cluster, 3)
    assert cluster.links.held_by() == ""
    assert [(view.sender, view.blocked, view.left_out) for view in cluster.links.views] == [("n1", BLOCKED, False)]


def test_link_that_stops_the_rounds_before_a_change_of_graph_is_still_named() -> None:
    """The change begins in a later round, which nobody reaches while the link stops the run."""
    stops = BlockedLink("n2", 0, "n2.local:1", "no answer", 12.0)
    cluster = a_started_cluster(4)
    all_report(cluster, 3, [stops])
    accepted(cluster, cluster.handle(Rotate(1, (GraphSpec("b"),), Period(1))))
    latest = the_plan(cluster).latest
    all_report(cluster, 4, [stops])
    assert [(view.sender, view.blocked, view.left_out) for view in cluster.links.views] == [("n1", stops, False)]
    assert cluster.links.held_by().startswith("n1 cannot reach n2")
    assert all_of(Offer, cluster.handle(Avoid(frozenset({LINK})))) == []  # graph b has no such edge
    for t in (latest.start + 1, latest.start + 2):
        all_report(cluster, t, [stops])
    assert cluster.links.views == ()
