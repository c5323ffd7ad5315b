"""A record: one change of the plan as a value, its canonical JSON and its digest.

1. A record holds from its ``start`` on, until the next one starts. Its digest covers its parent's digest, so two nodes
   that name the same digest agree on the whole history.
2. The digest and the signature are over canonical JSON, which is the same text on every host.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from edgenode.core.topology.period import NO_DATA, Epoch
from edgenode.core.topology.schedule import Schedule
from edgenode.core.topology.schedule_json import name, schedule_from_json, schedule_json, text, whole
from edgenode.errors import GraphError, RemoteProtocolError

MAX_MEMBERS = 1024  # of a run on devices
MAX_SIMULATED = 1 << 14
MAX_RECORD_BYTES = 1 << 16


@dataclass(frozen=True, order=True)
class Member:
    """A node in a record.

    Attributes:
        incarnation: distinguishes the processes of a name: a device that died and came back has a higher one.
        address: host:port where peers dial it; empty with fixed peers.
        key: the id of its public key, in hex: SHA-256 over its SubjectPublicKeyInfo. Empty without certificates, and
            with fixed peers.
        mask_key: the X25519 key of its process, in hex, in a run whose messages are masked. Else empty.
    """

    node: str
    incarnation: int = 0
    address: str = ""
    key: str = ""
    mask_key: str = ""

    def to_plain(self) -> list[str | int]:
        """Its values for JSON, without those at the end that are empty."""
        keys = [self.key, self.mask_key] if self.mask_key else [self.key] if self.key else []
        return [self.node, self.incarnation, self.address, *keys]

    @classmethod
    def from_plain(cls, node: Any, incarnation: Any, address: Any, *keys: Any) -> Member:
        """The inverse of ``to_plain``.

        Raises:
            ValueError, TypeError: they are not the values of a member.
        """
        if len(keys) == 2 and keys[0] == "":
            return cls(name(node), whole(incarnation), text(address), mask_key=_key(keys[1]))
        return cls(name(node), whole(incarnation), text(address), *map(_key, keys))


@dataclass(frozen=True)
class Record:
    """One change of plan, in force from round ``start``.

    Attributes:
        term: the term of the controller that made it. Every start of a controller has a higher one.
        end: the round before which the run stops, if any.
        rounds: the rounds of training. The last phase begins with round ``rounds``, if there is one. Later records can
            raise it. None leaves it to the learner.
        handoffs: (leaver, target): members before, each of which hands all it has to a target in round start - 1.
        epoch: the epoch of the run. It never changes.
        revoked: the ids of the keys of evicted members that nobody may use any more.
        run_id: drawn when the run was created. It never changes, so no record of an earlier run fits. Empty with fixed
            peers.
        evictions: (node, last): silent members before, with the newest of their rounds that counts. What they pushed
            later counts nowhere, and what was pushed to them in that round or later is taken back.
        signature: the signature of the cluster's authority over ``statement``. The digest does not cover it: a
            statement can have several valid signatures.

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
    run_id: str = ""
    rounds: int | None = None
    signature: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if list(self.names) != sorted(set(self.names)):
            raise GraphError("members must be sorted and named once each")
        most = MAX_MEMBERS if self.run_id else MAX_SIMULATED  # the shells refuse more devices without a controller
        if len(self.members) > most:
            raise GraphError(f"{len(self.members)} members: at most {most} are allowed")
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
        "handoffs": [list(pair) for pair in record.handoffs],
        "evictions": [list(pair) for pair in record.evictions],
        "members": [member.to_plain() for member in record.members],
        "schedule": schedule_json(record.schedule),
        **({"epoch": [record.epoch.samples, record.epoch.rounds]} if record.epoch != NO_DATA else {}),
        **({"revoked": list(record.revoked)} if record.revoked else {}),
        **({"run": record.run_id} if record.run_id else {}),
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
        handoffs=tuple((name(leaver), name(handoff_to)) for leaver, handoff_to in plain["handoffs"]),
        evictions=tuple((name(node), whole(last, -1)) for node, last in plain["evictions"]),
        members=tuple(Member.from_plain(*values) for values in plain["members"]),
        schedule=schedule_from_json(plain["schedule"]),
        epoch=Epoch(*map(whole, plain.get("epoch", (0, 1)))),
        revoked=tuple(map(_key, plain.get("revoked", ()))),
        run_id=text(plain.get("run", "")),
        rounds=whole(plain["rounds"]) if "rounds" in plain else None,
        signature=text(plain.get("signature", "")),
    )


def is_key_id(text: str) -> bool:
    """Return whether a text can be the id of a key."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _key(value: Any) -> str:
    if not is_key_id(text(value)):
        raise ValueError("the id of a key is 64 hex digits")
    return str(value)
