"""What people read of a status."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.orders import BlockedLink
from edgenode.core.protocol.status import (
    ClusterStatus,
    Fault,
    LinkView,
    NodeState,
    NodeStatus,
    NodeView,
    OpenLink,
    Relayed,
    RelayView,
    Way,
)
from edgenode.observability.status_view import (
    cluster_json,
    faults_lines,
    less_than_uncompressed,
    open_links_lines,
    requests_json,
    requests_lines,
)


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (0.5, "2.0 times as much as uncompressed"),
        (1.0, "as much as uncompressed"),
        (1.04, "as much as uncompressed"),
        (1.33, "1.3 times less than uncompressed"),
        (67.4, "67 times less than uncompressed"),
    ],
)
def test_compression_is_a_sentence_that_is_true(factor: float, text: str) -> None:
    assert less_than_uncompressed(factor) == text


def test_faults_are_a_line_for_each_peer_with_most_first() -> None:
    seen = {
        "n0": [Fault("n3", "push", 9), Fault("n1", "answer", 1)],
        "n1": [Fault("n3", "push", 4)],
        "n3": [Fault("n3", "report", 2)],
    }
    nodes = [NodeView(name, status=NodeStatus(faults=tuple(faults))) for name, faults in seen.items()]
    assert faults_lines(nodes) == [
        "refused from n3: 13 × push, 2 × report by controller, n0, n1",
        "refused from n1: 1 × answer by n0",
    ]
    many = NodeView("n0", status=NodeStatus(faults=tuple(Fault(f"m{i}", "push", 1) for i in range(10))))
    assert faults_lines([many])[-1] == "and from 2 more"
    crowd = [NodeView(f"n{i}", status=NodeStatus(faults=(Fault("n99", "push", 1),))) for i in range(10)]
    assert faults_lines(crowd)[0].endswith("by n0, n1, n2, n3, n4, n5, n6, n7 and 2 more")


@pytest.mark.parametrize(
    ("by", "left_out", "text"),
    [
        ("", False, "; check firewall, port and address"),
        ("n2", False, "; its pushes go by way of n2; check firewall, port and address"),
        ("", True, "; check firewall, port and address. The graphs do without this link"),
    ],
    ids=["held", "relayed", "left out"],
)
def test_blocked_link_says_what_fails_since_when_and_what_to_check(by: str, left_out: bool, text: str) -> None:
    """The page shows these texts, with JavaScript and without."""
    link = LinkView("n0", BlockedLink("n1", 0, "10.0.0.3:7600", "no answer", 40.26, by), left_out)
    view = requests_json(ClusterStatus("home", links=(link,)))
    said = f"n0 cannot reach n1 (10.0.0.3:7600) for 40 s: no answer{text}"
    assert view["links"] == [
        {
            "sender": "n0", "receiver": "n1", "address": "10.0.0.3:7600", "reason": "no answer", "blocked_s": 40.3,
            "relay": by or None, "left_out": left_out, "text": said,
        }
    ]  # fmt: skip
    assert requests_lines(view) == [f"{said}."]


def test_edges_that_are_not_dialled_are_shown_by_their_way() -> None:
    by_controller = NodeStatus(ways=(Way("n2", "controller"), Way("n3", "n0")))
    nodes = (NodeView("n0", status=by_controller), NodeView("n1", status=NodeStatus(ways=(Way("n2", "controller"),))))
    status = ClusterStatus("home", nodes=nodes, relayed=(Relayed("n0", 1, 1_500_000),))
    view = cluster_json(status)
    assert [(way["way"], way["relay"], way["edges"]) for way in view["ways"]] == [
        ("reversed", None, [["n0", "n3"]]),
        ("relayed", "controller", [["n0", "n2"], ["n1", "n2"]]),
    ]
    assert requests_lines(view) == [
        "Opened by the receiver: n0 → n3.",
        "Relayed by controller (1.5 MB so far): n0 → n2, n1 → n2.",
    ]
    assert view["relayed"] == [{"node": "n0", "connections": 1, "bytes": 1_500_000, "relay": ""}]


def test_relays_are_shown_with_what_they_carry() -> None:
    relayed = (Relayed("n0", 1, 9, "controller"), Relayed("n0", 2, 1_000_000, "fra"), Relayed("n1", 1, 500_000, "fra"))
    relays = (RelayView("ber", "ber:7702", False, 75.0), RelayView("fra", "fra:7702", True, 0.0))
    nodes = (NodeView("n0", status=NodeStatus(ways=(Way("n1", "fra"),))),)
    status = ClusterStatus("home", nodes=nodes, relayed=relayed, relays=True, relay_processes=relays)
    view = cluster_json(status)
    assert requests_lines(view) == [
        "Relayed by fra (1.5 MB so far): n0 → n1.",
        "Relay ber at ber:7702: not connected for 1 min 15 s, 0 connections, 0 B so far.",
        "Relay fra at fra:7702: connected, 3 connections, 1.5 MB so far.",
    ]
    ber, fra = view["relays"]
    assert (ber["connected"], fra["relay"], fra["bytes"], fra["connections"]) == (False, "fra", 1_500_000, 3)


def test_open_links_have_their_way_and_figures() -> None:
    links = tuple(OpenLink(f"n{i}", 0.0004 * 10**i, 2_600.4) for i in (1, 2, 3, 4))
    ways = (Way("n2", "controller"), Way("n3", "n0"))
    blocked = LinkView("n0", BlockedLink("n4", 0, "10.0.0.3:7600", "no answer", 40.0, "n2"))
    ended = NodeView("n1", status=NodeStatus(state=NodeState.DONE, open_links=links))
    nodes = (NodeView("n0", status=NodeStatus(ways=ways, open_links=links)), ended)
    found = cluster_json(ClusterStatus("home", nodes=nodes, links=(blocked,)))["open_links"]
    assert open_links_lines(found) == [
        "n0 → n4: relayed by n2, 4000 ms there and back, 2.6 kB/s",
        "n0 → n3: reversed, 400 ms there and back, 2.6 kB/s",
        "n0 → n2: relayed by controller, 40 ms there and back, 2.6 kB/s",
        "n0 → n1: direct, 4.0 ms there and back, 2.6 kB/s",
    ]
    assert found[2] == {
        "sender": "n0", "receiver": "n2", "way": "relayed", "relay": "controller", "round_trip_s": 0.04,
        "bytes_per_s": 2600, "text": "n0 → n2: relayed by controller, 40 ms there and back, 2.6 kB/s",
    }  # fmt: skip
    assert open_links_lines(found, 3)[3:] == ["and 1 more: edgenode topology show --json"]
    assert open_links_lines([]) == []
