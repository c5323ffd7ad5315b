"""Judges a push before the node believes any of it: a member can be faulty, or lie.

1. A push of round t can carry the record under which it has to be judged. So its records extend a copy of the plan, the
   push is judged by that copy, and both are taken, or neither.
2. Nothing is lost by that. Only a push that is taken has to inform its receiver. A round is mixed only with such
   pushes, so the barrier acknowledges a record as before. A repeat carries what its first copy carried, so one that is
   answered SEEN has no news.
3. A push under another record than ours comes from an evicted process, which learns that from the answer, or from a
   faulty one. The barrier and the fence let no other member push a round whose record it does not know.
4. A node believes OK and SEEN only for its own pushes, and the number of a record up to the newest that it has itself.
   A refusal is believed only if its records evict this process, or are newer than ours and have it not as a member: the
   others resumed without it. After any other refusal the push stays unanswered: its sender repeats it, waits, and names
   the receiver. It does not end.
5. A round is taken up to ``window`` ahead. Further ahead it is taken if its sender can be there: no node begins round t
   before the pushes of the rounds before it that it needs, ours among them (`flood.must_have_pushed`). This lead is
   longer than the window where only several graphs together connect all members. What a leaver hands on about others is
   held to the same bound. So a lie moves a fence by a few rounds at most.
6. u of one node is at most the sum over all, and what every process brought is 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from edgenode.core.protocol.member.member_state import Believable, MemberState
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.plan.flood import must_have_pushed
from edgenode.core.protocol.plan.last_phase import end_of, transfer
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.errors import Evicted, RemoteProtocolError

_LEAST_U = 2.0**-126  # the least normal float32: below it x has no precision left


def judge_push(state: MemberState, message: Message) -> Believable | Ack | Evicted | None:
    """Judge a push by the plan with the records that it carries. Nothing changes by that.

    Returns what to believe of it, or the answer to one that is not taken, or why this process is out. None if the push
    is ignored: it is answered later, or never.

    Raises:
        RemoteProtocolError: it is against the protocol.
    """
    sender, t = message.sender, message.round
    # precaution: a fenced node takes no push of a node that is being evicted
    if sender in state.fenced:
        return None  # what counts of it is settled when the eviction is committed, its records included
    # precaution: a push of an evicted incarnation is refused
    if message.incarnation <= state.plan.processes.last_evicted(sender):
        return _stale(state, message, state.plan.at(t))
    plan = candidate(state, message.records)
    record = plan.at(t)
    if message.digest != record.digest:
        return _stale(state, message, record)  # of an old round, too: SEEN would claim that it was mixed here
    check_push(message, plan, state.name)
    # precaution: a push that was mixed is not taken again
    if t < state.round:
        return Ack(t, Verdict.SEEN, state.plan.latest.number)
    # precaution: a repeat of a push that waits is ignored
    if not state.barrier.missing(t, (sender,)):
        return None  # it is answered when it is mixed
    check_round(state, message, plan)
    parts = transfer(plan, t, sender)
    contribution = state.learner.read(t, message.weight, message.u, message.payload, parts)
    return evicts(state, message.records) or Believable(message, plan, contribution)


def judge_refusal(state: MemberState, receiver: str, ack: Ack) -> Evicted:
    """Judge the refusal of a push of this node. It is believed if its records evict this process: step 4.

    Raises:
        RemoteProtocolError: they do not.
    """
    if ack.verdict is not Verdict.STALE:
        raise RemoteProtocolError(f"{receiver} refused round {ack.round}: {ack.detail}")
    verify(state, ack.records)
    if error := evicts(state, ack.records):
        branch(state.plan, ack.records)
        return error
    # precaution: a node that the others resumed without ends
    if resumed_without(state, ack.records):
        return Evicted(f"the run has resumed without {state.name}")
    ours = state.plan.at(ack.round).digest
    raise RemoteProtocolError(f"{receiver} refused round {ack.round}: its plan is {ack.detail[:64]}, ours {ours}")


def evicts(state: MemberState, records: Iterable[Record]) -> Evicted | None:
    """Return the error that ends this process, if records of this run evict it, or None."""
    out = any(
        state.name in dict(record.evictions)
        and record.start > state.since
        and record.run_id == state.plan.latest.run_id
        for record in records
    )
    return Evicted(f"{state.name} was evicted, and is not a member any more") if out else None


def resumed_without(state: MemberState, records: Iterable[Record]) -> bool:
    """Return whether records of this run that are newer than ours do not have this process as a member.

    Without a resume, a node that such a record leaves out knows it before the record starts, or is evicted.
    """
    latest = state.plan.latest
    newer = (record for record in records if record.number > latest.number and record.run_id == latest.run_id)
    return any(record.incarnations.get(state.name) != state.incarnation for record in newer)


def _stale(state: MemberState, message: Message, record: Record) -> Ack:
    """The refusal of a push under another record than that of its round, with the records that its sender lacks."""
    news = tuple(r for r in state.plan.records if r.number > message.number)
    return Ack(message.round, Verdict.STALE, state.plan.latest.number, record.digest, news)


def candidate(state: MemberState, records: tuple[Record, ...]) -> Plan:
    """The plan with further records, to judge by. The node does not have it yet.

    Raises:
        RemoteProtocolError: no controller signed them, they do not follow what is known, or come too late.
    """
    if not records:
        return state.plan
    verify(state, records)
    plan = extended(state.plan, records)
    if why := too_late(state, plan):
        raise RemoteProtocolError(why)
    return plan


def too_late(state: MemberState, plan: Plan) -> str:
    """Return why a record of a plan comes too late for this node. Empty if none does."""
    for record in plan.records[len(state.plan.records) :]:
        if record.known_by < state.next_round:
            return f"record {record.number} starts at {record.start}, but round {state.next_round} is next"
        # precaution: an eviction takes back no push that is not kept any more
        if any(t < state.kept_from for t, _ in state.taken_back(plan, record)):
            return f"record {record.number} takes back what was pushed before round {state.kept_from}"
    return ""


def extended(plan: Plan, records: Iterable[Record]) -> Plan:
    """A plan with all records that it does not have. Those before it begins are not needed.

    Raises:
        RemoteProtocolError: a record is not the next one of the chain, or another one has its number.
    """
    known = plan.records
    for record in records:
        if record.number > plan.latest.number:
            plan = plan.extend(record)
        elif record.number >= known[0].number and plan.records[record.number - known[0].number].digest != record.digest:
            raise RemoteProtocolError(f"two records numbered {record.number}: the plan has forked")
    return plan


def branch(plan: Plan, records: tuple[Record, ...]) -> Plan:
    """Return a plan up to the parent of the first of these records, continued with them.

    Raises:
        RemoteProtocolError: no record of the plan is their parent, or they do not follow each other.
    """
    shared = [at for at, record in enumerate(plan.records) if records and record.digest == records[0].parent]
    if not shared:
        raise RemoteProtocolError("the records do not follow any of this plan")
    plan = Plan(plan.records[: shared[0] + 1])
    for record in records:
        plan = plan.extend(record)
    return plan


def verify(state: MemberState, records: tuple[Record, ...]) -> None:
    """Believe what is known, and what a controller of this cluster signed.

    Raises:
        RemoteProtocolError: none signed it.
    """
    known = {r.digest for r in state.plan.records} if records else set()
    for record in records:
        # precaution: a record that no controller signed is not believed
        if record.digest not in known:
            state.verifier.verify(record)


def check_push(message: Message, plan: Plan, receiver: str) -> None:
    """Hold a push against the plan that its sender names: edge, incarnation, weight and u.

    Raises:
        RemoteProtocolError: the plan gives the sender nothing to push, or something else.
    """
    sender, t = message.sender, message.round
    graph, record = plan.graph(t), plan.at(t)
    if message.number != record.number or message.incarnation <= plan.processes.last_evicted(sender):
        raise RemoteProtocolError(f"{sender} pushed under record {message.number} of a plan that it has no part in")
    if sender not in graph.in_neighbours(receiver):
        raise RemoteProtocolError(f"{sender} pushed round {t}, but is not an in-neighbour in its graph")
    if message.incarnation != record.incarnations[sender]:
        raise RemoteProtocolError(f"{sender} pushed as incarnation {message.incarnation}, not its own")
    if message.weight != (weight := graph.weight(sender, receiver)):
        raise RemoteProtocolError(f"{sender} pushed with weight {message.weight}, not {weight}")
    if not all(_LEAST_U <= u <= plan.most_mass for u in message.u):
        raise RemoteProtocolError(f"{sender} pushed with u = {message.u}")


def check_round(state: MemberState, message: Message, plan: Plan) -> None:
    """Refuse a round that no peer can have begun, as far as this node and the plan know: step 5.

    Raises:
        RemoteProtocolError: the sender, or a node whose round it hands on, cannot be there.
    """
    sender, t = message.sender, message.round
    longer = (plan.latest.rounds or 0) - (state.plan.latest.rounds or 0)  # by a record that comes with this push
    end = min([end_of(plan, state.learner.rounds + longer), *plan.ends])
    since = plan.processes.joined(sender, message.incarnation)  # not what an earlier process of the name left
    full = t > state.round and state.barrier.buffered_from(sender, since) >= state.window
    mixed = state.lag.mixed_before(plan, t)  # by the sender
    # precaution: a push of a round that its sender cannot have begun is refused
    if full or t >= end or (t >= state.round + state.window and _is_ahead_of_us(state, plan, sender, mixed)):
        raise RemoteProtocolError(f"{sender} pushed round {t} of {end}, but round {state.round} is next here")
    for peer, begun in message.begun_rounds:
        known = plan.processes.next_incarnation(peer)  # 0 if it was never a member
        if not known or begun > end or _is_ahead_of_us(state, plan, peer, begun):
            raise RemoteProtocolError(f"{sender} hands on that {peer} has begun round {begun}, which cannot be")


def _is_ahead_of_us(state: MemberState, plan: Plan, node: str, t: int) -> bool:
    """Return whether a node cannot have mixed all before a round: that takes a push that this node has not made."""
    return must_have_pushed(plan, node, t, state.name, state.next_round, state.lag)
