"""What must hold whatever the order, asked after every event of a simulated run; it changes nothing in it.

No mass is lost, the plan never forks, nobody holds too much, and each stands still when it is told to.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from edgenode.core.protocol.events import Answer, Mixed, NodeAction, PlanChanged, Push
from edgenode.core.protocol.messages import Verdict
from edgenode.core.protocol.node import Node
from edgenode.core.protocol.plan import Plan, Record
from edgenode.core.topology.graph import Digraph
from edgenode.errors import LocalProtocolError
from tests.simulation.learners import Mass, Weighed
from tests.simulation.mass_accounting import MassAccounting, Process


class Invariants:
    """The books of a run, and what else is known of all processes at once.

    Attributes:
        graphs: the digraph of every closed round, the same at all nodes.
        halted: the last round that a process may push which was told to stand still.

    Raises:
        LocalProtocolError: by every method; a law is broken.
    """

    def __init__(self, zero: Mass, window: int, happened: Counter[str]) -> None:
        self.graphs: dict[int, Digraph] = {}
        self.halted: dict[str, int] = {}
        self._accounting, self._window, self._happened = MassAccounting(zero), window, happened
        self._member: dict[str, Process] = {}  # as which process a name takes part
        self._digests: dict[int, str] = {}
        self._checked: dict[str, Plan] = {}
        self._adopted_by_one: set[str] = set()  # digests of records
        self._root = ""  # digest of the first record of the chain that all resumed on, if they did

    def opened(self, name: str, plan: Plan, t: int, learner: Weighed) -> None:
        """A process becomes a member."""
        self._member[name] = _process(name, t, plan)
        self._accounting.open(self._member[name], learner, t)

    def resumes(self, plan: Plan, t: int) -> bool:
        """Whether a process is the first that goes on after all were down: new books, from the common round on."""
        first = plan.records[0].digest != self._root
        if first:
            self._root = plan.records[0].digest
            self._accounting = MassAccounting(0 * self._accounting.total)
            self.graphs = {r: g for r, g in self.graphs.items() if r < t}
            self._digests = {}
        return first

    def displaced(self, name: str, plan: Plan, t: int, local_update: Mass, blocks: int) -> None:
        """A process took a local step."""
        self._accounting.displaced(_process(name, t, plan), t, np.append(local_update, [0] * blocks))

    def did(self, name: str, plan: Plan, learner: Weighed, action: NodeAction) -> None:
        """A process did something to its own state."""
        match action:
            case Push(to, message):
                t = message.round
                require(t <= self.halted.get(name, t), f"{name} pushed {t}, told to stand still")
                sender, receiver = _process(name, t, plan), _process(to, t, plan)
                self._accounting.pushed(sender, receiver, t, learner.share(message))
            case Answer(to, ack):
                t = ack.round
                self._answered(_process(to, t, plan), _process(name, t, plan), t, ack.verdict)
            case Mixed(t):
                self._closed(name, plan, t)
            case PlanChanged(record):
                self._adopted(name, plan, record)

    def _answered(self, sender: Process, receiver: Process, t: int, verdict: Verdict) -> None:
        if verdict is Verdict.OK:
            self._accounting.mixed(receiver, sender, t)
        seen = verdict is Verdict.SEEN and not self._accounting.knows_as_cut(receiver)
        require(not (seen and self._accounting.awaits(sender, receiver, t)), f"{sender}'s {t} was never mixed")

    def _closed(self, name: str, plan: Plan, t: int) -> None:
        graph, process = plan.graph(t), _process(name, t, plan)
        self._accounting.debited(process, t, leaves=name in graph.leaving)
        if not self._is_foreign(plan) and not self._accounting.knows_as_cut(process):
            require(self.graphs.setdefault(t, graph) == graph, f"round {t} has two graphs")

    def _adopted(self, name: str, plan: Plan, record: Record) -> None:
        """A cut is real once someone knows it; before that, its controller may lose it with its disk."""
        first = record.digest not in self._adopted_by_one
        self._adopted_by_one.add(record.digest)
        self._happened["leave"] += first * len(record.handoffs)
        if record.evictions and first:
            self._happened["cut"] += len(record.evictions)
            self.graphs = {r: g for r, g in self.graphs.items() if r < record.start}  # and have been further
            self._digests = {r.number: r.digest for r in plan.records if r.number <= record.number}
            self._accounting.evict({_last_process(dead, plan): last for dead, last in record.evictions})
        for dead, last in record.evictions:
            process = _last_process(dead, Plan(tuple(r for r in plan.records if r.number < record.number)))
            for t in range(record.start):
                if _process(dead, t, plan) == process:
                    self._accounting.taken_back(_process(name, t, plan), process, last)

    def check(self, name: str, node: Node, learner: Weighed) -> None:
        """All laws, after a process did something."""
        if self._is_foreign(node.plan):
            return
        if not self._accounting.knows_as_cut(self._member[name]):
            if self._checked.get(name) is not node.plan:
                self._checked[name] = node.plan
                for record in node.plan.records:
                    same = self._digests.setdefault(record.number, record.digest) == record.digest
                    require(same, f"there are two records numbered {record.number}")
            for sender, held in node.buffered().items():
                require(held <= self._window, f"{name} holds {held} pushes of {sender}")
        mass = self._accounting.weigh(self._member[name])
        u = () if mass is None else mass[-learner.blocks :]
        require(all(weight > 0 for weight in u), f"u of {name} is not positive")
        balance = self._accounting.balance()
        if balance.any():
            error, scale = max(abs(balance)), 1 + max(abs(self._accounting.total))
            require(bool(error <= learner.tolerance * scale), f"mass is off by {error}")

    def check_end(self, nodes: frozenset[str]) -> None:
        """When all is over, everything that these have pushed to each other has arrived."""
        require(not self._accounting.in_flight({self._member[n] for n in nodes}), "finished with messages in flight")

    def _is_foreign(self, plan: Plan) -> bool:
        """Whether a process is of a chain that the others have left behind: a leaver, perhaps, that was done."""
        return self._root not in ("", plan.records[0].digest)


def require(holds: bool, text: str) -> None:
    """Raise LocalProtocolError unless something holds."""
    if not holds:
        raise LocalProtocolError(text)


def _process(name: str, t: int, plan: Plan) -> Process:
    """The process that a member's name means in a round."""
    incarnation = next((m.incarnation for m in plan.at(t).members if m.node == name), -1)
    return f"{name}:{incarnation}"


def _last_process(name: str, plan: Plan) -> Process:
    """The newest process that was a member under a name."""
    incarnation = next(m.incarnation for r in reversed(plan.records) for m in r.members if m.node == name)
    return f"{name}:{incarnation}"
