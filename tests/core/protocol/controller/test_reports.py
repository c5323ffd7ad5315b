"""Rounds in a report that the run does not have are refused, and nothing has changed."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.controller.reports import check_report
from edgenode.core.protocol.orders import FenceAnswer, Fetched, OfferAnswer, Progress
from edgenode.errors import RemoteProtocolError


def an_answer(begun: int = 3, evicted: int = 2) -> FenceAnswer:
    return FenceAnswer(1, 1, begun, (("n2", evicted),), ())


@pytest.mark.parametrize(
    "report",
    [
        OfferAnswer(1, "d", True, 41),
        OfferAnswer(1, "d", False, 2**64 - 1),
        Progress(41, 1, "d"),
        Progress(40, 1, "d", an_answer(begun=41)),
        an_answer(begun=2**63 - 1),
        an_answer(begun=-2),
        an_answer(evicted=41),
    ],
)
def test_rounds_outside_the_run_are_refused(report: OfferAnswer | Progress | FenceAnswer) -> None:
    with pytest.raises(RemoteProtocolError, match=r"n1 reports round -?[0-9]+ of a run of 40 rounds"):
        check_report("n1", report, 40)


@pytest.mark.parametrize(
    "report",
    [
        OfferAnswer(1, "d", True, 40),
        Progress(40, 1, "d", an_answer(begun=40)),
        an_answer(begun=-1, evicted=-1),
        Fetched(),
    ],
)
def test_rounds_of_the_run_are_believed(report: OfferAnswer | Progress | FenceAnswer | Fetched) -> None:
    check_report("n1", report, 40)
