"""The first member keeps the model that the run begins with as long as another can lack it."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.node.initial_model import InitialModel


@pytest.mark.parametrize(("graph", "until"), [("a", 3), ("complete", 1), ("exponential", 2)])
def test_it_is_served_until_every_member_must_have_it(graph: str, until: int) -> None:
    plan = create_plan("lab", [Member(f"n{i}") for i in range(4)], Schedule((GraphSpec(graph),), 10))
    initial = InitialModel.of(plan, b"model")
    assert [t for t in range(10) if initial.serves("n2", t)] == list(range(until + 1))
    assert not initial.serves("n9", 0)  # a newcomer gets the model of that moment
