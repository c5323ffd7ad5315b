"""Many nodes and one controller on one seeded heap of events: simulated time only, no threads, no asyncio.

A thin shell over the state machines of the daemons: it carries what they say, late, twice, out of order or only
after some tries, and after every event asserts what must hold whatever the order. The same seed gives the same
transcript on every host. It decides nothing that a machine decides, and never looks inside one.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import Any, assert_never

import numpy as np

from edgenode.core.cluster import Charter, Cluster
from edgenode.core.graph import Digraph
from edgenode.core.messages import (
    Acknowledge,
    Acknowledged,
    AnswerOffer,
    Await,
    ClusterAction,
    ClusterEvent,
    Evaluate,
    Fail,
    Finish,
    Joined,
    Lost,
    Message,
    Mixed,
    NodeAction,
    NodeEvent,
    Offer,
    OfferAnswered,
    PlanChanged,
    Progressed,
    Push,
    Received,
    RecordOffered,
    Refuse,
    Reply,
    Rotate,
    Save,
    Stop,
    Train,
    Trained,
    Verdict,
    Welcome,
)
from edgenode.core.node import Node
from edgenode.errors import LocalProtocolError
from edgenode.simulator.learners import Mass, Weighed
from edgenode.simulator.transcript import brief

Edge = tuple[str, str, int]  # (sender, receiver, round) of a push
Displace = Callable[[str, int, Any], Any]  # (node, round, z) -> displacement
_MOST_DOUBLINGS = 2


@dataclass(frozen=True)
class Conditions:
    """What the network does to the messages, and what happens from outside.

    Attributes:
        latency_s: of every message, drawn anew: pushes overtake each other; a control link keeps its order.
        lose: share of pushes and answers that get lost; a push is repeated until answered, as in the daemon.
        duplicate: share of those that arrive twice.
        training_s: of a local step; ``slow`` overrides it by node.
        crash_s: when the controller vanishes; ``crash_at_offer`` instead counts the offer it says last.
        back_s: how long after that a new, empty one takes its place; None is never.
        orders: (when, what): an operator's change, or ``Lost``: the node's control link breaks and is redialled.
        patience_s: without any push answered, after which the run counts as deadlocked.
    """

    seed: int = 0
    latency_s: tuple[float, float] = (0.001, 0.1)
    lose: float = 0.0
    duplicate: float = 0.0
    retry_s: float = 0.5
    training_s: tuple[float, float] = (0.01, 0.05)
    slow: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    window: int = 8
    crash_s: float | None = None
    crash_at_offer: int | None = None
    back_s: float | None = None
    orders: tuple[tuple[float, Rotate | Stop | Lost], ...] = ()
    patience_s: float = 600.0


class Network:
    """One run from its founding to the last answer.

    Attributes:
        nodes, cluster: the machines; the cluster is None while the controller is away.
        lines: the transcript.
        graphs: the digraph of every closed round, the same at all nodes.
        finished, replies, refused, saves: what the machines said, for the reader of a run.

    Raises:
        LocalProtocolError: an invariant broke, or nothing moves any more. Any error of a machine is raised as it is.
    """

    def __init__(
        self, charter: Charter, learners: Mapping[str, Weighed], displace: Displace, conditions: Conditions
    ) -> None:
        self.charter, self.learners, self.conditions = charter, learners, conditions
        self.nodes: dict[str, Node] = {}
        self.cluster: Cluster | None = Cluster(charter)
        self.now = 0.0
        self.lines: list[str] = []
        self.graphs: dict[int, Digraph] = {}
        self.finished: dict[str, Finish] = {}
        self.replies: dict[int, Reply] = {}
        self.refused: dict[str, str] = {}
        self.saves: dict[str, list[Save]] = defaultdict(list)
        self._displace = displace
        self._rng = random.Random(conditions.seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tick, self._link = count(), count()
        self._moved_s = 0.0  # when a push was last answered
        self._offers = 0
        self._unanswered: set[Edge] = set()  # as the transport sees it: what is still to be repeated
        self._links: dict[str, int] = {}  # a node's control link as the node sees it,
        self._open: dict[str, int] = {}  # and as the controller does
        self._quiet_s: defaultdict[tuple[int, bool], float] = defaultdict(float)  # last arrival, each way
        self._aloft: dict[Edge, Mass] = {}  # pushed and not yet mixed
        self._here: defaultdict[tuple[str, str], set[int]] = defaultdict(set)  # arrived and not yet mixed
        self._debts: dict[tuple[str, int], Mass] = {}  # pushed, and by the sender not yet debited
        self._digests: dict[int, str] = {}
        self._total: Mass = sum(learner.mass() for learner in learners.values())  # type: ignore[assignment]
        self._between: Mass = 0 * self._total  # what is aloft, less the debts

    @property
    def digest(self) -> str:
        """SHA-256 of the transcript: equal digests mean equal runs."""
        return sha256("\n".join(self.lines).encode()).hexdigest()

    def run(self) -> Network:
        """Play until nothing is left to happen."""
        for name in sorted(self.learners):
            self._dial(name)
        for when, order in self.conditions.orders:
            self._at(when, self._order, order)
        if self.conditions.crash_s is not None:
            self._at(self.conditions.crash_s, self._crash)
        while self._heap:
            self.now, _, happen, what = heapq.heappop(self._heap)
            happen(*what)
        self._require(len(self.finished) == len(self.learners), f"the run dried up: {self._awaited()}")
        ends = {f.round for f in self.finished.values()} | {node.end for node in self.nodes.values()}
        self._require(len(ends) == 1, f"the nodes ended in rounds {sorted(ends)}")
        self._require(not (self._aloft or self._debts), "finished with messages in flight")
        return self

    # --- time ---------------------------------------------------------------------------------------

    def _at(self, when: float, happen: Callable[..., None], *what: Any) -> None:
        heapq.heappush(self._heap, (when, next(self._tick), happen, what))

    def _latency(self) -> float:
        return self._rng.uniform(*self.conditions.latency_s)

    def _send(self, arrive: Callable[..., None], *what: Any) -> None:
        """One datagram: lost, delivered, or delivered twice."""
        if self._rng.random() < self.conditions.lose:
            return
        for _ in range(1 + (self._rng.random() < self.conditions.duplicate)):
            self._at(self.now + self._latency(), arrive, *what)

    # --- nodes --------------------------------------------------------------------------------------

    def _tell(self, name: str, event: NodeEvent) -> None:
        self._act(name, event, self.nodes[name].handle(event))

    def _act(self, name: str, cause: Any, actions: list[NodeAction]) -> None:
        self._note(name, cause, actions)
        for action in actions:
            self._do(name, action)
        self._check(name)

    def _do(self, name: str, action: NodeAction) -> None:
        match action:
            case Train(round, z):
                duration = self._rng.uniform(*self.conditions.slow.get(name, self.conditions.training_s))
                self._at(self.now + duration, self._train, name, round, z)
            case Push(to, message):
                self._push(to, message)
            case Acknowledge():
                self._acknowledge(name, action)
            case Mixed(round):
                self._closed(name, round)
            case AnswerOffer():
                self._up(name, OfferAnswered(name, action))
            case PlanChanged():
                self._report(name)
            case Save():
                self.saves[name].append(action)
            case Finish():
                self.finished[name] = action
            case Fail(error):
                raise error
            case Await() | Evaluate():
                pass
            case _:
                assert_never(action)

    def _train(self, name: str, round: int, z: Any) -> None:
        displacement = self._displace(name, round, z)
        self._total = self._total + np.append(displacement, 0)
        self._tell(name, Trained(round, displacement))

    def _push(self, to: str, message: Message) -> None:
        key = message.sender, to, message.round
        share = self.learners[to].share(message)
        debt = message.sender, message.round
        self._aloft[key] = share
        self._debts[debt] = self._debts.get(debt, 0) + share
        self._unanswered.add(key)
        self._try(key, message, self.conditions.retry_s)

    def _try(self, key: Edge, message: Message, wait_s: float) -> None:
        if key not in self._unanswered:
            return
        self._require(self.now - self._moved_s < self.conditions.patience_s, f"deadlock: {self._awaited()}")
        self._send(self._arrive, key[1], message)
        longest = self.conditions.retry_s * 2**_MOST_DOUBLINGS
        self._at(self.now + wait_s, self._try, key, message, min(2 * wait_s, longest))

    def _arrive(self, to: str, message: Message) -> None:
        if to not in self.nodes:
            return  # not welcomed yet: nobody listens, and the sender will try again
        if (message.sender, to, message.round) in self._aloft:
            self._here[message.sender, to].add(message.round)
        self._tell(to, Received(message))

    def _acknowledge(self, receiver: str, answer: Acknowledge) -> None:
        key = answer.to, receiver, answer.round
        if answer.verdict is Verdict.OK:
            self._require(key in self._aloft, f"{key} was mixed twice")
            self._between = self._between - self._aloft.pop(key)
            self._here[answer.to, receiver].discard(answer.round)
        self._require(answer.verdict is not Verdict.SEEN or key not in self._aloft, f"{key} was never mixed")
        event = Acknowledged(receiver, answer.round, answer.verdict, answer.knows, answer.detail)
        self._send(self._answered, answer.to, event)

    def _answered(self, sender: str, event: Acknowledged) -> None:
        key = sender, event.receiver, event.round
        if key in self._unanswered:
            self._unanswered.remove(key)
            self._moved_s = self.now
        self._tell(sender, event)

    def _closed(self, name: str, round: int) -> None:
        self._between = self._between + self._debts.pop((name, round), 0)
        graph = self.nodes[name].plan.graph(round)
        self._require(self.graphs.setdefault(round, graph) == graph, f"round {round} has two graphs")
        self._report(name)

    # --- the controller -----------------------------------------------------------------------------

    def _dial(self, name: str) -> None:
        """Open a control link and introduce the node; what was on its way on an older link is gone."""
        if self._open.pop(name, None) is not None:
            self._decide(Lost(name))
        self._links[name] = next(self._link)
        node = self.nodes.get(name)
        plan = node.plan if node else None
        event = Joined(name, f"{name}:1", self.charter.run_digest, 1, plan=plan, running=node is not None)
        self._at(self._in_order(self._links[name], True), self._joined, self._links[name], event)
        if node:
            self._report(name)

    def _joined(self, link: int, event: Joined) -> None:
        if self.cluster and self._links[event.node] == link:
            self._open[event.node] = link
            self._decide(event)

    def _in_order(self, link: int, up: bool) -> float:
        self._quiet_s[link, up] = max(self._quiet_s[link, up], self.now + self._latency())
        return self._quiet_s[link, up]

    def _up(self, name: str, event: ClusterEvent) -> None:
        link = self._links[name]
        self._at(self._in_order(link, True), self._hear, name, link, event)

    def _hear(self, name: str, link: int, event: ClusterEvent) -> None:
        if self._open.get(name) == link:
            self._decide(event)

    def _report(self, name: str) -> None:
        node = self.nodes[name]
        latest = node.plan.latest
        self._up(name, Progressed(name, node.next_round, latest.number, latest.digest))

    def _decide(self, event: ClusterEvent) -> None:
        if self.cluster is None:
            return
        actions = self.cluster.handle(event)
        self._note("controller", event, actions)
        for action in actions:
            self._say(action)

    def _say(self, action: ClusterAction) -> None:
        match action:
            case Welcome(name) | Offer(name):
                link = self._open[name]
                self._at(self._in_order(link, False), self._deliver, name, link, action)
                self._offers += isinstance(action, Offer)
                if isinstance(action, Offer) and self._offers == self.conditions.crash_at_offer:
                    self._crash()
            case Refuse(name, reason):
                self.refused[name] = reason
            case Reply(ticket):
                self.replies[ticket] = action
            case _:
                assert_never(action)

    def _deliver(self, name: str, link: int, action: Welcome | Offer) -> None:
        if self._links[name] != link:
            return
        match action:
            case Welcome(_, plan, round):
                learner, window = self.learners[name], self.conditions.window
                self.nodes[name] = Node(name, plan, learner, round, window)
                self._act(name, action, self.nodes[name].start())
                self._report(name)
            case Offer(_, record):
                self._tell(name, RecordOffered(record))

    def _order(self, order: Rotate | Stop | Lost) -> None:
        if isinstance(order, Lost):
            self._open.pop(order.node, None)
            self._at(self.now + self._latency(), self._dial, order.node)
        self._decide(order)

    def _crash(self) -> None:
        """The controller vanishes; what it has already said may still arrive, what it was to hear does not."""
        self.cluster = None
        self._open.clear()
        self.lines.append(f"{self.now:.6f} controller gone")
        if self.conditions.back_s is not None:
            self._at(self.now + self.conditions.back_s, self._come_back)

    def _come_back(self) -> None:
        self.cluster = Cluster(self.charter)
        for name in sorted(self.learners):
            self._at(self.now + self._latency(), self._dial, name)

    # --- what must always hold ----------------------------------------------------------------------

    def _check(self, name: str) -> None:
        for record in self.nodes[name].plan.records:
            same = self._digests.setdefault(record.number, record.digest) == record.digest
            self._require(same, f"there are two records numbered {record.number}")
        for (sender, receiver), rounds in self._here.items():
            crowd = f"{receiver} holds {len(rounds)} pushes of {sender}"
            self._require(len(rounds) <= self.conditions.window, crowd)
        masses = [learner.mass() for learner in self.learners.values()]
        self._require(all(mass[-1] > 0 for mass in masses), "a push-sum weight is not positive")
        error = max(abs(sum(masses) + self._between - self._total))
        scale = self.learners[name].tolerance * (1 + max(abs(self._total)))
        self._require(bool(error <= scale), f"mass is off by {error}")

    def _require(self, holds: bool, text: str) -> None:
        if not holds:
            raise LocalProtocolError(f"at {self.now:.6f} s: {text}")

    def _awaited(self) -> str:
        waits = [f"{n} in round {node.round} waits for {node.missing()}" for n, node in self.nodes.items()]
        return "; ".join([*waits, *(f"{n} was never welcomed" for n in self.learners if n not in self.nodes)])

    def _note(self, name: str, cause: Any, actions: Sequence[Any]) -> None:
        self.lines.append(f"{self.now:.6f} {name} {brief(cause)} -> {', '.join(map(brief, actions))}")
