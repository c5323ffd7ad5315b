"""The rounds in which a change of plan can start, and the newest round of any node in the run."""

from __future__ import annotations

from edgenode.core.protocol.controller.changes import Change
from edgenode.core.protocol.controller.cluster_state import ClusterState
from edgenode.core.protocol.events import Extend
from edgenode.core.protocol.plan.last_phase import end_of, latest_change, most_rounds

FIRST_MARGIN = 4
"""Rounds between a member's last report and the arrival of an offer. An offer that comes too late doubles it."""

LEAD = 2
"""Rounds by which a record is known before it starts: a lone member can be in its next round already, and the
neighbours of a leaver act on the record one round before its start."""


def earliest_start(state: ClusterState) -> int:
    """The first round in which a change that is not offered yet can start."""
    latest = state.offer.record if state.offer else state.known_plan.latest
    rounds = (state.membership.next_rounds.get(node, 0) for node in state.known_plan.latest.names)
    return state.next_exchange(max(min(rounds), latest.start) + FIRST_MARGIN + LEAD)


def why_too_late(state: ClusterState, change: Change, start: int) -> str:
    """Return why a change cannot start in a round: the run ends, or the last phase adds up parts. Empty if it can."""
    plan, training = state.known_plan, state.training_rounds
    latest = latest_change(plan, state.rounds)
    # precaution: a run is extended before its training ends
    if isinstance(change, Extend) and start > min(training, latest):
        return (
            f"too late: training ends before round {training}, and round {start} is the first from which every node "
            f"can know of it; let the run end, set run.rounds = {change.rounds}, and start the controller and the "
            "nodes again, which train on from there"
        )
    # precaution: no change but an eviction starts within an allreduce
    return f"too late: the run ends with round {end_of(plan, state.rounds)}" if start > latest else ""


def most_reported(state: ClusterState) -> int:
    """A bound of the rounds that a node can report. It may know the record on offer before its answer arrives."""
    offered = state.offer.record.rounds if state.offer else None
    longer = max(0, (offered or 0) - state.training_rounds)
    return most_rounds(state.run_spec.schedule, state.rounds + longer)
