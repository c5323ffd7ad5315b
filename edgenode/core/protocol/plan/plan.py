"""The plan: a pure function round -> digraph, kept as a chain of records that every node derives alike.

1. Records are numbered without gaps, and their starts increase. One number has one record: a second one is a fork.
2. Every process that was ever a member has its own incarnation under its name, so an eviction means one process.
3. Members change only by name: one that is missing was evicted or handed over, and one that is new has an incarnation
   that no process of its name had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from edgenode.core.protocol.plan.processes import Processes
from edgenode.core.protocol.plan.record import MAX_MEMBERS, Member, Record
from edgenode.core.protocol.plan.round_cache import RoundCache
from edgenode.core.topology.graph import Digraph
from edgenode.core.topology.period import NO_DATA, Epoch
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import RemoteProtocolError

_ROUNDING = 1 + 1e-6  # sums of float64 are off by less


@dataclass(frozen=True)
class Plan:
    """A chain of records: what is known of the past, the present, and at most one change to come."""

    records: tuple[Record, ...]

    @cached_property
    def processes(self) -> Processes:
        """Every process that was ever a member, as far as the records say."""
        return Processes(self.records)

    @cached_property
    def _rounds(self) -> RoundCache:
        return RoundCache(self.records)

    @property
    def latest(self) -> Record:
        """The newest record."""
        return self.records[-1]

    def at(self, t: int) -> Record:
        """The record in force at a round (the oldest kept one for rounds before it)."""
        for record in reversed(self.records):
            if record.start <= t:
                return record
        return self.records[0]

    def supersedes(self, known: Plan) -> bool:
        """Return whether this chain counts more than a known one of the same run: it is longer, or evicts.

        A change that was offered to a node, and accepted as that node was evicted, is known to that node alone. The
        others have the eviction under the same number.
        """
        if self.latest.number != known.latest.number:
            return self.latest.number > known.latest.number
        # precaution: an eviction counts more than a change that only the evicted node knows
        return bool(self.latest.evictions) and not known.latest.evictions

    def news(self, known: Plan) -> tuple[Record, ...]:
        """The records that continue a known chain, or take the place of its newest one."""
        last = known.latest
        return tuple(r for r in self.records if r.number >= last.number and r.digest != last.digest)

    def since(self, t: int) -> Plan:
        """The part of the chain that is still to come: the record in force at a round, and those that start later."""
        begun = sum(record.start <= t for record in self.records)
        return Plan(self.records[max(0, begun - 1) :])

    def graph(self, t: int) -> Digraph:
        """The digraph of a round: the same at every node that knows the same records."""
        return self._rounds.look_up(t).graph

    def extend(self, record: Record) -> Plan:
        """The chain with one more record.

        Raises:
            RemoteProtocolError: the record is not the next one of this chain.
        """
        last = self.latest
        if record.number != last.number + 1 or record.parent != last.digest or record.cluster != last.cluster:
            raise RemoteProtocolError(
                f"record {record.number} (parent {record.parent[:12]}) does not follow "
                f"{last.number} ({last.digest[:12]})"
            )
        if record.start <= last.start:
            raise RemoteProtocolError(f"record {record.number} starts at {record.start}, before {last.start}")
        if reason := self._objection(record):
            raise RemoteProtocolError(f"record {record.number} {reason}")
        return Plan((*self.records, record))

    def _objection(self, record: Record) -> str:
        """Return why a record that names its parent cannot follow it (rule 3). Empty if it can."""
        last, processes = self.latest, self.processes
        leavers, evicted = dict(record.handoffs), dict(record.evictions)
        stay = set(last.names) - leavers.keys() - evicted.keys()
        if len(leavers) < len(record.handoffs) or len(evicted) < len(record.evictions):
            return "removes a member twice"
        if not leavers.keys() <= set(last.names) or not set(leavers.values()) <= stay:
            return "hands over between nodes that are not members"
        if not evicted.keys() <= processes.names or not all(-1 <= t < record.start for t in evicted.values()):
            return "evicts what was not a member, or rounds that are to come"
        new = {m.node: m.incarnation for m in record.members if m.node not in stay}
        if len(record.members) - len(new) < len(stay) or any(i <= processes.newest(n) for n, i in new.items()):
            return "drops a member, or admits a process of the past"
        if any(record.incarnations[node] != last.incarnations[node] for node in stay):
            return "changes the incarnation of a member"
        if record.term < last.term or last.end not in (None, record.end):
            return "takes back the term or the end of the one before"
        if (record.rounds or 0) < (last.rounds or 0):
            return f"shortens the run to {record.rounds} rounds"
        if (record.run_id, record.epoch) != (last.run_id, last.epoch):
            return "is of another run"
        return ""

    def successor(self, start: int, **changes: Any) -> Record:
        """A record that follows the latest one and starts at a round; its digest chains to the parent's."""
        last = self.latest
        once: dict[str, Any] = {"handoffs": (), "evictions": (), "revoked": (), "signature": ""}
        return replace(last, number=last.number + 1, parent=last.digest, start=start, **(once | changes))

    def member(self, node: str) -> Member | None:
        """The newest process that was a member under a name."""
        return next((m for record in reversed(self.records) for m in record.members if m.node == node), None)

    def admits(self, node: str, key: str, t: int) -> bool:
        """Return whether a node that shows a key may speak: a member with a key since round t, others with any."""
        if node not in self.latest.names:
            return True
        own = {m.key for record in self.since(t).records for m in record.members if m.node == node}
        return key in own or "" in own

    @cached_property
    def most_mass(self) -> float:
        """An upper bound of the sum of all push-sum weights: each process that ever became a member brought 1.

        A chain that begins with a resume does not tell how many were members before. No record admits more than a run
        can have.
        """
        return (len(self.processes) + MAX_MEMBERS * self.records[0].number) * _ROUNDING

    def holds(self, node: str, t: int, theirs: Plan) -> bool:
        """Return whether a node's checkpoint of a round, saved under ``theirs``, belongs to this plan's history.

        Two kinds do not: what an evicted process saved after the last of its rounds that counts, and what was saved
        before all nodes resumed from an earlier round.
        """
        of_ours = theirs.records[0].digest == self.records[0].digest or t == self.records[0].start
        # precaution: a checkpoint from before a resume of all does not count
        return of_ours and t <= self.evicted_later(t).get(node, t)

    def evicted_later(self, t: int) -> Mapping[str, int]:
        """Members of a round that were evicted from it afterwards, each with the newest of its rounds that counts."""
        return self._rounds.look_up(t).evicted_later

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The rounds before which a record stops the run."""
        return tuple(record.end for record in self.records if record.end is not None)


def create_plan(
    cluster: str,
    members: Iterable[Member],
    schedule: Schedule,
    epoch: Epoch = NO_DATA,
    run_id: str = "",
    rounds: int | None = None,
) -> Plan:
    """The plan of a new run: one record, from round 0."""
    return Plan(
        (Record(cluster, 0, "", 0, schedule, tuple(sorted(members)), epoch=epoch, run_id=run_id, rounds=rounds),)
    )
