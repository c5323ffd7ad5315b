"""Many nodes and one controller on one seeded heap of events: simulated time only, no threads, no asyncio.

A thin shell over the state machines of the daemons: it carries what they say, late, twice, out of order or only
after some tries, and after every event asserts what must hold whatever the order. The same seed gives the same
transcript on every host. It decides nothing that a machine decides, and never looks inside one.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from itertools import count
from typing import Any, assert_never

import numpy as np

from edgenode.core.cluster import Charter, Cluster
from edgenode.core.graph import Digraph
from edgenode.core.messages import (
    Abdicate,
    Acknowledge,
    Acknowledged,
    AnswerFence,
    AnswerOffer,
    Await,
    ClusterAction,
    ClusterEvent,
    Decree,
    Decreed,
    Evaluate,
    Evict,
    Fail,
    Fence,
    FenceAnswered,
    Fenced,
    Fetched,
    Finish,
    Hello,
    Joined,
    Lost,
    Message,
    Mixed,
    NodeAction,
    NodeEvent,
    Offer,
    OfferAnswered,
    Persist,
    PlanChanged,
    Progressed,
    Push,
    Received,
    RecordOffered,
    Refuse,
    Reign,
    Reply,
    Save,
    Sponsor,
    Train,
    Trained,
    Verdict,
    Welcome,
)
from edgenode.core.node import Node
from edgenode.core.plan import Plan, Record
from edgenode.errors import Evicted, LocalProtocolError
from edgenode.simulator.books import Books
from edgenode.simulator.conditions import Conditions, Fault, Freeze, Kill, Order, Start
from edgenode.simulator.learners import Weighed
from edgenode.simulator.transcript import brief

Displace = Callable[[str, int, Any], Any]  # (node, round, z) -> displacement
_MOST_DOUBLINGS = 2


class Network:
    """One run from its founding to the last answer.

    Args:
        learners: of the founders.
        newborn: z -> the learner of a newcomer; without it nobody can join.

    Attributes:
        nodes, cluster: the machines; the cluster is None while the controller is away.
        lines: the transcript.
        graphs: the digraph of every closed round, the same at all nodes.
        finished, replies, refused, saves: what the machines said, for the reader of a run.
        happened: how often each kind of fault really happened.

    Raises:
        LocalProtocolError: an invariant broke, or nothing moves any more. Any error of a machine is raised as it is.
    """

    def __init__(
        self,
        charter: Charter,
        learners: Mapping[str, Weighed],
        displace: Displace,
        conditions: Conditions,
        newborn: Callable[[Any], Weighed] | None = None,
    ) -> None:
        self.charter, self.conditions = charter, conditions
        self.learners: dict[str, Weighed] = dict(learners)
        self.nodes: dict[str, Node] = {}
        self.cluster: Cluster | None = Cluster(charter, Reign(0, "c0"))
        self.now = 0.0
        self.lines: list[str] = []
        self.graphs: dict[int, Digraph] = {}
        self.finished: dict[str, Finish] = {}
        self.replies: dict[int, Reply] = {}
        self.refused: dict[str, str] = {}
        self.saves: dict[str, list[Save]] = defaultdict(list)
        self.happened: Counter[str] = Counter()
        self._displace, self._newborn = displace, newborn
        self._rng = random.Random(conditions.seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tick, self._link = count(), count()
        self._moved_s = 0.0  # when a push was last answered
        self._offers = self._starts = 0
        self._life: dict[str, int] = {}  # which process of a name runs; absent while none does
        self._lives: Counter[str] = Counter()
        self._thaws_s: dict[str, float] = {}
        self._born: dict[str, Weighed] = {}  # newcomers that have fetched the model
        self._disk: defaultdict[str, dict[int, tuple[Weighed, Plan]]] = defaultdict(dict)
        self._unanswered: set[tuple[str, int, str, int]] = set()  # what the transport still repeats
        self._follows: dict[str, Reign] = {}  # whom a process took its last order from
        self._links: dict[str, int] = {}  # a node's control link as the node sees it,
        self._open: dict[str, int] = {}  # and as the controller does
        self._quiet_s: defaultdict[tuple[int, bool], float] = defaultdict(float)  # last arrival, each way
        self._digests: dict[int, str] = {}
        self._persisted: Persist | None = None
        self._books = Books(0 * next(iter(learners.values())).mass())

    @property
    def digest(self) -> str:
        """SHA-256 of the transcript: equal digests mean equal runs."""
        return sha256("\n".join(self.lines).encode()).hexdigest()

    def run(self) -> Network:
        """Play until nothing is left to happen."""
        for name in sorted(self.learners):
            self._start(name)
        for when, order in self.conditions.orders:
            self._at(when, self._order, order)
        if self.conditions.crash_s is not None:
            self._at(self.conditions.crash_s, self._crash)
        while self._heap:
            self.now, _, happen, what = heapq.heappop(self._heap)
            self._require(self.now < self._moved_s + self.conditions.patience_s, f"deadlock: {self._awaited()}")
            happen(*what)
        alive = {n for n in self.nodes if n in self._life}
        self._require(bool(alive) and alive <= set(self.finished), f"the run dried up: {self._awaited()}")
        stayed = alive - {leaver for n in alive for r in self.nodes[n].plan.records for leaver, _ in r.heirs}
        ends = {self.finished[n].round for n in stayed} | {self.nodes[n].end for n in stayed}
        self._require(len(ends) <= 1, f"the nodes ended in rounds {sorted(ends)}")
        self._require(not self._books.in_flight, "finished with messages in flight")
        return self

    # --- time ---------------------------------------------------------------------------------------

    def _at(self, when: float, happen: Callable[..., None], *what: Any) -> None:
        heapq.heappush(self._heap, (when, next(self._tick), happen, what))

    def _in_life(self, when: float, name: str, happen: Callable[..., None], *what: Any) -> None:
        """Something that happens to a process, if it still runs then, and not before it thaws."""
        self._at(when, self._live, name, self._life.get(name), happen, what)

    def _live(self, name: str, life: int | None, happen: Callable[..., None], what: tuple[Any, ...]) -> None:
        if life is None or self._life.get(name) != life:
            return
        if self._thaws_s.get(name, 0.0) > self.now:
            self._at(self._thaws_s[name], self._live, name, life, happen, what)
        else:
            happen(*what)

    def _latency(self) -> float:
        return self._rng.uniform(*self.conditions.latency_s)

    def _send(self, to: str, arrive: Callable[..., None], *what: Any) -> None:
        """One datagram: lost, delivered, or delivered twice."""
        if self._rng.random() < self.conditions.lose:
            self.happened["lost"] += 1
            return
        copies = 1 + (self._rng.random() < self.conditions.duplicate)
        self.happened["duplicated"] += copies - 1
        for _ in range(copies):
            self._in_life(self.now + self._latency(), to, arrive, *what)

    # --- nodes --------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        """A process of this name begins, knowing nothing but its disk."""
        self._lives[name] += 1
        self._life[name] = self._lives[name]
        self._dial(name)

    def _process(self, name: str, round: int, plan: Plan) -> str:
        """The process that a member's name means in a round."""
        incarnation = next((m.incarnation for m in plan.at(round).members if m.node == name), -1)
        return f"{name}:{incarnation}"

    def _tell(self, name: str, event: NodeEvent) -> None:
        if name in self.nodes:
            self._act(name, event, self.nodes[name].handle(event))

    def _act(self, name: str, cause: Any, actions: list[NodeAction]) -> None:
        self._note(name, cause, actions)
        life = self._life[name]
        for action in actions:
            if self._life.get(name) != life:
                return
            self._do(name, action)
        self._check(name)

    def _do(self, name: str, action: NodeAction) -> None:
        match action:
            case Train(round, z):
                duration = self._rng.uniform(*self.conditions.slow.get(name, self.conditions.training_s))
                self._in_life(self.now + duration, name, self._train, name, round, z)
            case Push(to, message):
                self._push(name, to, message)
            case Acknowledge():
                self._acknowledge(name, action)
            case Mixed(round):
                self._closed(name, round)
            case AnswerOffer():
                self._up(name, OfferAnswered(name, action))
            case AnswerFence():
                self._up(name, FenceAnswered(name, action))
            case PlanChanged(record):
                self._adopted(name, record)
            case Save():
                self.saves[name].append(action)
                copy = deepcopy(self.learners[name]), action.plan
                self._in_life(
                    self.now + self._rng.uniform(*self.conditions.sync_s), name, self._synced, name, action.round, copy
                )
            case Finish():
                self.finished[name] = action
            case Fail(Evicted()):
                self.happened["evicted and told so"] += 1
                self._end(name)
                self._start(name)
            case Fail(error):
                raise error
            case Await() | Evaluate():
                pass
            case _:
                assert_never(action)

    def _train(self, name: str, round: int, z: Any) -> None:
        displacement = self._displace(name, round, z)
        process = self._process(name, round, self.nodes[name].plan)
        self._books.displaced(process, round, np.append(displacement, 0))
        self._tell(name, Trained(round, displacement))

    def _push(self, name: str, to: str, message: Message) -> None:
        plan, round = self.nodes[name].plan, message.round
        sender, receiver = self._process(name, round, plan), self._process(to, round, plan)
        self._books.pushed(sender, receiver, round, self.learners[name].share(message))
        key = name, self._life[name], to, round
        self._unanswered.add(key)
        self._try(key, message, self.conditions.retry_s)

    def _try(self, key: tuple[str, int, str, int], message: Message, wait_s: float) -> None:
        name, _, to, _ = key
        if key not in self._unanswered or name in self.finished:
            return
        self._send(to, self._arrive, to, message)
        longest = self.conditions.retry_s * 2**_MOST_DOUBLINGS
        self._in_life(self.now + wait_s, name, self._try, key, message, min(2 * wait_s, longest))

    def _arrive(self, to: str, message: Message) -> None:
        if to not in self.nodes:
            return  # not welcomed yet: nobody listens, and the sender will try again
        self._tell(to, Received(message))

    def _acknowledge(self, receiver: str, answer: Acknowledge) -> None:
        plan, round = self.nodes[receiver].plan, answer.round
        processes = self._process(answer.to, round, plan), self._process(receiver, round, plan)
        if answer.verdict is Verdict.OK:
            self._books.mixed(processes[1], processes[0], round)
        seen = answer.verdict is Verdict.SEEN and not self._books.knows_as_cut(processes[1])
        self._require(not (seen and self._books.awaits(*processes, round)), f"{processes} in {round} was never mixed")
        event = Acknowledged(receiver, round, answer.verdict, answer.knows, answer.detail, answer.records)
        self._send(answer.to, self._answered, answer.to, event)

    def _answered(self, sender: str, event: Acknowledged) -> None:
        key = sender, self._life[sender], event.receiver, event.round
        if key in self._unanswered:
            self._unanswered.remove(key)
            self._moved_s = self.now
        self._tell(sender, event)

    def _closed(self, name: str, round: int) -> None:
        plan = self.nodes[name].plan
        graph = plan.graph(round)
        process = self._process(name, round, plan)
        self._books.debited(process, round, leaves=name in graph.leaving)
        if f"{name}:" in process:
            same = self.graphs.setdefault(round, graph) == graph
            self._require(same, f"round {round} has two graphs")
        self._report(name)

    def _adopted(self, name: str, record: Record) -> None:
        plan = self.nodes[name].plan
        for dead, last in record.cut:
            process = _last_process(dead, Plan(tuple(r for r in plan.records if r.number < record.number)))
            for round in range(record.start):
                if self._process(dead, round, plan) == process:
                    self._books.taken_back(self._process(name, round, plan), process, last)
            self._unanswered = {k for k in self._unanswered if (k[0], k[2]) != (name, dead)}
        self._report(name)

    def _synced(self, name: str, round: int, copy: tuple[Weighed, Plan]) -> None:
        disk = self._disk[name]
        disk[round] = copy
        for old in sorted(disk)[:-2]:
            del disk[old]

    # --- faults -------------------------------------------------------------------------------------

    def _end(self, name: str) -> None:
        """A process is gone, with its links and all it was about to do."""
        self._life.pop(name, None)
        self.nodes.pop(name, None)
        self._born.pop(name, None)
        self._thaws_s.pop(name, None)
        self._follows.pop(name, None)
        if self._open.pop(name, None) is not None:
            self._at(self.now + self._latency(), self._hang_up, name, self._links[name])
        self._links.pop(name, None)

    def _hang_up(self, name: str, link: int) -> None:
        """The controller notices that a link has ended, unless the node has opened another one."""
        if name not in self._open and self._links.get(name) != link:
            self._decide(Lost(name))

    def _fault(self, fault: Fault) -> None:
        name = fault.node
        if name in self.finished or (name in self._life) == isinstance(fault, Start):
            return
        self.happened[type(fault).__name__.lower()] += 1
        self.lines.append(f"{self.now:.6f} {brief(fault)}")
        match fault:
            case Kill(_, back_s):
                self._end(name)
                if back_s is not None:
                    self._at(self.now + back_s, self._fault, Start(name))
            case Freeze(_, for_s):
                self._thaws_s[name] = self.now + for_s
            case Start():
                self._start(name)
        if not isinstance(fault, Start):
            self._at(self.now + self.conditions.evict_s, self._suspect, name, self._lives[name])

    def _suspect(self, name: str, life: int) -> None:
        """What the controller's shell would conclude of a silent process, as long as it is silent."""
        silent = self._life.get(name) is None or self._thaws_s.get(name, 0.0) > self.now
        if not silent or self._lives[name] != life or len(self.finished) == len(self.nodes):
            return
        self._decide(Evict(-1, name))
        self._at(self.now + self.conditions.evict_s, self._suspect, name, life)

    # --- the controller -----------------------------------------------------------------------------

    def _dial(self, name: str) -> None:
        """Open a control link and introduce the node; what was on its way on an older link is gone."""
        if name not in self._life:
            return
        if self._open.pop(name, None) is not None:
            self._decide(Lost(name))
        self._links[name] = next(self._link)
        node = self.nodes.get(name)
        disk = self._disk[name]
        plan = node.plan if node else disk[max(disk)][1] if disk else None
        saved = frozenset() if node else frozenset(disk)
        running, process, fenced = node is not None, str(self._life[name]), node.fenced if node else frozenset[str]()
        digest = self.charter.run_digest
        follows = self._follows.get(name) if node else None
        event = Joined(name, f"{name}:1", digest, 1, saved, plan, running, process, fenced, follows)
        self._at(self._in_order(self._links[name], True), self._joined, self._links[name], event)
        if node:
            self._report(name)

    def _joined(self, link: int, event: Joined) -> None:
        if self.cluster and self._links.get(event.node) == link:
            self._open[event.node] = link
            if event.node in self.cluster.present:
                self._decide(Lost(event.node))  # its old link has not been missed yet
            self._decide(event)

    def _in_order(self, link: int, up: bool) -> float:
        self._quiet_s[link, up] = max(self._quiet_s[link, up], self.now + self._latency())
        return self._quiet_s[link, up]

    def _up(self, name: str, event: ClusterEvent) -> None:
        if name in self._links:
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
            if self.cluster is None:
                return  # it crashed between two of its actions
            self._say(action)

    def _say(self, action: ClusterAction) -> None:
        match action:
            case Abdicate(reason):
                raise LocalProtocolError(f"the controller gave up: {reason}")
            case Hello(name) | Welcome(name) | Offer(name) | Fence(name) | Decree(name) | Sponsor(name):
                link = self._open.get(name)
                if link is not None:
                    self._at(self._in_order(link, False), self._reach, name, link, action)
                self._offers += isinstance(action, Offer)
                if isinstance(action, Offer) and self._offers == self.conditions.crash_at_offer:
                    self._crash()
            case Persist():
                self._write_down(action)
            case Refuse(name, reason):
                self.refused[name] = reason
                self._life.pop(name, None)
            case Reply(ticket):
                self.replies[ticket] = action
            case _:
                assert_never(action)

    def _write_down(self, action: Persist) -> None:
        before = self._persisted
        self._persisted = action
        record = action.plan.latest
        if record.cut and (before is None or before.plan.latest.digest != record.digest):
            self.happened["cut"] += len(record.cut)
            self.graphs = {r: g for r, g in self.graphs.items() if r < record.start}  # and have been further
            self._digests = {r.number: r.digest for r in action.plan.records}  # the dead may know another
            self._books.cut({_last_process(dead, action.plan): last for dead, last in record.cut})

    def _reach(self, name: str, link: int, action: ClusterAction) -> None:
        if self._links.get(name) == link:
            self._live(name, self._life.get(name), self._deliver, (name, link, action))

    def _deliver(self, name: str, link: int, action: ClusterAction) -> None:
        if self._links.get(name) != link:
            return
        match action:
            case Hello(_, reign):
                self._follows[name] = reign
            case Welcome(_, plan, round):
                self._welcome(name, plan, round, action)
            case Offer(_, record):
                self._tell(name, RecordOffered(record))
            case Fence(_, term, ballot, evicted):
                self._tell(name, Fenced(term, ballot, evicted))
            case Decree(_, records):
                self._tell(name, Decreed(records))
            case Sponsor(_, sponsor):
                self._fetch(name, sponsor.node)

    def _welcome(self, name: str, plan: Plan, round: int, cause: Any) -> None:
        if name in self.nodes:
            return
        process = self._process(name, round, plan)
        if name in self._born:
            self.learners[name] = self._born.pop(name)
            self.happened["joined"] += 1
        elif plan.records[0].number > 0 and round in self._disk[name]:
            self._resumed(name, round, plan)
        self._books.open(process, self.learners[name], round)
        self.nodes[name] = Node(
            name, plan, self.learners[name], round, self.conditions.window, 0, self.conditions.checkpoint_every
        )
        self._act(name, cause, self.nodes[name].start())
        self._report(name)

    def _resumed(self, name: str, round: int, plan: Plan) -> None:
        """All were down: the first one back opens new books, from the checkpoints of the common round."""
        if not self.nodes:
            self.happened["resumed after all were down"] += 1
            self._books = Books(0 * self._books.total)
            self.graphs = {r: g for r, g in self.graphs.items() if r < round}
            self._digests, self._unanswered = {}, set()
        self.learners[name] = deepcopy(self._disk[name][round][0])

    def _fetch(self, name: str, sponsor: str) -> None:
        """A newcomer copies its sponsor's model; if that is not there, it asks the controller anew."""
        if name in self.nodes:
            return
        if sponsor in self.nodes and self._newborn is not None:
            self._born[name] = self._newborn(self.learners[sponsor].model())
            self._up(name, Fetched(name))
        else:
            self._dial(name)

    def _order(self, order: Order) -> None:
        if isinstance(order, Lost):
            self._open.pop(order.node, None)
            self._at(self.now + self._latency(), self._dial, order.node)
        if isinstance(order, Kill | Freeze | Start):
            self._fault(order)
        else:
            self._decide(order)

    def _crash(self) -> None:
        """The controller vanishes; what it has already said may still arrive, what it was to hear does not."""
        self.cluster = None
        self._open.clear()
        self.happened["controller crashed"] += 1
        self.lines.append(f"{self.now:.6f} controller gone")
        if self.conditions.back_s is not None:
            self._at(self.now + self.conditions.back_s, self._come_back)

    def _come_back(self) -> None:
        saved = None if self.conditions.disk_lost else self._persisted
        self._starts += 1
        reign = Reign(saved.term + 1 if saved else 0, f"c{self._starts}")
        self.cluster = Cluster(self.charter, reign, saved, recover=self.conditions.disk_lost)
        for name in sorted(self._life):
            self._at(self.now + self._latency(), self._dial, name)

    # --- what must always hold ----------------------------------------------------------------------

    def _check(self, name: str) -> None:
        if name in self.nodes and not self._is_cut(name):
            for record in self.nodes[name].plan.records:
                same = self._digests.setdefault(record.number, record.digest) == record.digest
                self._require(same, f"there are two records numbered {record.number}")
            for sender, held in self.nodes[name].held().items():
                self._require(held <= self.conditions.window, f"{name} holds {held} pushes of {sender}")
        self._require(all(u > 0 for u in self._books.weights), "a push-sum weight is not positive")
        error = max(abs(self._books.balance()))
        scale = self.learners[name].tolerance * (1 + max(abs(self._books.total)))
        self._require(bool(error <= scale), f"mass is off by {error}")

    def _is_cut(self, name: str) -> bool:
        """Whether this process is out, and does not know it yet."""
        return self._books.knows_as_cut(_last_process(name, self.nodes[name].plan))

    def _require(self, holds: bool, text: str) -> None:
        if not holds:
            raise LocalProtocolError(f"at {self.now:.6f} s: {text}")

    def _awaited(self) -> str:
        waits = [f"{n} in round {node.round} waits for {node.missing()}" for n, node in self.nodes.items()]
        return "; ".join([*waits, *(f"{n} was never welcomed" for n in self.learners if n not in self.nodes)])

    def _note(self, name: str, cause: Any, actions: Sequence[Any]) -> None:
        self.lines.append(f"{self.now:.6f} {name} {brief(cause)} -> {', '.join(map(brief, actions))}")


def _last_process(name: str, plan: Plan) -> str:
    """The newest process that was a member under a name."""
    incarnation = next(m.incarnation for r in reversed(plan.records) for m in r.members if m.node == name)
    return f"{name}:{incarnation}"
