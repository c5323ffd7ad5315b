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
from dataclasses import replace
from hashlib import sha256
from itertools import count
from typing import Any, assert_never

from edgenode.core.charter import Charter
from edgenode.core.cluster import Cluster
from edgenode.core.control import (
    Abdicate,
    ClusterAction,
    ClusterEvent,
    Decree,
    Evict,
    Fence,
    FenceAnswered,
    Fetched,
    Halt,
    Hello,
    Joined,
    Leave,
    Lost,
    Offer,
    OfferAnswered,
    Pause,
    Persist,
    Progressed,
    Refuse,
    Reign,
    Reply,
    Resume,
    Rotate,
    Sponsor,
    Stop,
    Welcome,
)
from edgenode.core.graph import Digraph
from edgenode.core.messages import (
    Acknowledge,
    Acknowledged,
    AnswerFence,
    AnswerOffer,
    Await,
    Decreed,
    Evaluate,
    Fail,
    Fenced,
    Finish,
    Halted,
    Message,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Push,
    Received,
    RecordOffered,
    Save,
    Train,
    Trained,
)
from edgenode.core.node import Node
from edgenode.core.plan import Plan
from edgenode.errors import Evicted, LocalProtocolError
from edgenode.simulator.air import Air, Way
from edgenode.simulator.conditions import (
    CONTROLLER,
    Conditions,
    Fault,
    Freeze,
    Kill,
    Leap,
    Order,
    Partition,
    Rest,
    Start,
)
from edgenode.simulator.disks import Disks
from edgenode.simulator.laws import Laws, require
from edgenode.simulator.learners import Weighed
from edgenode.simulator.transcript import brief

Displace = Callable[[str, int, Any], Any]  # (node, round, z) -> displacement
_MOST_DOUBLINGS = 2


class Stuck(LocalProtocolError):
    """Nothing moves any more, and the run is not over."""


