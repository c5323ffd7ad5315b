"""The events of a run, for people. They follow from its plan and its pause, not from messages.

A record of the plan has its events once, whichever controller makes or learns it. A restarted controller therefore
records what its predecessor decided and could not record.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from edgenode.core.protocol.orders import Accusation
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.protocol.status import ClusterStatus, NodeState
from edgenode.core.wording import listed
from edgenode.storage.run_history import NO_RECORD, RESTARTED, RunEvent, RunSoFar

_LONGEST_NAME = 64
_LONGEST_REASON = 1000


class EventWatch:
    """Finds new events.

    Args:
        so_far: the record of earlier controllers.
        term: the term of a controller that restarted in the middle of the run, or None.
    """

    def __init__(self, so_far: RunSoFar, term: int | None) -> None:
        self._record, self._paused, self._term = so_far.record, so_far.paused, term

    def is_news(self, plan: Plan, paused: bool) -> bool:
        """Return whether there are events since the last call of ``news``."""
        return plan.latest.number > self._record or paused != self._paused

    def news(self, plan: Plan, paused: bool, reached: int, halted_by: str = "by an operator") -> list[RunEvent]:
        """The events since the last call."""
        at, found = time.time(), list[RunEvent]()
        if self._term is not None and self._record != NO_RECORD:
            found.append(RunEvent(at, reached, "controller restarted", f"term {self._term}"))
        self._term = None
        before = None
        for record in plan.records:
            if record.number > self._record:
                found += [RunEvent(at, record.start, *what, record.number) for what in _changes(before, record)]
            before = record
        self._record = max(self._record, plan.latest.number)
        if paused != self._paused:
            kind = "paused" if paused else "resumed"
            found.append(RunEvent(at, reached, kind, halted_by))
            self._paused = paused
        return found


def poison_alarm(accuser: str, accusation: Accusation) -> RunEvent:
    """Return the text of a member's report about another member, or about its own evaluation."""
    about = f"{accusation.member}: " if accusation.member else ""
    return RunEvent(
        time.time(), accusation.round, "poison alarm", f"{about}{accusation.reason} (reported by {accuser})"
    )


def outcome_of(status: ClusterStatus, ended_well: bool) -> str:
    """Return how a run ended: done, stopped or failed. It is done if a node left, and the others did all rounds."""
    states = {node.status.state for node in status.nodes}
    stopped = NodeState.STOPPED in states and NodeState.DONE not in states
    return "failed" if not ended_well else "stopped" if stopped else "done"


def ending(outcome: str, status: ClusterStatus) -> RunEvent:
    """The end of a run: done, stopped or failed."""
    at, reached = time.time(), status.round
    if outcome == "done":
        return RunEvent(at, reached, "finished", "all nodes completed the run")
    if outcome == "stopped":
        return RunEvent(at, reached, "stopped", "as requested, and can resume from here")
    failed = [node for node in status.nodes if node.status.state is NodeState.FAILED and node.status.error]
    if not failed:
        return RunEvent(at, reached, "failed", "not all nodes completed the run")
    error = failed[0].status.error[:_LONGEST_REASON]
    named = any(node.node in error for node in status.nodes)  # the cause may lie at another node
    return RunEvent(at, reached, "failed", error if named else f"{failed[0].node}: {error}")


def _changes(before: Record | None, record: Record) -> Iterator[tuple[str, str]]:
    """(kind, text) of all that a record changes. The first record of a plan creates the run, or resumes it."""
    if before is None:
        names = _listed(record.names)
        yield ("started", names) if record.number == 0 else (RESTARTED, f"from round {record.start}: {names}")
        return
    if evicted := [node for node, _ in record.evictions]:
        yield "evicted", _listed(evicted)
    if left := [node for node, _ in record.handoffs]:
        yield "left", _listed(left)
    if new := sorted(record.incarnations.items() - before.incarnations.items()):
        yield "joined", _listed(node for node, _ in new)
    old, schedule = before.schedule, record.schedule
    if (old.graphs, old.every, old.origin) != (schedule.graphs, schedule.every, schedule.origin):
        every = f" in turn, every {schedule.every} rounds" if len(schedule.graphs) > 1 else ""
        yield "plan changed", f"graph {_listed(spec.name for spec in schedule.graphs)}{every}"
    if record.rounds != before.rounds:
        yield "extended", f"to {record.rounds} rounds of training"
    if record.end is not None and before.end is None:
        yield "stopping", f"before round {record.end}"


def _listed(names: Iterable[str]) -> str:
    """Names from outside in a text of bounded length."""
    return listed([name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names])
