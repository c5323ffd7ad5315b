"""Reports that the average of the last phase was refused are noted once a member, and reach no state machine."""

from __future__ import annotations

import pytest

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.controller.refusals import Refusals
from edgenode.core.protocol.events import Accused, Reported
from edgenode.core.protocol.orders import Accusation, Leave
from edgenode.core.protocol.plan.last_phase import end_of
from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member

CONFIG = Config()
PLAN = create_plan(CONFIG.run.cluster, [Member(f"n{i}") for i in range(4)], factory.schedule(CONFIG))
END = end_of(PLAN, CONFIG.run.rounds)


def refusal(t: int, member: str = "") -> Accusation:
    return Accusation(member, 0, t, "it is far away")


def test_refusal_of_each_member_is_noted_once() -> None:
    refusals = Refusals()
    for node in ("n0", "n1"):
        report = Reported(node, refusal(END))
        assert refusals.take(report, PLAN) == [Accused(node, refusal(END))]
        assert refusals.take(report, PLAN) == []
    assert refusals.take(Reported("stranger", refusal(END)), PLAN) == []


@pytest.mark.parametrize(
    "report", [refusal(CONFIG.run.rounds), refusal(END, "n2"), refusal(END + 1), refusal(1 << 70), refusal(-1), Leave()]
)
def test_other_reports_are_for_the_cluster(report: Accusation | Leave) -> None:
    assert Refusals().take(Reported("n0", report), PLAN) is None
    assert Refusals().take(Reported("n0", refusal(END)), None) is None