class Network:
    """One run from its founding to the last answer.

    Args:
        learners: of the founders.
        newborn: z -> the learner of a newcomer; without it nobody can join.

    Attributes:
        nodes, cluster: the machines; the cluster is None while the controller is away.
        finished, replies, refused, saves: what the machines said, for the reader of a run.
        happened: how often each kind of fault really happened.
        moments: how many there were, before, between and after actions, at which someone could have died.

    Raises:
        LocalProtocolError: an invariant broke; Stuck: nothing moves any more. A machine's error is raised as it is.
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
        self._noted: list[tuple[float, str, Any, tuple[Any, ...]]] = []
        self._asked: dict[int, str] = {-1: "evicted as silent"}
        self.finished: dict[str, Finish] = {}
        self._gone: dict[str, Node] = {}  # those of them that are not there any more
        self.replies: dict[int, Reply] = {}
        self.refused: dict[str, str] = {}
        self.saves: dict[str, list[Save]] = defaultdict(list)
        self.happened: Counter[str] = Counter()
        self.moments = 0
        self._displace, self._newborn = displace, newborn
        self._initial = {name: learner.pack(learner.snapshot()) for name, learner in learners.items()}
        self._rng = random.Random(conditions.seed)
        self._air = Air(conditions, self._rng, self.happened)
        self._disks = Disks(charter.run_digest, self._rng, self.happened)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._tick, self._link = count(), count()
        self._moved_s = 0.0  # when a push was last answered
        self._offers = self._starts = 0
        self._life: dict[str, int] = {}  # which process of a name runs; absent while none does
        self._lives: Counter[str] = Counter()
        self._thaws_s: dict[str, float] = {}
        self._born: dict[str, Weighed] = {}  # newcomers that have fetched the model
        self._unanswered: dict[tuple[str, int, str, int], Message] = {}  # what the transport still repeats
        self._follows: dict[str, Reign] = {}  # whom a process took its last order from
        self._links: dict[str, int] = {}  # a node's control link as the node sees it,
        self._open: dict[str, int] = {}  # and as the controller does
        self._arrives_s: defaultdict[tuple[str, str], float] = defaultdict(float)  # the latest datagram, each way
        self._quiet_s: defaultdict[tuple[int, bool], float] = defaultdict(float)  # last arrival, each way
        self._persisted: Persist | None = None
        self._out: dict[str, int] = {}  # incarnations that a controller has cut out, whoever has heard of it
        self._founded = False
        self._laws = Laws(0 * next(iter(learners.values())).mass(), conditions.window, self.happened)

    @property
    def alive(self) -> frozenset[str]:
        """The names under which a process runs, members and others."""
        return frozenset(self._life)

    @property
    def graphs(self) -> Mapping[int, Digraph]:
        """The digraph of every closed round, the same at all nodes."""
        return self._laws.graphs

    @property
    def lines(self) -> list[str]:
        """The transcript."""
        return [
            f"{now:.6f} {name} {brief(cause)} -> {', '.join(map(brief, actions))}"
            for now, name, cause, actions in self._noted
        ]

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
            self._at(self.conditions.crash_s, self._crash, self.conditions.back_s)
        while self._heap:
            self.now, _, happen, what = heapq.heappop(self._heap)
            if self.now >= self._moved_s + self.conditions.patience_s:
                raise Stuck(f"at {self.now:.6f} s: deadlock: {self._awaited()}")
            try:
                happen(*what)
            except LocalProtocolError as exc:
                raise LocalProtocolError(f"at {self.now:.6f} s: {exc}") from exc
        nodes = {n: node for n, node in self.nodes.items() if n in self._life} | self._gone
        if not nodes or not nodes.keys() <= self.finished.keys():
            raise Stuck(f"at {self.now:.6f} s: the run dried up: {self._awaited()}")
        stayed = nodes.keys() - {leaver for node in nodes.values() for r in node.plan.records for leaver, _ in r.heirs}
        ends = {self.finished[n].round for n in stayed} | {nodes[n].end for n in stayed}
        require(len(ends) <= 1, f"the nodes ended in rounds {sorted(ends)}")
        self._laws.check_end(frozenset(nodes))
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

    def _send(self, sender: str, to: str, arrive: Callable[..., None], *what: Any) -> None:
        for delay_s in self._air.copies(sender, to):
            arrives = self.now + delay_s
            self.happened["reordered"] += arrives < self._arrives_s[sender, to]
            self._arrives_s[sender, to] = max(self._arrives_s[sender, to], arrives)
            self._in_life(arrives, to, arrive, *what)

    # --- nodes --------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        """A process of this name begins, knowing nothing but its disk."""
        self._lives[name] += 1
        self._life[name] = self._lives[name]
        self._dial(name)

    def _tell(self, name: str, event: NodeEvent) -> None:
        if name in self.nodes:
            self._act(name, event, self.nodes[name].handle(event))

    def _act(self, name: str, cause: Any, actions: list[NodeAction]) -> None:
        """Perform what a node says, unless it dies in between; what it did to its own state is in the books by then."""
        self._note(name, cause, actions)
        node, learner = self.nodes[name], self.learners[name]
        for action in actions:
            self._laws.did(name, node.plan, learner, action)
        self._laws.check(name, node, learner)
        life = self._life[name]
        for action in actions:
            if self._dies_here(name) or self._life.get(name) != life:
                return
            self._do(name, action)
        self._dies_here(name)

    def _do(self, name: str, action: NodeAction) -> None:
        match action:
            case Train(round, z):
                duration = self._rng.uniform(*self.conditions.slow.get(name, self.conditions.training_s))
                self.happened["slow"] += name in self.conditions.slow
                self._in_life(self.now + duration, name, self._train, name, round, z)
            case Push(to, message):
                key = name, self._life[name], to, message.round
                self._unanswered[key] = message
                self._try(key, self.conditions.retry_s)
            case Acknowledge(to, round, verdict, knows, detail, records):
                event = Acknowledged(name, round, verdict, knows, detail, records)
                self._send(name, to, self._answered, to, event)
            case AnswerOffer():
                self._up(name, OfferAnswered(name, action))
            case AnswerFence():
                self._up(name, FenceAnswered(name, action))
            case PlanChanged(record):
                dead = {dead for dead, _ in record.cut}
                self._unanswered = {k: m for k, m in self._unanswered.items() if k[0] != name or k[2] not in dead}
                self._report(name)
            case Mixed():
                self._report(name)
            case Save():
                self.saves[name].append(action)
                self._disks.begin(name, action, self.learners[name])
                sync_s = self._rng.uniform(*self.conditions.sync_s)
                self._in_life(self.now + sync_s, name, self._disks.done, name)
            case Finish():
                self.finished[name] = action
                self._report(name)
                if self.conditions.leave_s is not None:
                    self._in_life(self.now + self.conditions.leave_s, name, self._go, name)
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
        self._laws.displaced(name, self.nodes[name].plan, round, displacement, self.learners[name].blocks)
        self._tell(name, Trained(round, displacement))

    def _try(self, key: tuple[str, int, str, int], wait_s: float) -> None:
        name, _, to, _ = key
        if key not in self._unanswered or name in self.finished:
            return
        self._send(name, to, self._arrive, to, self._unanswered[key])
        longest = self.conditions.retry_s * 2**_MOST_DOUBLINGS
        self._in_life(self.now + wait_s, name, self._try, key, min(2 * wait_s, longest))

    def _arrive(self, to: str, message: Message) -> None:
        if to not in self.nodes:
            return  # not welcomed yet: nobody listens, and the sender will try again
        self._tell(to, Received(message))

    def _answered(self, sender: str, event: Acknowledged) -> None:
        key = sender, self._life[sender], event.receiver, event.round
        if key in self._unanswered:
            del self._unanswered[key]
            self._moved_s = self.now
        self._tell(sender, event)

    def _go(self, name: str) -> None:
        """A node that has ended goes, whoever may still wait for it."""
        self.happened["left after its end"] += 1
        self._note(name, "goes")
        self._gone[name] = self.nodes[name]
        self._end(name)
        self._at(self.now + self.conditions.evict_s, self._suspect, name, self._lives[name])

    # --- faults -------------------------------------------------------------------------------------

    def _end(self, name: str, power: bool = False) -> None:
        """A process is gone, with its links and all it was about to do."""
        self._disks.break_off(name, power)
        self._life.pop(name, None)
        self.nodes.pop(name, None)
        self._born.pop(name, None)
        self._thaws_s.pop(name, None)
        self._follows.pop(name, None)
        self._laws.halted.pop(name, None)
        if self._open.pop(name, None) is not None:
            self._at(self.now + self._air.latency_s(), self._hang_up, name, self._links.get(name, -1))
        self._links.pop(name, None)

    def _hang_up(self, name: str, link: int) -> None:
        """The controller notices that a link has ended, unless the node has opened another one."""
        if self._open.get(name) == link:
            del self._open[name]
        if name not in self._open and self._links.get(name) != link:
            self._decide(Lost(name))

    def _dies_here(self, name: str) -> bool:
        """Count one more moment between two actions; it may be the last of whoever acts."""
        self.moments += 1
        if self.moments not in self.conditions.crash_at:
            return False
        self._note(name, f"dies at moment {self.moments}")
        back_s = self.conditions.crash_at[self.moments]
        if name == CONTROLLER:
            self._crash(back_s)
        else:
            self._fault(Kill(name, back_s, power=True))
        return True

    def _fault(self, fault: Fault) -> None:
        name = fault.node
        if name in self.finished or (name in self._life) == isinstance(fault, Start):
            return
        self.happened[type(fault).__name__.lower()] += 1
        self._note(name, fault)
        match fault:
            case Kill(_, back_s, power):
                self._end(name, power)
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
        silent = name not in self._life or self._thaws_s.get(name, 0.0) > self.now or not self._air.linked(name)
        over = (self.nodes or self._gone) and self.nodes.keys() <= self.finished.keys()
        if not silent or self._lives[name] != life or over:
            return
        self._decide(Evict(-1, name))
        self._at(self.now + self.conditions.evict_s, self._suspect, name, life)

    def _part(self, cut: Partition) -> None:
        """A partition begins. The control links that it cuts break, and cannot be made anew before its end."""
        self._note("network", cut)
        self._at(self.now + cut.for_s, self._heal, self._air.part(cut))
        for name in [n for n in sorted(self._links) if not self._air.linked(n)]:
            link = self._links.pop(name)
            self._in_life(self.now + self.conditions.retry_s, name, self._dial, name)
            self._at(self.now + self.conditions.retry_s, self._hang_up, name, link)
            self._at(self.now + self.conditions.evict_s, self._suspect, name, self._lives[name])

    def _heal(self, ways: list[Way]) -> None:
        self._air.heal(ways)
        self._note("network", "heals")

    def _leap(self, host: str) -> None:
        """A clock leaps: whatever was to happen later happens now. Nobody may come to harm by it."""
        self.happened["clock jump"] += 1
        self._note(host, "its clock leaps")
        if host == CONTROLLER:
            silent = self._rng.choice(sorted(self.learners))
            if silent not in self.finished:
                self._decide(Evict(-1, silent))
        for name, life, to, round in list(self._unanswered):
            if (name, life) == (host, self._life.get(host)):
                self._send(host, to, self._arrive, to, self._unanswered[name, life, to, round])

    # --- the controller -----------------------------------------------------------------------------

    def _dial(self, name: str) -> None:
        """Open a control link and introduce the node; what was on its way on an older link is gone."""
        if name not in self._life:
            return
        if not self._air.linked(name):
            self._links.pop(name, None)
            self._in_life(self.now + self.conditions.retry_s, name, self._dial, name)
            return
        if self._open.pop(name, None) is not None:
            self._decide(Lost(name))
        self._links[name] = next(self._link)
        node = self.nodes.get(name)
        saved, plan = (frozenset[int](), node.plan) if node else self._disks.offer(name)
        running, process, fenced = node is not None, str(self._life[name]), node.fenced if node else frozenset[str]()
        digest = self.charter.run_digest
        follows = self._follows.get(name) if node else None
        event = Joined(name, f"{name}:1", digest, 1, saved, plan, running, process, fenced, follows)
        self._at(self._in_order(self._links[name], True), self._joined, self._links[name], event)
        if node:
            self._report(name)

    def _joined(self, link: int, event: Joined) -> None:
        if self.cluster and self._links.get(event.node) == link and self._air.linked(event.node):
            self._open[event.node] = link
            if event.node in self.cluster.present:
                self._decide(Lost(event.node))  # its old link has not been missed yet
            self._decide(event)

    def _in_order(self, link: int, up: bool) -> float:
        self._quiet_s[link, up] = max(self._quiet_s[link, up], self.now + self._air.latency_s())
        return self._quiet_s[link, up]

    def _up(self, name: str, event: ClusterEvent) -> None:
        if name in self._links:
            link = self._links[name]
            self._at(self._in_order(link, True), self._hear, name, link, event)

    def _hear(self, name: str, link: int, event: ClusterEvent) -> None:
        if self._open.get(name) == link and self._air.linked(name):
            self._decide(event)

    def _report(self, name: str) -> None:
        if node := self.nodes.get(name):  # else it has just died
            latest = node.plan.latest
            farewell = node.farewell() if name in self.finished else None
            self._up(name, Progressed(name, node.next_round, latest.number, latest.digest, farewell))

    def _decide(self, event: ClusterEvent) -> None:
        if self.cluster is None:
            return
        actions = self.cluster.handle(event)
        self._note(CONTROLLER, event, actions)
        for action in actions:
            if self._dies_here(CONTROLLER) or self.cluster is None:
                return
            self._say(action)
        self._dies_here(CONTROLLER)

    def _say(self, action: ClusterAction) -> None:
        match action:
            case Abdicate(reason):
                raise LocalProtocolError(f"the controller gave up: {reason}")
            case Hello(name) | Halt(name) | Welcome(name) | Offer(name) | Fence(name) | Decree(name) | Sponsor(name):
                link = self._open.get(name)
                if link is not None:
                    self._at(self._in_order(link, False), self._reach, name, link, action)
                self._offers += isinstance(action, Offer)
                if isinstance(action, Offer) and self._offers == self.conditions.crash_at_offer:
                    self._crash(self.conditions.back_s)
            case Persist(_, _, plan):
                self._persisted, self._founded = action, True
                self._out |= {dead: plan.last_cut(dead) for dead, _ in plan.latest.cut}
            case Refuse(name, reason):
                self.refused[name] = reason
                self._end(name)
            case Reply(ticket, start):
                self.replies[ticket] = action
                self.happened[self._asked.get(ticket, "")] += start is not None
            case _:
                assert_never(action)

    def _reach(self, name: str, link: int, action: ClusterAction) -> None:
        if self._links.get(name) == link and self._air.linked(name):
            self._live(name, self._life.get(name), self._deliver, (name, link, action))

    def _deliver(self, name: str, link: int, action: ClusterAction) -> None:
        if self._links.get(name) != link:
            return
        match action:
            case Hello(_, reign, paused):
                self._follows[name] = reign
                self._halt(name, paused)
            case Halt(_, halted):
                self._halt(name, halted)
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

    def _halt(self, name: str, halted: bool) -> None:
        """A process is told to stand still, or to go on; one that is in no run yet remembers it."""
        node = self.nodes.get(name)
        if not halted:
            self._laws.halted.pop(name, None)
        elif name not in self._laws.halted:
            self._laws.halted[name] = node.next_round if node else -1
        if node:
            self._tell(name, Halted(halted))

    def _welcome(self, name: str, plan: Plan, round: int, cause: Any) -> None:
        if name in self.nodes:
            return
        if round > plan.records[0].start:
            self._disks.rewind(name, -1)
            self.learners[name] = self._born.pop(name)
            self.happened["joined"] += 1
        else:
            if name not in self.learners:  # it came before the run began, and took the place of one who is late
                assert self._newborn is not None
                newborn = self.learners[name] = self._newborn(next(iter(self.learners.values())).model())
                self._initial[name] = newborn.pack(newborn.snapshot())
            if plan.records[0].number > 0:
                self._resumed(name, round, plan)
        self._laws.opened(name, plan, round, self.learners[name])
        self.nodes[name] = Node(
            name, plan, self.learners[name], round, self.conditions.window, 0, self.conditions.checkpoint_every
        )
        self._act(name, cause, self.nodes[name].start(name in self._laws.halted))
        self._report(name)

    def _resumed(self, name: str, round: int, plan: Plan) -> None:
        """All were down: the first one back opens new books. From the common round, or, if nobody had saved, anew."""
        if self._laws.resumes(plan, round):
            running = [n for n, node in self.nodes.items() if self._air.linked(n) and self._counts(n, node)]
            require(not running, f"all resume although {running} run")
            self._disks.all_resume()
            self._unanswered = {}
        if self._disks.saved(name, round):
            self.learners[name] = self._disks.resume(name, round, self.learners[name])
        else:
            self.learners[name] = self.learners[name].unpacked(self._initial[name])

    def _counts(self, name: str, node: Node) -> bool:
        """Whether a member is in its rounds, and neither a cut nor an operator's word says that it is out."""
        forced = any(isinstance(o, Evict) and o.force and o.node == name for _, o in self.conditions.orders)
        out = node.plan.at(node.round).incarnations.get(name, 0) <= self._out.get(name, -1)
        return node.round < node.end and not forced and not out

    def _fetch(self, name: str, sponsor: str) -> None:
        """A newcomer copies its sponsor's model; if that is not there, it asks the controller anew."""
        if name in self.nodes:
            return
        reachable = self._air.passes(name, sponsor) and self._air.passes(sponsor, name)
        if sponsor in self.nodes and reachable and self._newborn is not None:
            self._born[name] = self._newborn(self.learners[sponsor].model())
            self._up(name, Fetched(name))
        else:
            self._in_life(self.now + self.conditions.retry_s, name, self._dial, name)

    def _order(self, order: Order) -> None:
        if isinstance(order, Rotate | Stop | Leave | Evict):
            self._asked[order.ticket] = type(order).__name__.lower()
        if isinstance(order, Lost):
            self._open.pop(order.node, None)
            self._at(self.now + self._air.latency_s(), self._dial, order.node)
        match order:
            case Kill() | Freeze() | Start():
                self._fault(order)
            case Partition():
                self._part(order)
            case Leap(host):
                self._leap(host)
            case Rest(ticket, for_s):
                self._asked[ticket] = "pause"
                self._decide(Pause(ticket))
                self._at(self.now + for_s, self._resume)
            case _:
                self._decide(order)

    def _resume(self) -> None:
        """The operator of a pause ends it: again and again, until a controller has answered."""
        ticket = -2 - next(self._tick)  # of no order, and none that a shell uses
        self._asked[ticket] = "resume"
        self._decide(Resume(ticket))
        if ticket not in self.replies and not set(self.nodes) <= set(self.finished):
            self._at(self.now + self.conditions.retry_s, self._resume)

    def _crash(self, back_s: float | None) -> None:
        """The controller vanishes; what it has already said may still arrive, what it was to hear does not."""
        self.cluster = None
        self._open.clear()
        self.happened["controller crashed"] += 1
        self.happened["controller lost its disk"] += self.conditions.disk_lost
        self._note(CONTROLLER, "gone")
        if back_s is not None:
            self._at(self.now + back_s, self._come_back)

    def _come_back(self) -> None:
        recover = self.conditions.disk_lost and self._founded
        saved = None if self.conditions.disk_lost else self._persisted
        self._starts += 1
        reign = Reign(saved.term + 1 if saved else 0, f"c{self._starts}")
        self._persisted = saved = replace(saved, term=reign.term) if saved else None
        self.cluster = Cluster(self.charter, reign, saved, recover)
        for name in sorted(self._life):
            self._at(self.now + self._air.latency_s(), self._dial, name)

    # --- the reader of a run -------------------------------------------------------------------------

    def _awaited(self) -> str:
        waits = [f"{n} in round {node.round} waits for {node.missing()}" for n, node in self.nodes.items()]
        return "; ".join([*waits, *(f"{n} was never welcomed" for n in self.learners if n not in self.nodes)])

    def _note(self, name: str, cause: Any, actions: Sequence[Any] = ()) -> None:
        self._noted.append((self.now, name, cause, tuple(actions)))
