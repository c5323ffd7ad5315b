"""What must hold in every order of events. It is checked after every event of a simulated run, and changes nothing.

1. Mass: the sum over all processes and pushes is what joined and trained, less what evictions undid.
2. Plan: one number has one record, and one round has one graph.
3. Window: no node buffers more than a window of pushes of one sender.
4. Pause: a node that was ordered to stand still pushes no further round.
5. Truth: no honest node adopts a record that a liar made up.
6. Average: a node that ends with an allreduce has the average of what its members had when it began.
7. Cut: a checkpoint after t rounds is of a node that has pushed these rounds and no later one.
8. In time: without liars no node is left behind. An honest one keeps all that an eviction takes back.
9. Length: in one round, all members train or none does.

A liar can bring and take mass, so the sum is not checked in a run with liars. Nothing is required of a liar.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np

from edgenode.core.protocol.events import Answer, Fail, Finish, Mixed, NodeAction, PlanChanged, Push, Save
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Verdict
from edgenode.core.protocol.plan.lag import Lag
from edgenode.core.protocol.plan.last_phase import phase_at
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.record import Record
from edgenode.core.topology.graph import Digraph
from edgenode.errors import Evicted, LocalProtocolError
from tests.simulation.exchange_accounting import ExchangeAccounting
from tests.simulation.exchange_learner import ExchangeLearner
from tests.simulation.learners import Mass, TrackedLearner
from tests.simulation.liars import Liars, is_forged
from tests.simulation.mass_accounting import MassAccounting, Process


class Invariants:
    """The mass of a run, and what else is known of all its processes at once.

    Attributes:
        graphs: the digraph of every mixed round, the same at all nodes.
        halted: the last round that each process which stands still may push.

    Raises:
        LocalProtocolError: by every method; an invariant is broken.
    """

    def __init__(self, zero: Mass, window: int, happened: Counter[str], liars: Liars, lag: Lag) -> None:
        self.graphs: dict[int, Digraph] = {}
        self._trains: dict[int, bool] = {}  # round -> whether its members train
        self._newest: dict[int, int] = {}  # round -> the newest record that a member knew when it mixed
        self.halted: dict[str, int] = {}
        self._accounting, self._window, self._happened = MassAccounting(zero), window, happened
        self._exchanges = ExchangeAccounting(happened)
        self._liars, self._lag = liars, lag
        self._processes: dict[str, Process] = {}  # of the members
        self._digests: dict[int, str] = {}
        self._checked: dict[str, Plan] = {}
        self._pushed: dict[str, int] = {}  # the newest round of each process
        self._adopted: set[str] = set()  # digests of the records that any process has adopted
        self._began: dict[tuple[int, Process], Mass] = {}  # what each process had when an allreduce began in a round
        self._root = ""  # digest of the first record since all members resumed; empty if they never did
        self._roots: set[str] = set()  # this one, and those before

    def joined(self, name: str, plan: Plan, t: int, learner: TrackedLearner) -> None:
        """A process becomes a member."""
        self._processes[name] = _process(name, t, plan)
        self._pushed.pop(name, None)
        self._accounting.join(self._processes[name], learner, t)
        forged = any(is_forged(record, self._liars) for record in plan.records)
        require(name in self._liars or not forged, f"{name} was given a forged record")

    def resumed(self, plan: Plan, t: int) -> bool:
        """A process resumes after all were down. True for the first one: the accounting begins again in that round.

        One that was suspended meanwhile may do so when the others have resumed from another record since.
        """
        first = plan.records[0].digest not in self._roots
        if first:
            self._root = plan.records[0].digest
            self._roots.add(self._root)
            self._accounting = MassAccounting(0 * self._accounting.expected)
            self._exchanges.resumed(plan, t)
            self.graphs = {r: g for r, g in self.graphs.items() if r < t}
            self._trains = {r: trains for r, trains in self._trains.items() if r < t}
            self._digests = {}
        return first

    def refused(self, name: str, plan: Plan) -> None:
        """A member of a run of exchanges is turned away, which nobody gave up: the others have resumed without it."""
        require(self._is_abandoned(plan), f"{name} is turned away from the run that it is in")

    def trained(self, name: str, plan: Plan, t: int, gained: Mass) -> None:
        """A process took a local step, which adds mass."""
        self._accounting.trained(_process(name, t, plan), t, gained)

    def acted(self, name: str, plan: Plan, learner: TrackedLearner, action: NodeAction) -> None:
        """A process emitted an action: its own state has changed already."""
        if name in self._liars:
            return
        match action:
            case Push(to, message):
                t = message.round
                require(t <= self.halted.get(name, t), f"{name} pushed {t}, although it was ordered to stand still")
                self._pushed[name] = t
                if not self._is_abandoned(plan) and not self._accounting.is_evicted(_process(name, t, plan)):
                    alike = self._trains.setdefault(t, learner.trains(t)) == learner.trains(t)
                    require(alike or bool(self._liars), f"{name} trains in round {t} and others do not, or they do")
                sender, receiver = _process(name, t, plan), _process(to, t, plan)
                given = self._lag.overlap > 0 and name not in plan.graph(t).leaving
                if not self._liars and not phase_at(plan, t):
                    self._accounting.pushed(sender, receiver, t, learner.share(message), given)
            case Answer(to, ack):
                t = ack.round
                in_last_phase = phase_at(plan, t) is not None
                self._answered(_process(to, t, plan), _process(name, t, plan), t, ack.verdict, in_last_phase)
            case Mixed(t):
                self._mixed(name, plan, t, learner)
            case Finish(t, z, True):
                self._averaged(name, plan, t, z, learner.tolerance)
            case Save(t):
                require(self._pushed.get(name, -1) < t, f"{name} saved round {t} with later rounds in flight")
            case PlanChanged(record):
                self._adopt(name, plan, record)
            case Fail(Evicted() as error):
                why = str(error)
                require("takes back" not in why and (bool(self._liars) or "left behind" not in why), why)

    def _answered(
        self, sender: Process, receiver: Process, t: int, verdict: Verdict, in_last_phase: bool = False
    ) -> None:
        if verdict is Verdict.OK and not self._liars and not in_last_phase:
            self._accounting.mixed(receiver, sender, t)
        seen = verdict is Verdict.SEEN and not self._accounting.is_evicted(receiver)
        require(not (seen and self._accounting.awaits(sender, receiver, t)), f"{sender}'s {t} was never mixed")

    def _mixed(self, name: str, plan: Plan, t: int, learner: TrackedLearner) -> None:
        graph, process, phase = plan.graph(t), _process(name, t, plan), phase_at(plan, t)
        if phase is None:
            self._accounting.debited(process, t, leaves=name in graph.leaving)
        elif t == phase.start:
            self._happened["last phase"] += 1
            self._began[t, process] = learner.mass()
        if not self._is_abandoned(plan) and not self._accounting.is_evicted(process):
            self._has_one_graph(plan.latest.number, t, graph)
            if isinstance(learner, ExchangeLearner):
                self._exchanges.mixed(name, plan, t, learner)

    def _averaged(self, name: str, plan: Plan, end: int, z: Mass, tolerance: float) -> None:
        """A node has ended. It compares nothing if it took no part: it was alone, or resumed after its end."""
        phase = phase_at(plan, end)
        if phase is None or len(phase.nodes) == 1 or phase.start < plan.records[0].start:
            return
        began = [self._began.get((phase.start, _process(node, phase.start, plan))) for node in phase.nodes]
        require(all(mass is not None for mass in began), f"{name} ended before all had begun round {phase.start}")
        x, u = np.split(sum(mass for mass in began if mass is not None), [len(z)])
        error = max(abs(z - x / np.repeat(u, np.diff(np.arange(len(u) + 1) * len(z) // len(u)))))
        require(bool(error <= tolerance), f"{name} ended {error} away from the average")

    def _has_one_graph(self, number: int, t: int, graph: Digraph) -> None:
        """A liar can withhold a record from a member, which then stays behind: only among liars is it excused."""
        newest = self._newest.get(t, number)
        self._newest[t] = max(number, newest)
        if self._liars and number < newest:
            return
        if self._liars and number > newest:
            self.graphs.pop(t, None)
        require(self.graphs.setdefault(t, graph) == graph, f"round {t} has two graphs")

    def _adopt(self, name: str, plan: Plan, record: Record) -> None:
        """An eviction counts once a node knows of it. Until then the controller may lose it with its disk."""
        require(not is_forged(record, self._liars), f"{name} adopted a forged record: {record.to_json()}")
        first = record.digest not in self._adopted
        self._adopted.add(record.digest)
        self._happened["leave"] += first * len(record.handoffs)
        if record.evictions and first:
            self._happened["evicted"] += len(record.evictions)
            self.graphs = {r: g for r, g in self.graphs.items() if r < record.start}  # the evicted may have been there
            self._digests = {r.number: r.digest for r in plan.records if r.number <= record.number}
            lasts = {_last_process(node, plan): last for node, last in record.evictions}
            self._accounting.evict(lasts, partial(self._lag.mixed_before, plan))
        for node, last in record.evictions:
            process = _last_process(node, Plan(tuple(r for r in plan.records if r.number < record.number)))
            for t in range(record.start):
                if _process(node, t, plan) == process:
                    self._accounting.taken_back(_process(name, t, plan), process, last)

    def check(self, name: str, node: Node, learner: TrackedLearner) -> None:
        """Check everything after a process did something."""
        if name in self._liars or self._is_abandoned(node.state.plan):
            return
        if not self._accounting.is_evicted(self._processes[name]):
            if self._checked.get(name) is not node.state.plan:
                self._checked[name] = node.state.plan
                for record in node.state.plan.records:
                    same = self._digests.setdefault(record.number, record.digest) == record.digest
                    require(same, f"there are two records numbered {record.number}")
            for sender, buffered in node.state.buffered().items():
                require(buffered <= self._window, f"{name} buffers {buffered} pushes of {sender}")
        mass = self._accounting.measure(self._processes[name])
        u = () if mass is None else mass[-learner.blocks :].tolist()
        require(all(weight > 0 for weight in u), f"u of {name} is not positive")  # NaN is not, either
        excess = self._accounting.excess()
        if any(excess.tolist()) and not self._liars:
            error, scale = max(abs(excess)), 1 + max(abs(self._accounting.expected))
            require(bool(error <= learner.tolerance * scale), f"mass is off by {error}")

    def check_end(self, nodes: frozenset[str]) -> None:
        """At the end, everything that these nodes have pushed to each other has arrived."""
        processes = {self._processes[n] for n in nodes}
        require(not self._accounting.unsettled(processes), "finished with messages in flight")

    def _is_abandoned(self, plan: Plan) -> bool:
        """Whether a plan is from before all members resumed. A leaver that was done then may still know it."""
        return self._root not in ("", plan.records[0].digest)


def require(holds: bool, text: str) -> None:
    """Raise LocalProtocolError unless something holds."""
    if not holds:
        raise LocalProtocolError(text)


def _process(name: str, t: int, plan: Plan) -> Process:
    """The process that has a member's name in a round."""
    incarnation = next((m.incarnation for m in plan.at(t).members if m.node == name), -1)
    return f"{name}:{incarnation}"


def _last_process(name: str, plan: Plan) -> Process:
    """The newest process that was a member under a name."""
    incarnation = next(m.incarnation for r in reversed(plan.records) for m in r.members if m.node == name)
    return f"{name}:{incarnation}"
