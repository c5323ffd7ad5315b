"""Judges a node's numbers before the controller believes them: a member can be faulty, or lie.

A round that no run can have would become the start of a record, and every node would look for the graphs up to there.
A round that the run has moves a fence or a change by some rounds, and nothing else.
"""

from __future__ import annotations

from edgenode.core.protocol.orders import Accusation, FenceAnswer, NodeReport, OfferAnswer, Progress
from edgenode.errors import RemoteProtocolError


def check_report(node: str, report: NodeReport, rounds: int) -> None:
    """Hold the rounds in a report against the number of rounds of the run.

    Raises:
        RemoteProtocolError: the run does not have one of them.
    """
    match report:
        case OfferAnswer(next_round=t) | Progress(next_round=t, farewell=None) | Accusation(round=t):
            found = [t]
        case Progress(next_round=t, farewell=FenceAnswer() as answer):
            found = [t, *_rounds_of(answer)]
        case FenceAnswer():
            found = _rounds_of(report)
        case _:
            return
    for t in found:
        if not -1 <= t <= rounds:
            raise RemoteProtocolError(f"{node} reports round {t} of a run of {rounds} rounds")


def _rounds_of(answer: FenceAnswer) -> list[int]:
    return [answer.begun, *(t for _, t in answer.begun_rounds)]
