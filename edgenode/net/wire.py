"""Identities, plans and answers <-> protobuf messages, in both directions. No I/O.

What comes from outside is checked here, once: each ``from_wire`` raises RemoteProtocolError if it is malformed.
`push_wire` has the pushes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgenode.core import canonical
from edgenode.core.protocol.messages import Ack, Verdict
from edgenode.core.protocol.orders import Leadership
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import MAX_MEMBERS, MAX_RECORD_BYTES, Record
from edgenode.core.topology.period import DataSize
from edgenode.errors import ConfigError, DigestMismatch, RemoteProtocolError
from edgenode.net.converter import Converter, judged, message
from edgenode.net.proto import common_pb2, control_pb2, peer_pb2
from edgenode.net.text_wire import line_from_wire, name_from_wire, reason_from_wire
from edgenode.net.tls import INSECURE, Security

PROTOCOL = 4
MOST_ANSWERS = 64
"""The number of answers in one frame, to pushes of one stream."""
CHUNK_BYTES = 256 * 1024  # of a payload or a model: larger ones travel in parts
_MOST_SAMPLES = 1 << 40
_MAX_RECORDS = 16_384  # of a plan. With 16 nodes they take 14 MB.
_MOST_SAVED = 1024  # checkpoints of a node. Old ones are ever fewer, so it has some dozens
_MOST_ROUNDS = 1 << 53  # of a run: exact in JSON
_MOST_BEGUN = 4 * MAX_MEMBERS  # members, and those that were members before
_VERDICTS = {verdict: peer_pb2.Verdict.Value(f"VERDICT_{verdict.name}") for verdict in Verdict}
_VERDICT_OF = {number: verdict for verdict, number in _VERDICTS.items()}


@dataclass(frozen=True)
class Identity:
    """A process, and the run that it is in.

    Attributes:
        process: its X25519 key in hex, drawn when it started. It distinguishes two processes of one name.
        config: the text that ``run_digest`` is the digest of. Only errors use it. Another process's text is not kept.
        workload: the canonical text of what it trains. A controller has none.
        security: the credentials of the process. They never travel.
    """

    cluster: str
    node: str
    run_digest: str
    incarnation: int = 0
    plan_digest: str = ""
    process: str = ""
    config: str = field(default="", compare=False, repr=False)
    workload: str = field(default="", compare=False, repr=False)
    security: Security = field(default=INSECURE, compare=False, repr=False)

    @property
    def workload_digest(self) -> str:
        """SHA-256 of ``workload``, in hex. Empty without one."""
        return canonical.digest(self.workload) if self.workload else ""

    def to_wire(self) -> common_pb2.Identity:
        return common_pb2.Identity(
            cluster=self.cluster,
            protocol=PROTOCOL,
            node=self.node,
            incarnation=self.incarnation,
            run_digest=self.run_digest,
            plan_digest=self.plan_digest,
            process=self.process,
            config=_short(self.config),
            workload_digest=self.workload_digest,
            workload=_short(self.workload),
        )

    @classmethod
    def from_wire(cls, wire: common_pb2.Identity) -> Identity:
        """The identity that a process claims."""
        cluster, node = name_from_wire(wire.cluster), name_from_wire(wire.node)
        run, plan, process = map(line_from_wire, (wire.run_digest, wire.plan_digest, wire.process))
        return cls(cluster, node, run, wire.incarnation, plan, process)

    def is_of(self, ours: Identity, node: str) -> bool:
        """Return whether this is a node of that name in our run."""
        return (self.cluster, self.run_digest, self.node) == (ours.cluster, ours.run_digest, node)

    def check(self, wire: common_pb2.Identity, peer: str) -> Identity:
        """The other side's identity, if it is of this run.

        Args:
            peer: its address, for the error.

        Raises:
            DigestMismatch: cluster, protocol, run, workload or plan differ. The error names both values. For a run or a
                workload, it names the keys.
            RemoteProtocolError: it has no valid name.
        """
        theirs = Identity.from_wire(wire)
        peer = f"{theirs.node} at {peer}"
        pairs = [
            ("cluster", self.cluster, theirs.cluster),
            ("protocol version", str(PROTOCOL), str(wire.protocol)),
            ("run digest", self.run_digest, theirs.run_digest),
        ]
        if self.workload and wire.workload_digest:
            pairs.append(("workload", self.workload_digest, line_from_wire(wire.workload_digest)))
        if self.plan_digest and theirs.plan_digest:
            pairs.append(("plan digest", self.plan_digest, theirs.plan_digest))
        for what, ours, other in pairs:
            if ours != other:
                raise DigestMismatch(what, ours, other, peer, self._how(what, wire, other, peer))
        return theirs

    def _how(self, what: str, wire: common_pb2.Identity, digest: str, peer: str) -> str:
        """The keys that differ, if the other side's text is credible."""
        match what:
            case "run digest":
                subject, ours, theirs = "run.toml", self.config, wire.config
            case "workload":
                subject, ours, theirs = "the workload", self.workload, wire.workload
            case _:
                return ""
        keys = canonical.differences(ours, theirs, digest)
        return f"{subject} of {self.node} differs from that of {peer}: {keys}" if keys else ""


