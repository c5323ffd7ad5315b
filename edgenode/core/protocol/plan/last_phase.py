"""When a run ends, if it ends with an allreduce, and how the death of a node in it is survived.

1. The last phase begins in round ``last_from`` of the schedule, with the members of the record in force then. It takes
   as many rounds as they need. So the end of the run follows from the plan, and all nodes that know a record know it.
2. Rounds of the phase do not change x and u of a node (`core.algorithm.partial_sums`). No push of them is taken back.
   What an evicted node was pushed in training is taken back from x and u, where the phase begins.
3. A member is evicted while the phase is under way, by a record that starts in round R, after all rounds that any
   survivor has begun. If a survivor may not have all parts, the record begins the phase again in round R, with the
   survivors: ``last_from`` is R. Until R they complete the rounds that they have begun without the evicted.
4. If every survivor has begun a round that confirms, all have the average. The record then starts with the end of the
   run, and changes nothing.
   A survivor that is alone ends with the model that it has, which is the average if all parts were there.
5. These are all cases: a node that ended has mixed the last round that confirms. So every node had begun one, and
   there is nothing to begin again that it would be missed for.
6. No other change starts within the phase. It is refused: the run ends in a few rounds.
7. No checkpoint is due within the phase, and no evaluation, because x does not change. A run resumes from a round
   before the phase, from its first round, or from its end.
8. With an overlap (`lag`), all rounds of training are mixed before the phase begins, and the phase is in lock-step, the
   rounds in which it begins again included.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import MAX_MEMBERS
from edgenode.core.topology.allreduce import NAME, Allreduce, Transfer, hops
from edgenode.core.topology.schedule import Schedule, ScheduleSpec

_phase = lru_cache(maxsize=64)(Allreduce)


def phase_at(plan: Plan, t: int) -> Allreduce | None:
    """The allreduce that a round belongs to. None for all other rounds."""
    schedule = plan.at(t).schedule
    return _begun(plan, schedule) if _sums(schedule) and t >= schedule.last_from else None


def transfer(plan: Plan, t: int, node: str) -> Transfer | None:
    """Return the message of a member in a round of an allreduce. None in all other rounds."""
    phase = phase_at(plan, t)
    return phase.transfer(t, node) if phase else None


def is_inside(plan: Plan, t: int) -> bool:
    """Return whether an allreduce is under way before round t. It does not begin for the first time in round t."""
    phase = phase_at(plan, t)
    return phase is not None and t < phase.end and phase_at(plan, t - 1) is not None


def end_of(plan: Plan, rounds: int) -> int:
    """The round before which a run is over that nothing stops. ``rounds``: of a run without an allreduce."""
    schedule, first = plan.latest.schedule, plan.records[0].start
    if not _sums(schedule):
        return rounds
    # a run that resumes after the beginning of its phase resumes from its end
    return first if first > schedule.last_from else _begun(plan, schedule).end


def most_rounds(schedule: ScheduleSpec, rounds: int) -> int:
    """A bound of the rounds of a run: its last phase begins again at most once for each member that is evicted."""
    return rounds + MAX_MEMBERS * 3 * len(hops(MAX_MEMBERS)) if _sums(schedule) else rounds


def latest_change(plan: Plan, rounds: int) -> int:
    """The last round in which a change other than an eviction can start."""
    schedule = plan.latest.schedule
    return schedule.last_from if _sums(schedule) else rounds - 1


def without_evicted(plan: Plan, schedule: Schedule, start: int, begun: int) -> tuple[Schedule, int]:
    """The schedule of an eviction, and the round in which it starts: steps 3 and 4.

    Args:
        schedule: over the survivors.
        start: the first round that no survivor has begun.
        begun: the least round that every survivor has begun.
    """
    phase = phase_at(plan, start - 1)
    if phase is None:
        return schedule, start
    # precaution: a phase that a survivor may lack parts of begins again
    if begun < phase.confirms_from:
        return replace(schedule, last_from=start), start
    return schedule, max(start, phase.end)


def _sums(schedule: Schedule | ScheduleSpec) -> bool:
    return schedule.last is not None and schedule.last.preset == NAME


def _begun(plan: Plan, schedule: Schedule) -> Allreduce:
    assert schedule.last is not None
    return _phase(schedule.last_from, schedule.last.positions(plan.at(schedule.last_from).names))
