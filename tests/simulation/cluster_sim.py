"""Many nodes and one controller on one seeded heap of events: simulated time only, no threads, no asyncio.

A thin shell over the state machines of the daemons: it carries what they say, late, twice, out of order or only
after some tries, and after every event asserts what must hold whatever the order. The same seed gives the same
transcript on every host. It decides nothing that a machine decides, and never looks inside one.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

from edgenode.core.protocol.cluster import Cluster
from edgenode.core.protocol.control import (
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
from edgenode.core.protocol.messages import (
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
from edgenode.core.protocol.node import Node
from edgenode.core.protocol.plan import Plan
from edgenode.core.protocol.run_spec import Charter
from edgenode.core.topology.graph import Digraph
from edgenode.errors import Evicted, LocalProtocolError
from tests.simulation.control_links import Links
from tests.simulation.controller_host import Throne
from tests.simulation.event_queue import Agenda, Processes
from tests.simulation.host_disks import Disks
from tests.simulation.invariants import Laws, require
from tests.simulation.learners import Weighed
from tests.simulation.lossy_network import Air, Way
from tests.simulation.push_channel import Pushes
from tests.simulation.scenario import (
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
from tests.simulation.transcript import Transcript

Displace = Callable[[str, int, Any], Any]  # (node, round, z) -> displacement


class Stuck(LocalProtocolError):
    """Nothing moves any more, and the run is not over."""


class Network:
    """One run from its founding to the last answer.

    Args:
        learners: of the founders.
        newborn: z -> the learner of a newcomer; without it nobody can join.

    Attributes:
        nodes: the machines of the members.
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
        self._throne = Throne(charter, conditions.disk_lost)
        self.transcript = Transcript()
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
        self._agenda = Agenda()
        self._processes = Processes(self._agenda)
        self._air = Air(conditions, self._rng, self.happened)
        self._links = Links(self._agenda, self._processes, self._air)
        self._pushes = Pushes(
            self._agenda, self._processes, self._air, self.happened, conditions.retry_s,
            self._arrive, self._tell, self.finished.__contains__,
        )  # fmt: skip
        self._disks = Disks(charter.run_digest, self._rng, self.happened)
        self._offers = 0
        self._born: dict[str, Weighed] = {}  # newcomers that have fetched the model
        self._follows: dict[str, Reign] = {}  # whom a process took its last order from
        self._laws = Laws(0 * next(iter(learners.values())).mass(), conditions.window, self.happened)

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self._agenda.now

    @property
    def alive(self) -> frozenset[str]:
        """The names under which a process runs, members and others."""
        return self._processes.names

    @property
    def graphs(self) -> Mapping[int, Digraph]:
        """The digraph of every closed round, the same at all nodes."""
        return self._laws.graphs

    @property
    def cluster(self) -> Cluster | None:
        """The controller's machine; None while it is away."""
        return self._throne.cluster

    def run(self) -> Network:
        """Play until nothing is left to happen."""
        for name in sorted(self.learners):
            self._start(name)
        for when, order in self.conditions.orders:
            self._agenda.at(when, self._order, order)
        if self.conditions.crash_s is not None:
            self._agenda.at(self.conditions.crash_s, self._crash, self.conditions.back_s)
        for happen, what in self._agenda:
            if self.now >= self._pushes.answered_s + self.conditions.patience_s:
                raise Stuck(f"at {self.now:.6f} s: deadlock: {self._awaited()}")
            try:
                happen(*what)
            except LocalProtocolError as exc:
                raise LocalProtocolError(f"at {self.now:.6f} s: {exc}") from exc
        nodes = {n: node for n, node in self.nodes.items() if n in self._processes} | self._gone
        if not nodes or not nodes.keys() <= self.finished.keys():
            raise Stuck(f"at {self.now:.6f} s: the run dried up: {self._awaited()}")
        stayed = nodes.keys() - {leaver for node in nodes.values() for r in node.plan.records for leaver, _ in r.heirs}
        ends = {self.finished[n].round for n in stayed} | {nodes[n].end for n in stayed}
        require(len(ends) <= 1, f"the nodes ended in rounds {sorted(ends)}")
        self._laws.check_end(frozenset(nodes))
        return self

    # --- nodes --------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        """A process of this name begins, knowing nothing but its disk."""
        self._processes.start(name)
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
        life = self._processes.number(name)
        for action in actions:
            if self._dies_here(name) or self._processes.number(name) != life:
                return
            self._do(name, action)
        self._dies_here(name)

    def _do(self, name: str, action: NodeAction) -> None:
        match action:
            case Train(round, z):
                duration = self._rng.uniform(*self.conditions.slow.get(name, self.conditions.training_s))
                self.happened["slow"] += name in self.conditions.slow
                self._processes.after(duration, name, self._train, name, round, z)
            case Push(to, message):
                self._pushes.push(name, to, message)
            case Acknowledge(to, round, verdict, knows, detail, records):
                self._pushes.answer(name, to, Acknowledged(name, round, verdict, knows, detail, records))
            case AnswerOffer():
                self._links.up(name, self._decide, OfferAnswered(name, action))
            case AnswerFence():
                self._links.up(name, self._decide, FenceAnswered(name, action))
            case PlanChanged(record):
                self._pushes.drop(name, {dead for dead, _ in record.cut})
                self._report(name)
            case Mixed():
                self._report(name)
            case Save():
                self.saves[name].append(action)
                self._disks.begin(name, action, self.learners[name])
                sync_s = self._rng.uniform(*self.conditions.sync_s)
                self._processes.after(sync_s, name, self._disks.done, name)
            case Finish():
                self.finished[name] = action
                self._report(name)
                if self.conditions.leave_s is not None:
                    self._processes.after(self.conditions.leave_s, name, self._go, name)
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

    def _arrive(self, to: str, message: Message) -> None:
        if to not in self.nodes:
            return  # not welcomed yet: nobody listens, and the sender will try again
        self._tell(to, Received(message))

    def _go(self, name: str) -> None:
        """A node that has ended goes, whoever may still wait for it."""
        self.happened["left after its end"] += 1
        self._note(name, "goes")
        self._gone[name] = self.nodes[name]
        self._end(name)
        self._agenda.after(self.conditions.evict_s, self._suspect, name, self._processes.last(name))

    # --- faults -------------------------------------------------------------------------------------

    def _end(self, name: str, power: bool = False) -> None:
        """A process is gone, with its links and all it was about to do."""
        self._disks.break_off(name, power)
        self._processes.end(name)
        self.nodes.pop(name, None)
        self._born.pop(name, None)
        self._follows.pop(name, None)
        self._laws.halted.pop(name, None)
        if self._links.of_controller.pop(name, None) is not None:
            self._agenda.after(self._air.latency_s(), self._hang_up, name, self._links.of_nodes.get(name, -1))
        self._links.of_nodes.pop(name, None)

    def _hang_up(self, name: str, link: int) -> None:
        """The controller notices that a link has ended, unless the node has opened another one."""
        if self._links.of_controller.get(name) == link:
            del self._links.of_controller[name]
        if name not in self._links.of_controller and self._links.of_nodes.get(name) != link:
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
        if name in self.finished or (name in self._processes) == isinstance(fault, Start):
            return
        self.happened[type(fault).__name__.lower()] += 1
        self._note(name, fault)
        match fault:
            case Kill(_, back_s, power):
                self._end(name, power)
                if back_s is not None:
                    self._agenda.after(back_s, self._fault, Start(name))
            case Freeze(_, for_s):
                self._processes.freeze(name, for_s)
            case Start():
                self._start(name)
        if not isinstance(fault, Start):
            self._agenda.after(self.conditions.evict_s, self._suspect, name, self._processes.last(name))

    def _suspect(self, name: str, life: int) -> None:
        """What the controller's shell would conclude of a silent process, as long as it is silent."""
        silent = name not in self._processes or self._processes.frozen(name) or not self._air.linked(name)
        over = (self.nodes or self._gone) and self.nodes.keys() <= self.finished.keys()
        if not silent or self._processes.last(name) != life or over:
            return
        self._decide(Evict(-1, name))
        self._agenda.after(self.conditions.evict_s, self._suspect, name, life)

    def _part(self, cut: Partition) -> None:
        """A partition begins. The control links that it cuts break, and cannot be made anew before its end."""
        self._note("network", cut)
        self._agenda.after(cut.for_s, self._heal, self._air.part(cut))
        for name in [n for n in sorted(self._links.of_nodes) if not self._air.linked(n)]:
            link = self._links.of_nodes.pop(name)
            self._processes.after(self.conditions.retry_s, name, self._dial, name)
            self._agenda.after(self.conditions.retry_s, self._hang_up, name, link)
            self._agenda.after(self.conditions.evict_s, self._suspect, name, self._processes.last(name))

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
        self._pushes.repeat(host)

    # --- the controller -----------------------------------------------------------------------------

    def _dial(self, name: str) -> None:
        """Open a control link and introduce the node; what was on its way on an older link is gone."""
        if name not in self._processes:
            return
        if not self._air.linked(name):
            self._links.of_nodes.pop(name, None)
            self._processes.after(self.conditions.retry_s, name, self._dial, name)
            return
        if self._links.of_controller.pop(name, None) is not None:
            self._decide(Lost(name))
        node = self.nodes.get(name)
        saved, plan = (frozenset[int](), node.plan) if node else self._disks.offer(name)
        running, fenced = node is not None, node.fenced if node else frozenset[str]()
        digest, process = self.charter.run_digest, str(self._processes.last(name))
        follows = self._follows.get(name) if node else None
        event = Joined(name, f"{name}:1", digest, 1, saved, plan, running, process, fenced, follows)
        self._links.dial(name, self._joined, event)
        if node:
            self._report(name)

    def _joined(self, link: int, event: Joined) -> None:
        if self.cluster:
            self._links.of_controller[event.node] = link
            if event.node in self.cluster.present:
                self._decide(Lost(event.node))  # its old link has not been missed yet
            self._decide(event)

    def _report(self, name: str) -> None:
        if node := self.nodes.get(name):  # else it has just died
            latest = node.plan.latest
            farewell = node.farewell() if name in self.finished else None
            told = Progressed(name, node.next_round, latest.number, latest.digest, farewell)
            self._links.up(name, self._decide, told)

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
                self._links.down(name, self._deliver, name, action)
                self._offers += isinstance(action, Offer)
                if isinstance(action, Offer) and self._offers == self.conditions.crash_at_offer:
                    self._crash(self.conditions.back_s)
            case Persist():
                self._throne.persist(action)
            case Refuse(name, reason):
                self.refused[name] = reason
                self._end(name)
            case Reply(ticket, start):
                self.replies[ticket] = action
                self.happened[self._asked.get(ticket, "")] += start is not None
            case _:
                assert_never(action)

    def _deliver(self, name: str, action: ClusterAction) -> None:
        match action:
            case Hello(_, reign, paused):
                self._follows[name] = reign
                # precaution: a node that connects learns whether the run is paused
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
            self._pushes.forget()
        if self._disks.saved(name, round):
            self.learners[name] = self._disks.resume(name, round, self.learners[name])
        else:
            self.learners[name] = self.learners[name].unpacked(self._initial[name])

    def _counts(self, name: str, node: Node) -> bool:
        """Whether a member is in its rounds, and neither a cut nor an operator's word says that it is out."""
        forced = any(isinstance(o, Evict) and o.force and o.node == name for _, o in self.conditions.orders)
        out = node.plan.at(node.round).incarnations.get(name, 0) <= self._throne.cut_out.get(name, -1)
        return node.round < node.end and not forced and not out

    def _fetch(self, name: str, sponsor: str) -> None:
        """A newcomer copies its sponsor's model; if that is not there, it asks the controller anew."""
        if name in self.nodes:
            return
        reachable = self._air.passes(name, sponsor) and self._air.passes(sponsor, name)
        if sponsor in self.nodes and reachable and self._newborn is not None:
            self._born[name] = self._newborn(self.learners[sponsor].model())
            self._links.up(name, self._decide, Fetched(name))
        else:
            self._processes.after(self.conditions.retry_s, name, self._dial, name)

    def _order(self, order: Order) -> None:
        if isinstance(order, Rotate | Stop | Leave | Evict):
            self._asked[order.ticket] = type(order).__name__.lower()
        if isinstance(order, Lost):
            self._links.of_controller.pop(order.node, None)
            self._agenda.after(self._air.latency_s(), self._dial, order.node)
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
                self._agenda.after(for_s, self._resume)
            case _:
                self._decide(order)

    def _resume(self) -> None:
        """The operator of a pause ends it: again and again, until a controller has answered."""
        ticket = -2 - self._agenda.serial()  # of no order, and none that a shell uses
        self._asked[ticket] = "resume"
        self._decide(Resume(ticket))
        if ticket not in self.replies and not set(self.nodes) <= set(self.finished):
            self._agenda.after(self.conditions.retry_s, self._resume)

    def _crash(self, back_s: float | None) -> None:
        """The controller vanishes; what it has already said may still arrive, what it was to hear does not."""
        self._throne.vacate()
        self._links.of_controller.clear()
        self.happened["controller crashed"] += 1
        self.happened["controller lost its disk"] += self.conditions.disk_lost
        self._note(CONTROLLER, "gone")
        if back_s is not None:
            self._agenda.after(back_s, self._come_back)

    def _come_back(self) -> None:
        self._throne.succeed()
        for name in sorted(self._processes.names):
            self._agenda.after(self._air.latency_s(), self._dial, name)

    # --- the reader of a run -------------------------------------------------------------------------

    def _awaited(self) -> str:
        waits = [f"{n} in round {node.round} waits for {node.missing()}" for n, node in self.nodes.items()]
        return "; ".join([*waits, *(f"{n} was never welcomed" for n in self.learners if n not in self.nodes)])

    def _note(self, name: str, cause: Any, actions: Sequence[Any] = ()) -> None:
        self.transcript.note(self.now, name, cause, actions)
