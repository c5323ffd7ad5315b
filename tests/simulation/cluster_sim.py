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
from edgenode.core.protocol.events import (
    UNREQUESTED,
    Answer,
    Answered,
    Await,
    ClusterAction,
    ClusterEvent,
    Disconnected,
    Evaluate,
    Evict,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    Pause,
    Persist,
    PlanChanged,
    Push,
    Received,
    Reply,
    Report,
    Reported,
    Resume,
    Rotate,
    Save,
    Send,
    StepDown,
    Stop,
    Train,
    Trained,
)
from edgenode.core.protocol.messages import Message
from edgenode.core.protocol.node import Node
from edgenode.core.protocol.orders import (
    EvictionCommitted,
    Fence,
    Fetched,
    Halt,
    Hello,
    Join,
    Leadership,
    Leave,
    LeaveRefused,
    NodeReport,
    Offer,
    Order,
    Progress,
    Refuse,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.core.protocol.plan import Plan
from edgenode.core.protocol.run_spec import RunSpec
from edgenode.core.topology.graph import Digraph
from edgenode.errors import Evicted, LocalProtocolError
from tests.simulation.control_links import ControlLinks
from tests.simulation.controller_host import ControllerHost
from tests.simulation.event_queue import EventQueue, Processes
from tests.simulation.host_disks import HostDisks
from tests.simulation.invariants import Invariants, require
from tests.simulation.learners import Weighed
from tests.simulation.lossy_network import LossyNetwork, Way
from tests.simulation.push_channel import PushChannel
from tests.simulation.scenario import (
    CONTROLLER,
    Depart,
    Disturbance,
    Fault,
    Freeze,
    Kill,
    Leap,
    LinkBreak,
    Partition,
    Rest,
    Scenario,
    Start,
)
from tests.simulation.transcript import Transcript

Displace = Callable[[str, int, Any], Any]  # (node, round, z) -> displacement


class Stuck(LocalProtocolError):
    """Nothing moves any more, and the run is not over."""


class ClusterSim:
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
        run_spec: RunSpec,
        learners: Mapping[str, Weighed],
        displace: Displace,
        scenario: Scenario,
        newborn: Callable[[Any], Weighed] | None = None,
    ) -> None:
        self.run_spec, self.scenario = run_spec, scenario
        self.learners: dict[str, Weighed] = dict(learners)
        self.nodes: dict[str, Node] = {}
        self._host = ControllerHost(run_spec, scenario.disk_lost)
        self.transcript = Transcript()
        self._asked: dict[int, str] = {UNREQUESTED: "evicted as silent"}
        self.finished: dict[str, Finish] = {}
        self._gone: dict[str, Node] = {}  # those of them that are not there any more
        self.replies: dict[int, Reply] = {}
        self.refused: dict[str, str] = {}
        self.saves: dict[str, list[Save]] = defaultdict(list)
        self.happened: Counter[str] = Counter()
        self.moments = 0
        self._displace, self._newborn = displace, newborn
        self._initial = {name: learner.pack(learner.snapshot()) for name, learner in learners.items()}
        self._rng = random.Random(scenario.seed)
        self._queue = EventQueue()
        self._processes = Processes(self._queue)
        self._lossy_network = LossyNetwork(scenario, self._rng, self.happened)
        self._links = ControlLinks(self._queue, self._processes, self._lossy_network)
        self._pushes = PushChannel(
            self._queue, self._processes, self._lossy_network, self.happened, scenario.retry_s,
            self._arrive, self._tell, self.finished.__contains__,
        )  # fmt: skip
        self._disks = HostDisks(run_spec.run_digest, self._rng, self.happened)
        self._offers = 0
        self._born: dict[str, Weighed] = {}  # newcomers that have fetched the model
        self._follows: dict[str, Leadership] = {}  # whom a process took its last order from
        self._invariants = Invariants(0 * next(iter(learners.values())).mass(), scenario.window, self.happened)

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self._queue.now

    @property
    def alive(self) -> frozenset[str]:
        """The names under which a process runs, members and others."""
        return self._processes.names

    @property
    def graphs(self) -> Mapping[int, Digraph]:
        """The digraph of every closed round, the same at all nodes."""
        return self._invariants.graphs

    @property
    def cluster(self) -> Cluster | None:
        """The controller's machine; None while it is away."""
        return self._host.cluster

    def run(self) -> ClusterSim:
        """Play until nothing is left to happen."""
        for name in sorted(self.learners):
            self._start(name)
        for when, disturbance in self.scenario.disturbances:
            self._queue.at(when, self._disturb, disturbance)
        if self.scenario.crash_s is not None:
            self._queue.at(self.scenario.crash_s, self._crash, self.scenario.back_s)
        for happen, what in self._queue:
            if self.now >= self._pushes.answered_s + self.scenario.patience_s:
                raise Stuck(f"at {self.now:.6f} s: deadlock: {self._awaited()}")
            try:
                happen(*what)
            except LocalProtocolError as exc:
                raise LocalProtocolError(f"at {self.now:.6f} s: {exc}") from exc
        nodes = {n: node for n, node in self.nodes.items() if n in self._processes} | self._gone
        if not nodes or not nodes.keys() <= self.finished.keys():
            raise Stuck(f"at {self.now:.6f} s: the run dried up: {self._awaited()}")
        stayed = nodes.keys() - {
            leaver for node in nodes.values() for r in node.plan.records for leaver, _ in r.handoffs
        }
        ends = {self.finished[n].round for n in stayed} | {nodes[n].end for n in stayed}
        require(len(ends) <= 1, f"the nodes ended in rounds {sorted(ends)}")
        self._invariants.check_end(frozenset(nodes))
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
            self._invariants.did(name, node.plan, learner, action)
        self._invariants.check(name, node, learner)
        life = self._processes.number(name)
        for action in actions:
            if self._dies_here(name) or self._processes.number(name) != life:
                return
            self._do(name, action)
        self._dies_here(name)

    def _do(self, name: str, action: NodeAction) -> None:
        match action:
            case Train(t, z):
                duration = self._rng.uniform(*self.scenario.slow.get(name, self.scenario.training_s))
                self.happened["slow"] += name in self.scenario.slow
                self._processes.after(duration, name, self._train, name, t, z)
            case Push(to, message):
                self._pushes.push(name, to, message)
            case Answer(to, ack):
                self._pushes.answer(name, to, Answered(name, ack))
            case Report(report):
                self._send_up(name, report)
            case PlanChanged(record):
                self._pushes.drop(name, {dead for dead, _ in record.evictions})
                self._report(name)
            case Mixed():
                self._report(name)
            case Save():
                self.saves[name].append(action)
                self._disks.begin(name, action, self.learners[name])
                sync_s = self._rng.uniform(*self.scenario.sync_s)
                self._processes.after(sync_s, name, self._disks.done, name)
            case Finish():
                self.finished[name] = action
                self._report(name)
                if self.scenario.leave_s is not None:
                    self._processes.after(self.scenario.leave_s, name, self._go, name)
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

    def _train(self, name: str, t: int, z: Any) -> None:
        local_update = self._displace(name, t, z)
        self._invariants.displaced(name, self.nodes[name].plan, t, local_update, self.learners[name].blocks)
        self._tell(name, Trained(t, local_update))

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
        self._queue.after(self.scenario.evict_s, self._suspect, name, self._processes.last(name))

    # --- faults -------------------------------------------------------------------------------------

    def _end(self, name: str, power: bool = False) -> None:
        """A process is gone, with its links and all it was about to do."""
        self._disks.break_off(name, power)
        self._processes.end(name)
        self.nodes.pop(name, None)
        self._born.pop(name, None)
        self._follows.pop(name, None)
        self._invariants.halted.pop(name, None)
        if self._links.of_controller.pop(name, None) is not None:
            self._queue.after(self._lossy_network.latency_s(), self._hang_up, name, self._links.of_nodes.get(name, -1))
        self._links.of_nodes.pop(name, None)

    def _hang_up(self, name: str, link: int) -> None:
        """The controller notices that a link has ended, unless the node has opened another one."""
        if self._links.of_controller.get(name) == link:
            del self._links.of_controller[name]
        if name not in self._links.of_controller and self._links.of_nodes.get(name) != link:
            self._decide(Disconnected(name))

    def _dies_here(self, name: str) -> bool:
        """Count one more moment between two actions; it may be the last of whoever acts."""
        self.moments += 1
        if self.moments not in self.scenario.crash_at:
            return False
        self._note(name, f"dies at moment {self.moments}")
        back_s = self.scenario.crash_at[self.moments]
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
                    self._queue.after(back_s, self._fault, Start(name))
            case Freeze(_, for_s):
                self._processes.freeze(name, for_s)
            case Start():
                self._start(name)
        if not isinstance(fault, Start):
            self._queue.after(self.scenario.evict_s, self._suspect, name, self._processes.last(name))

    def _suspect(self, name: str, life: int) -> None:
        """What the controller's shell would conclude of a silent process, as long as it is silent."""
        silent = name not in self._processes or self._processes.frozen(name) or not self._lossy_network.linked(name)
        over = (self.nodes or self._gone) and self.nodes.keys() <= self.finished.keys()
        if not silent or self._processes.last(name) != life or over:
            return
        self._decide(Evict(UNREQUESTED, name))
        self._queue.after(self.scenario.evict_s, self._suspect, name, life)

    def _part(self, cut: Partition) -> None:
        """A partition begins. The control links that it cuts break, and cannot be made anew before its end."""
        self._note("network", cut)
        self._queue.after(cut.for_s, self._heal, self._lossy_network.part(cut))
        for name in [n for n in sorted(self._links.of_nodes) if not self._lossy_network.linked(n)]:
            link = self._links.of_nodes.pop(name)
            self._processes.after(self.scenario.retry_s, name, self._dial, name)
            self._queue.after(self.scenario.retry_s, self._hang_up, name, link)
            self._queue.after(self.scenario.evict_s, self._suspect, name, self._processes.last(name))

    def _heal(self, ways: list[Way]) -> None:
        self._lossy_network.heal(ways)
        self._note("network", "heals")

    def _leap(self, host: str) -> None:
        """A clock leaps: whatever was to happen later happens now. Nobody may come to harm by it."""
        self.happened["clock jump"] += 1
        self._note(host, "its clock leaps")
        if host == CONTROLLER:
            silent = self._rng.choice(sorted(self.learners))
            if silent not in self.finished:
                self._decide(Evict(UNREQUESTED, silent))
        self._pushes.repeat(host)

    # --- the controller -----------------------------------------------------------------------------

    def _dial(self, name: str) -> None:
        """Open a control link and introduce the node; what was on its way on an older link is gone."""
        if name not in self._processes:
            return
        if not self._lossy_network.linked(name):
            self._links.of_nodes.pop(name, None)
            self._processes.after(self.scenario.retry_s, name, self._dial, name)
            return
        if self._links.of_controller.pop(name, None) is not None:
            self._decide(Disconnected(name))
        node = self.nodes.get(name)
        saved, plan = (frozenset[int](), node.plan) if node else self._disks.offer(name)
        running, fenced = node is not None, node.fenced if node else frozenset[str]()
        digest, process = self.run_spec.run_digest, str(self._processes.last(name))
        follows = self._follows.get(name) if node else None
        join = Join(f"{name}:1", digest, 1, saved, plan, running, process, fenced, follows)
        self._links.dial(name, self._joined, name, join)
        if node:
            self._report(name)

    def _joined(self, link: int, name: str, join: Join) -> None:
        if self.cluster:
            self._links.of_controller[name] = link
            if name in self.cluster.present:
                self._decide(Disconnected(name))  # its old link has not been missed yet
            self._decide(Reported(name, join))

    def _send_up(self, name: str, report: NodeReport) -> None:
        self._links.up(name, self._decide, Reported(name, report))

    def _report(self, name: str) -> None:
        if node := self.nodes.get(name):  # else it has just died
            latest = node.plan.latest
            farewell = node.farewell() if name in self.finished else None
            self._send_up(name, Progress(node.next_round, latest.number, latest.digest, farewell))

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
            case StepDown(reason):
                raise LocalProtocolError(f"the controller gave up: {reason}")
            case Send(name, Refuse(reason)):
                self.refused[name] = reason
                self._end(name)
            case Send(name, order):
                self._links.down(name, self._deliver, name, order)
                self._offers += isinstance(order, Offer)
                if isinstance(order, Offer) and self._offers == self.scenario.crash_at_offer:
                    self._crash(self.scenario.back_s)
            case Persist():
                self._host.persist(action)
            case Reply(request_id, start):
                self.replies[request_id] = action
                self.happened[self._asked.get(request_id, "")] += start is not None
            case _:
                assert_never(action)

    def _deliver(self, name: str, order: Order) -> None:
        match order:
            case Hello(leadership, paused):
                self._follows[name] = leadership
                # precaution: a node that connects learns whether the run is paused
                self._halt(name, paused)
            case Halt(halted):
                self._halt(name, halted)
            case Welcome(plan, t):
                self._welcome(name, plan, t, order)
            case Offer() | Fence() | EvictionCommitted():
                self._tell(name, order)
            case Sponsor(address):
                self._fetch(name, address.partition(":")[0])
            case LeaveRefused():
                self.happened["leave refused"] += 1
            case Refuse() | Standby():
                raise LocalProtocolError(f"{name} was sent {order}")
            case _:
                assert_never(order)

    def _halt(self, name: str, halted: bool) -> None:
        """A process is told to stand still, or to go on; one that is in no run yet remembers it."""
        node = self.nodes.get(name)
        if not halted:
            self._invariants.halted.pop(name, None)
        elif name not in self._invariants.halted:
            self._invariants.halted[name] = node.next_round if node else -1
        if node:
            self._tell(name, Halt(halted))

    def _welcome(self, name: str, plan: Plan, t: int, cause: Any) -> None:
        if name in self.nodes:
            return
        if t > plan.records[0].start:
            self._disks.rewind(name, -1)
            self.learners[name] = self._born.pop(name)
            self.happened["joined"] += 1
        else:
            if name not in self.learners:  # it came before the run began, and took the place of one who is late
                assert self._newborn is not None
                newborn = self.learners[name] = self._newborn(next(iter(self.learners.values())).model())
                self._initial[name] = newborn.pack(newborn.snapshot())
            if plan.records[0].number > 0:
                self._resumed(name, t, plan)
        self._invariants.opened(name, plan, t, self.learners[name])
        self.nodes[name] = Node(
            name, plan, self.learners[name], t, self.scenario.window, 0, self.scenario.checkpoint_every
        )
        self._act(name, cause, self.nodes[name].start(name in self._invariants.halted))
        self._report(name)

    def _resumed(self, name: str, t: int, plan: Plan) -> None:
        """All were down: the first one back opens new books. From the common round, or, if nobody had saved, anew."""
        if self._invariants.resumes(plan, t):
            running = [n for n, node in self.nodes.items() if self._lossy_network.linked(n) and self._counts(n, node)]
            require(not running, f"all resume although {running} run")
            self._disks.all_resume()
            self._pushes.forget()
        if self._disks.saved(name, t):
            self.learners[name] = self._disks.resume(name, t, self.learners[name])
        else:
            self.learners[name] = self.learners[name].unpacked(self._initial[name])

    def _counts(self, name: str, node: Node) -> bool:
        """Whether a member is in its rounds, and neither a cut nor an operator's word says that it is out."""
        forced = any(isinstance(o, Evict) and o.force and o.node == name for _, o in self.scenario.disturbances)
        out = node.plan.at(node.round).incarnations.get(name, 0) <= self._host.cut_out.get(name, -1)
        return node.round < node.end and not forced and not out

    def _fetch(self, name: str, sponsor: str) -> None:
        """A newcomer copies its sponsor's model; if that is not there, it asks the controller anew."""
        if name in self.nodes:
            return
        reachable = self._lossy_network.passes(name, sponsor) and self._lossy_network.passes(sponsor, name)
        if sponsor in self.nodes and reachable and self._newborn is not None:
            self._born[name] = self._newborn(self.learners[sponsor].model())
            self._send_up(name, Fetched())
        else:
            self._processes.after(self.scenario.retry_s, name, self._dial, name)

    def _disturb(self, disturbance: Disturbance) -> None:
        match disturbance:
            case Kill() | Freeze() | Start():
                self._fault(disturbance)
            case Partition():
                self._part(disturbance)
            case Leap(host):
                self._leap(host)
            case Rest(request_id, for_s):
                self._asked[request_id] = "pause"
                self._decide(Pause(request_id))
                self._queue.after(for_s, self._resume)
            case LinkBreak(name):
                self._links.of_controller.pop(name, None)
                self._queue.after(self._lossy_network.latency_s(), self._dial, name)
                self._decide(Disconnected(name))
            case Depart(name):
                self._decide(Reported(name, Leave()))
            case Rotate() | Stop() | Evict():
                self._asked[disturbance.request_id] = type(disturbance).__name__.lower()
                self._decide(disturbance)
            case _:
                assert_never(disturbance)

    def _resume(self) -> None:
        """The operator of a pause ends it: again and again, until a controller has answered."""
        request_id = -2 - self._queue.serial()  # of no order, and none that a shell uses
        self._asked[request_id] = "resume"
        self._decide(Resume(request_id))
        if request_id not in self.replies and not set(self.nodes) <= set(self.finished):
            self._queue.after(self.scenario.retry_s, self._resume)

    def _crash(self, back_s: float | None) -> None:
        """The controller vanishes; what it has already said may still arrive, what it was to hear does not."""
        self._host.vacate()
        self._links.of_controller.clear()
        self.happened["controller crashed"] += 1
        self.happened["controller lost its disk"] += self.scenario.disk_lost
        self._note(CONTROLLER, "gone")
        if back_s is not None:
            self._queue.after(back_s, self._come_back)

    def _come_back(self) -> None:
        self._host.succeed()
        for name in sorted(self._processes.names):
            self._queue.after(self._lossy_network.latency_s(), self._dial, name)

    # --- the reader of a run -------------------------------------------------------------------------

    def _awaited(self) -> str:
        waits = [f"{n} in round {node.round} waits for {node.missing()}" for n, node in self.nodes.items()]
        return "; ".join([*waits, *(f"{n} was never welcomed" for n in self.learners if n not in self.nodes)])

    def _note(self, name: str, cause: Any, actions: Sequence[Any] = ()) -> None:
        self.transcript.note(self.now, name, cause, actions)