def _short(text: str) -> str:
    """A text that serves errors, unless it is too long to travel."""
    return text if len(text) <= canonical.MAX_LENGTH else ""


def _credible(size: DataSize) -> DataSize:
    """All nodes would use graphs and learning rates that follow from absurd numbers."""
    if not (size.samples <= _MOST_SAMPLES and 1 <= size.samples_per_round <= _MOST_SAMPLES):
        raise RemoteProtocolError(f"{size.samples} samples, of which a round uses {size.samples_per_round}")
    return size


def _saved_from_wire(wire: common_pb2.Saved) -> tuple[frozenset[int], Plan | None]:
    if len(wire.rounds) > _MOST_SAVED or max(wire.rounds, default=0) > _MOST_ROUNDS:
        raise RemoteProtocolError(f"{len(wire.rounds)} saved rounds: at most {_MOST_SAVED} up to {_MOST_ROUNDS}")
    return frozenset(wire.rounds), PLAN.from_wire(wire.records)


def _begun_from_wire(wire: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    if len(wire) > _MOST_BEGUN:
        raise RemoteProtocolError(f"the rounds of {len(wire)} nodes: at most {_MOST_BEGUN} are allowed")
    return tuple(sorted((name_from_wire(node), t) for node, t in wire.items()))


def records_to_wire(records: Iterable[Record]) -> list[bytes]:
    """Encode records as canonical JSON."""
    return [record.to_json().encode() for record in records]


def records_from_wire(wire: Iterable[bytes]) -> tuple[Record, ...]:
    """Decode and judge records."""
    texts = list(wire)
    if not texts:  # as in nearly all messages
        return ()
    if len(texts) > _MAX_RECORDS:
        raise RemoteProtocolError(f"{len(texts)} records in one message: at most {_MAX_RECORDS} are allowed")
    if (longest := max(map(len, texts))) > MAX_RECORD_BYTES:
        raise RemoteProtocolError(f"a record of {longest} bytes: at most {MAX_RECORD_BYTES} are allowed")
    records = tuple(Record.from_json(text) for text in texts)
    if (most := max(len(record.members) for record in records)) > MAX_MEMBERS:
        raise RemoteProtocolError(f"a record of {most} members: at most {MAX_MEMBERS} are allowed")
    return records


def plan_from_wire(wire: Iterable[bytes]) -> Plan | None:
    """Decode a plan, and check its chain. Return None for no records."""
    records = records_from_wire(wire)
    if not records:
        return None
    plan = Plan(records[:1])
    for record in records[1:]:
        plan = plan.extend(record)
    return plan


def ack_to_wire(ack: Ack) -> peer_pb2.Answer:
    """Encode the answer to a push. Written out, as each push has one: a table takes eight times as long."""
    return peer_pb2.Answer(
        round=ack.round,
        verdict=_VERDICTS[ack.verdict],
        knows=ack.knows,
        detail=ack.detail,
        records=records_to_wire(ack.records),
    )


def ack_from_wire(receiver: str, wire: peer_pb2.Answer) -> Ack:
    """Decode and judge the answer of a receiver."""
    if (verdict := _VERDICT_OF.get(wire.verdict)) is None:
        raise RemoteProtocolError(f"{receiver} answered with an unknown verdict {wire.verdict}")
    return Ack(wire.round, verdict, wire.knows, reason_from_wire(wire.detail), records_from_wire(wire.records))


NAME, LINE, REASON = judged(name_from_wire), judged(line_from_wire), judged(reason_from_wire)
NAME_OR_NONE = judged(lambda name: name_from_wire(name) if name else "")
RECORDS = Converter[Iterable[Record], Any](records_to_wire, records_from_wire)
PLAN = Converter[Plan | None, Any](lambda plan: records_to_wire(plan.records if plan else ()), plan_from_wire)
BEGUN_ROUNDS = Converter[tuple[tuple[str, int], ...], Any](dict, _begun_from_wire)
"""The rounds that nodes have begun, by name."""
SAVED = Converter[tuple[frozenset[int], Plan | None], common_pb2.Saved](
    lambda saved: common_pb2.Saved(rounds=sorted(saved[0]), records=PLAN.to_wire(saved[1])),
    _saved_from_wire,
)
"""The rounds of a node's checkpoints, and the plan of the newest."""
DATA_SIZE = message(DataSize, common_pb2.DataSize, _credible)
LEADERSHIP = message(Leadership, control_pb2.Leadership, nonce=LINE, address=LINE, run_id=LINE, signature=LINE)


def name_conflict(name: str, target: str) -> ConfigError:
    """The error of two processes with one name."""
    return ConfigError(f"the peer at {target} has this node's name {name!r}: give one of the two another --name")
