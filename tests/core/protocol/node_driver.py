"""Drives a ``Node`` by hand: its events in short form, and its actions by kind."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import Any

import numpy as np

from edgenode.core.protocol.events import (
    Answer,
    Answered,
    NodeAction,
    Push,
    Received,
    Report,
    Train,
    Trained,
)
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.orders import Fence
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member, Record
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from tests.simulation.exact_learner import ExactLearner
from tests.simulation.transcript import brief

ROUNDS = 6
STILL = np.array([Fraction(0)], dtype=object)  # a local update that changes nothing


def a_plan(n: int = 2, *graphs: str, every: int = 1, rounds: int | None = None) -> Plan:
    specs = tuple(map(GraphSpec, graphs or ("a",)))
    return create_plan("test", [Member(f"n{i}") for i in range(n)], Schedule(specs, every), rounds=rounds)


def a_node(name: str, plan: Plan, rounds: int = ROUNDS, **options: Any) -> Node:
    return Node(name, plan, ExactLearner(rounds, Fraction(int(name[1:]))), **options)


def pair(**options: Any) -> tuple[Node, Node]:
    """n0 <-> n1, both in training of round 0."""
    plan = a_plan(2)
    nodes = a_node("n0", plan, **options), a_node("n1", plan, **options)
    for node in nodes:
        node.start()
    return nodes


def train(node: Node) -> list[NodeAction]:
    return node.handle(Trained(node.state.round, STILL))


def pushed(actions: list[NodeAction]) -> Message:
    return next(a.message for a in actions if isinstance(a, Push))


def from_n1(node: Node, t: int) -> Message:
    record = node.state.plan.at(t)
    return Message("n1", 0, t, record.number, record.digest, 0.5, (1.0,), b"1 1")


def receive(node: Node, t: int) -> list[NodeAction]:
    return node.handle(Received(from_n1(node, t)))


def play_round(node: Node, t: int) -> list[NodeAction]:
    """Play a round of n0 in a pair."""
    train(node)
    return receive(node, t)


def fence(node: Node, *evicted: str, term: int = 0, ballot: int = 1) -> list[NodeAction]:
    return node.handle(Fence(term, ballot, frozenset(evicted)))


def exact_mass(node: Node) -> tuple[Any, Any]:
    x, u = node.state.learner.mass()  # type: ignore[attr-defined]
    return x, u


def only(kind: type, actions: list[NodeAction]) -> Any:
    """The only action of a kind, or the only report or ack of that kind."""
    carried = [a.ack if isinstance(a, Answer) else a.report if isinstance(a, Report) else a for a in actions]
    found = [a for a in (*actions, *carried) if type(a) is kind]
    assert len(found) == 1 or (len(found) == 2 and found[0] is found[1]), actions
    return found[0]


def kinds(actions: list[NodeAction]) -> list[str]:
    return [type(a).__name__ for a in actions]


def play(nodes: dict[str, Node], local_update: Any = STILL) -> list[str]:
    """Deliver everything in the order of sending. Returns the transcript."""
    lines, queue = [], deque[tuple[str, Any]]()

    def record(name: str, cause: str, actions: list[NodeAction]) -> None:
        lines.extend([f"{name} {cause}", *(f"    {brief(action)}" for action in actions)])
        for action in actions:
            match action:
                case Push(to, message):
                    queue.append((to, Received(message)))
                case Answer(to, ack):
                    queue.append((to, Answered(name, ack)))
                case Train(t, _):
                    queue.append((name, Trained(t, local_update)))

    for name, node in nodes.items():
        record(name, "start", node.start())
    while queue:
        name, event = queue.popleft()
        record(name, brief(event), nodes[name].handle(event))
    return lines


def without(plan: Plan, evicted: str, last: int, start: int) -> Record:
    members = tuple(m for m in plan.latest.members if m.node != evicted)
    return plan.successor(start, members=members, evictions=((evicted, last),))
