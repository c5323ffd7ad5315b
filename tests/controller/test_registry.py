"""Who is there, and how far the models of those are apart."""

from __future__ import annotations

import pytest

from edgenode.controller.registry import NodeRegistry
from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.protocol.status import NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.observability.model_sketch import BUCKETS

PLAN = create_plan("home", [Member("n0", 0, "10.0.0.1:7600"), Member("n1")], Schedule((GraphSpec("a"),), 1))


def sketched(nodes: NodeRegistry, name: str, t: int, value: float, buckets: int = BUCKETS) -> None:
    sketch = [value] + [0.0] * (buckets - 1)
    nodes.reported(name, NodeStatus(sketch_round=t, sketch=tuple(sketch)))


def test_a_member_that_never_called_is_known_by_its_address_and_one_that_did_stays_as_it_is() -> None:
    nodes = NodeRegistry()
    nodes.joined("n1", "10.0.0.9:7600", "p")
    nodes.expect(PLAN)
    assert (nodes["n0"].address, nodes["n0"].connected) == ("10.0.0.1:7600", False)
    assert (nodes["n1"].address, nodes["n1"].connected) == ("10.0.0.9:7600", True)


def test_before_the_founding_who_leaves_is_forgotten_and_later_is_not() -> None:
    nodes = NodeRegistry()
    for plan, known in ((None, False), (PLAN, True)):
        nodes.joined("n0", "here:1", "p")
        nodes.lost("n0", plan)
        assert ("n0" in nodes) is known
    assert not nodes["n0"].connected
    nodes.lost("n7", PLAN)
    nodes.reported("n7", NodeStatus())
    assert "n7" not in nodes


def test_the_distance_is_of_the_newest_round_that_all_members_have_sketched() -> None:
    nodes = NodeRegistry()
    nodes.expect(PLAN)
    assert nodes.consensus(None) is None
    assert nodes.consensus(PLAN) is None
    sketched(nodes, "n0", 50, 1.0)
    assert nodes.consensus(PLAN) is None
    sketched(nodes, "n0", 100, 5.0)
    sketched(nodes, "n1", 50, 3.0)
    assert nodes.consensus(PLAN) == (50, pytest.approx(1.0))
    sketched(nodes, "n1", 100, 5.0)
    assert nodes.consensus(PLAN) == (100, 0.0)


def test_sketches_are_few_and_those_of_another_length_do_not_count() -> None:
    nodes = NodeRegistry()
    nodes.expect(PLAN)
    for t in range(100):
        sketched(nodes, "n0", t, 1.0)
    assert sorted(nodes["n0"].sketches) == list(range(92, 100))
    sketched(nodes, "n0", 100, 1.0, buckets=3)
    assert 100 not in nodes["n0"].sketches
