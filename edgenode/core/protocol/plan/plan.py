"""The plan: a pure function round -> digraph, kept as a chain of records that every node derives alike.

1. A record holds from its ``start`` on, until the next one starts. Its digest covers its parent's digest, so two nodes
   that name the same digest agree on the whole history.
2. Records are numbered without gaps, and their starts increase. One number has one record: a second one is a fork.
3. Every process that was ever a member has its own incarnation under its name, so an eviction means one process.
4. Members change by name alone: one that is missing was evicted or handed over, and one that is new has an incarnation
   that no process of its name had.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import takewhile
from typing import Any, NamedTuple

from edgenode.core.topology.graph import Digraph
from edgenode.core.topology.period import NO_DATA, Epoch
from edgenode.core.topology.schedule import Schedule
from edgenode.core.topology.schedule_json import name, schedule_from_json, schedule_json, text, whole
from edgenode.errors import GraphError, RemoteProtocolError

MAX_MEMBERS = 1024
MAX_RECORD_BYTES = 1 << 16
_ROUNDING = 1 + 1e-6  # sums of float64 are off by less


@dataclass(frozen=True, order=True)
class Member:
    """A node in a record.

    Attributes:
        incarnation: tells the processes of a name apart: a device that died and came back has a higher one.
        address: host:port where peers dial it; empty with fixed peers.
        key: the id of its public key, in hex: SHA-256 over its SubjectPublicKeyInfo. Empty without certificates, and
            with fixed peers.
    """

    node: str
    incarnation: int = 0
    address: str = ""
    key: str = ""


@dataclass(frozen=True)
class Record:
    """One change of plan, in force from round ``start``.

    Attributes:
        term: of the controller that made it. Every start of a controller has a higher one.
        end: the round before which the run stops, if any.
        rounds: of training. The last phase begins with round ``rounds``, if there is one. Later records can raise it.
            None leaves it to the learner.
        handoffs: (leaver, target): members before, each of which hands all it has to a target in round start - 1.
            "heirs" in JSON.
        epoch: of the run. It never changes.
        revoked: the ids of the keys of evicted members that nobody may use any more.
        run: drawn when the run was created. It never changes, so no record of an earlier run fits. Empty with fixed
            peers.
        evictions: (node, last): silent members before, with the newest of their rounds that counts. What they pushed
            later counts nowhere, and what was pushed to them in that round or later is taken back. "cut" in JSON.
        signature: of a controller of the cluster, over ``statement``. The digest does not cover it: one statement can
            have several valid signatures.

    Raises:
        GraphError: the schedule does not fit the members.
    """

    cluster: str
    number: int
    parent: str
    start: int
    schedule: Schedule
    members: tuple[Member, ...]
    end: int | None = None
    term: int = 0
    handoffs: tuple[tuple[str, str], ...] = ()
    evictions: tuple[tuple[str, int], ...] = ()
    epoch: Epoch = NO_DATA
    revoked: tuple[str, ...] = ()
    run: str = ""
    rounds: int | None = None
    signature: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if list(self.names) != sorted(set(self.names)):
            raise GraphError("members must be sorted and named once each")
        if len(self.members) > MAX_MEMBERS:
            raise GraphError(f"{len(self.members)} members: at most {MAX_MEMBERS} are allowed")
        if self.start < 0 or self.number < 0:
            raise GraphError("a record's number and start are not negative")
        self.schedule.check(self.names)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The member ids, sorted: the positions of the presets."""
        return tuple(m.node for m in self.members)

    @cached_property
    def incarnations(self) -> dict[str, int]:
        """Member id -> incarnation."""
        return {m.node: m.incarnation for m in self.members}

    @property
    def known_by(self) -> int:
        """The first round in which every member must act on it: a leaver's neighbours do so one round early."""
        return self.start - bool(self.handoffs)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the statement, hex: equal digests mean equal histories."""
        return sha256(self.statement.encode()).hexdigest()

    @property
    def statement(self) -> str:
        """Canonical JSON without the signature: the same text on every host."""
        return _canonical(_plain(self))

    def to_json(self) -> str:
        """Canonical JSON with the signature, if there is one."""
        return _canonical(_plain(self) | ({"signature": self.signature} if self.signature else {}))

    @classmethod
    def from_json(cls, canonical: str | bytes) -> Record:
        """The inverse of ``to_json``.

        Raises:
            RemoteProtocolError: the text is not a record.
        """
        try:
            return _record(json.loads(canonical))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, GraphError) as exc:
            raise RemoteProtocolError(f"malformed plan record: {exc}") from exc


class _Past(NamedTuple):
    """Of processes: (name, incarnation) -> first round; name -> newest incarnation; name -> newest evicted one."""

    joined: dict[tuple[str, int], int]
    newest: dict[str, int]
    evictions: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """A chain of records: what is known of the past, the present, and at most one change to come."""

    records: tuple[Record, ...]

    @property
    def latest(self) -> Record:
        return self.records[-1]

    def at(self, t: int) -> Record:
        """The record in force at a round (the oldest kept one for rounds before it)."""
        for record in reversed(self.records):
            if record.start <= t:
                return record
        return self.records[0]

    def since(self, t: int) -> Plan:
        """The part of the chain that is still to come: the record in force at a round, and those that start later."""
        begun = sum(record.start <= t for record in self.records)
        return Plan(self.records[max(0, begun - 1) :])

    def graph(self, t: int) -> Digraph:
        """The digraph of a round: the same at every node that knows the same records."""
        return self._round(t)[0]

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
        """Why a record that names its parent cannot follow it: rule 4, and what no record changes. Empty if it can."""
        last, past = self.latest, self._past
        leavers, evicted = dict(record.handoffs), dict(record.evictions)
        stay = set(last.names) - leavers.keys() - evicted.keys()
        if len(leavers) < len(record.handoffs) or len(evicted) < len(record.evictions):
            return "removes a member twice"
        if not leavers.keys() <= set(last.names) or not set(leavers.values()) <= stay:
            return "hands over between nodes that are not members"
        if not evicted.keys() <= past.newest.keys() or not all(-1 <= t < record.start for t in evicted.values()):
            return "evicts what was not a member, or rounds that are to come"
        new = {m.node: m.incarnation for m in record.members if m.node not in stay}
        if len(record.members) - len(new) < len(stay) or any(i <= past.newest.get(n, -1) for n, i in new.items()):
            return "drops a member, or admits a process of the past"
        if any(record.incarnations[node] != last.incarnations[node] for node in stay):
            return "changes the incarnation of a member"
        if record.term < last.term or last.end not in (None, record.end):
            return "takes back the term or the end of the one before"
        if (record.rounds or 0) < (last.rounds or 0):
            return f"shortens the run to {record.rounds} rounds"
        if (record.run, record.epoch) != (last.run, last.epoch):
            return "is of another run"
        return ""

    def successor(self, start: int, **changes: Any) -> Record:
        """A record that follows the latest one and starts at a round; its digest chains to the parent's."""
        last = self.latest
        once: dict[str, Any] = {"handoffs": (), "evictions": (), "revoked": (), "signature": ""}
        return replace(last, number=last.number + 1, parent=last.digest, start=start, **(once | changes))

    def joined(self, node: str, incarnation: int) -> int:
        """The round from which a process is a member, as far as the records tell; 0 if it never was."""
        return self._past.joined.get((node, incarnation), 0)

    def next_incarnation(self, node: str) -> int:
        """One more than any process of this name had."""
        # precaution: every process of a name has an incarnation of its own
        return 1 + self._past.newest.get(node, -1)

    def member(self, node: str) -> Member | None:
        """The newest process that was a member under a name."""
        return next((m for record in reversed(self.records) for m in record.members if m.node == node), None)

    def admits(self, node: str, key: str, t: int) -> bool:
        """Whether a node that shows a key may speak: a member with its own, as of a round or later, others with any."""
        if node not in self.latest.names:
            return True
        own = {m.key for record in self.since(t).records for m in record.members if m.node == node}
        return key in own or "" in own

    def last_evicted(self, node: str) -> int:
        """The newest incarnation of a name that was evicted; -1 if none was."""
        return self._past.evictions.get(node, -1)

    @cached_property
    def most_mass(self) -> float:
        """An upper bound of the sum of all push-sum weights: each process that ever became a member brought 1.

        A chain that begins with a resume does not tell how many were members before. No record admits more than a run
        can have.
        """
        return (len(self._past.joined) + MAX_MEMBERS * self.records[0].number) * _ROUNDING

    @cached_property
    def _past(self) -> _Past:
        """It is looked up with every push, so the records are searched once."""
        past = _Past({}, {}, {})
        for record in self.records:
            past.evictions.update({node: past.newest.get(node, -1) for node, _ in record.evictions})
            for process in record.incarnations.items():
                past.joined.setdefault(process, record.start)
                past.newest[process[0]] = max(past.newest.get(process[0], -1), process[1])
        return past

    def holds(self, node: str, t: int, theirs: Plan) -> bool:
        """Whether a node's checkpoint of a round, saved under the node's own plan, belongs to this plan's history.

        Two kinds do not: what an evicted process saved after the last of its rounds that counts, and what was saved
        before all nodes resumed from an earlier round.
        """
        of_ours = theirs.records[0].digest == self.records[0].digest or t == self.records[0].start
        # precaution: a checkpoint from before a resume of all does not count
        return of_ours and t <= self.evicted_later(t).get(node, t)

    def evicted_later(self, t: int) -> Mapping[str, int]:
        """Members of a round that were evicted from it afterwards, each with the newest of its rounds that counts.

        Of several evictions of one name the first counts: the later ones are of processes that came after this round.
        """
        return self._round(t)[1]

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The rounds before which a record stops the run."""
        return tuple(record.end for record in self.records if record.end is not None)

    @cached_property
    def _round(self) -> Callable[[int], tuple[Digraph, Mapping[str, int]]]:
        """The graph of a round, and who was evicted from it. A node asks for the same few rounds with every event."""
        return lru_cache(maxsize=64)(self._look_up)

    def _look_up(self, t: int) -> tuple[Digraph, Mapping[str, int]]:
        record, later = self.at(t), tuple(self._from(t + 1))
        graph = record.schedule.graph(t, record.names)
        if handoffs := dict(pair for r in later if r.start == t + 1 for pair in r.handoffs):
            graph = graph.handing_over(handoffs)
        return graph, {node: last for r in later for node, last in r.evictions}

    def _from(self, t: int) -> Iterator[Record]:
        """The records that start in a round or later, newest first."""
        return takewhile(lambda record: record.start >= t, reversed(self.records))


def _canonical(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _plain(record: Record) -> dict[str, Any]:
    return {
        "cluster": record.cluster,
        "number": record.number,
        "parent": record.parent,
        "start": record.start,
        "end": record.end,
        "term": record.term,
        "heirs": [list(pair) for pair in record.handoffs],
        "cut": [list(pair) for pair in record.evictions],
        "members": [[m.node, m.incarnation, m.address, *([m.key] if m.key else [])] for m in record.members],
        "schedule": schedule_json(record.schedule),
        **({"epoch": [record.epoch.samples, record.epoch.rounds]} if record.epoch != NO_DATA else {}),
        **({"revoked": list(record.revoked)} if record.revoked else {}),
        **({"run": record.run} if record.run else {}),
        **({} if record.rounds is None else {"rounds": record.rounds}),
    }


def _record(plain: dict[str, Any]) -> Record:
    return Record(
        cluster=name(plain["cluster"]),
        number=whole(plain["number"]),
        parent=text(plain["parent"]),
        start=whole(plain["start"]),
        end=None if plain["end"] is None else whole(plain["end"]),
        term=whole(plain["term"]),
        handoffs=tuple((name(leaver), name(handoff_to)) for leaver, handoff_to in plain["heirs"]),
        evictions=tuple((name(node), whole(last, -1)) for node, last in plain["cut"]),
        members=tuple(Member(name(n), whole(i), text(a), *map(_key, key)) for n, i, a, *key in plain["members"]),
        schedule=schedule_from_json(plain["schedule"]),
        epoch=Epoch(*map(whole, plain.get("epoch", (0, 1)))),
        revoked=tuple(map(_key, plain.get("revoked", ()))),
        run=text(plain.get("run", "")),
        rounds=whole(plain["rounds"]) if "rounds" in plain else None,
        signature=text(plain.get("signature", "")),
    )


def is_key_id(text: str) -> bool:
    """Whether a text can be the id of a key."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _key(value: Any) -> str:
    if not is_key_id(text(value)):
        raise ValueError("the id of a key is 64 hex digits")
    return str(value)


def create_plan(
    cluster: str,
    members: Iterable[Member],
    schedule: Schedule,
    epoch: Epoch = NO_DATA,
    run: str = "",
    rounds: int | None = None,
) -> Plan:
    """The plan of a new run: one record, from round 0."""
    return Plan((Record(cluster, 0, "", 0, schedule, tuple(sorted(members)), epoch=epoch, run=run, rounds=rounds),))
