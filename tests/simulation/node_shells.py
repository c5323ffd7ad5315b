"""The nodes' processes: the event loops around ``Node``, their links and checkpoints, and how each starts and ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_never

from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Await,
    Disconnected,
    Evaluate,
    Evict,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Publish,
    Push,
    Received,
    Report,
    Reported,
    Save,
    Train,
    Trained,
)
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.messages import Ack, Message, Verdict
from edgenode.core.protocol.orders import (
    Ended,
    EvictionCommitted,
    Fence,
    Fetched,
    Halt,
    Hello,
    Join,
    Leadership,
    LeaveRefused,
    NodeReport,
    Offer,
    Order,
    Progress,
    Refuse,
    Restart,
    Revoked,
    Sponsor,
    Standby,
    Welcome,
)
from edgenode.core.protocol.plan.newcomers import is_confirmed, is_unsent, members_before
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.topology.period import DataSize
from edgenode.errors import Evicted, LocalProtocolError, PeerRestarted, RemoteProtocolError
from tests.simulation.controller_shell import ControllerShell
from tests.simulation.exchange_learner import ExchangeLearner
from tests.simulation.invariants import require
from tests.simulation.learners import TrackedLearner
from tests.simulation.push_channel import PushChannel
from tests.simulation.scenario import Freeze, Kill, LoseState, ProcessFault, Start
from tests.simulation.signer import CONTROLLER_SIGNER
from tests.simulation.sim_state import SimState

LocalUpdate = Callable[[str, int, Any], Any]  # (node, round, z) -> local update
NewLearner = Callable[[Any], TrackedLearner]  # z -> the learner of a newcomer


class NodeShells:
    """The processes of all nodes of one run.

    Attributes:
        pushes: what they send each other.
    """

    def __init__(
        self,
        state: SimState,
        controller: ControllerShell,
        local_update: LocalUpdate,
        new_learner: NewLearner | None,
    ) -> None:
        self._state, self._controller = state, controller
        self._local_update, self._new_learner = local_update, new_learner
        self.pushes = PushChannel(
            state.queue, state.processes, state.network, state.happened, state.scenario.retry_s,
            self._receive, self._handle, state.finished.__contains__, state.blocked.carries,
        )  # fmt: skip
        self._initial = {name: learner.pack(learner.snapshot(0)) for name, learner in state.learners.items()}
        self._fetched: dict[str, TrackedLearner] = {}  # of newcomers that have the model, and wait for their welcome
        self._copying: dict[str, Welcome] = {}  # of those that wait for the common part of their first exchange
        self._leaders: dict[str, Leadership] = {}  # the controller that sent each process its last greeting

    # --- the event loop -----------------------------------------------------------------------------

    def _handle(self, name: str, event: NodeEvent) -> None:
        node, liars = self._state.nodes.get(name), self._state.liars
        if node is None:
            return
        try:
            actions = node.handle(event)
        except RemoteProtocolError as exc:
            if not liars.excuse(node, event):
                raise
            self._state.happened["refused a lie"] += 1
            if isinstance(event, Received):  # as the daemon does
                refusal = Ack(event.message.round, Verdict.ERROR, 0, str(exc))
                self.pushes.answer(name, event.message.sender, Answered(name, refusal))
            return
        self._perform(name, event, actions)

    def _perform(self, name: str, cause: Any, actions: list[NodeAction]) -> None:
        """Perform the actions of a node, unless it dies in between. Its own state has changed already."""
        state = self._state
        state.record(name, cause, actions)
        node, learner = state.nodes[name], state.learners[name]
        for action in actions:
            state.invariants.acted(name, node.state.plan, learner, action)
        state.invariants.check(name, node, learner)
        process = state.processes.number(name)
        for action in actions:
            if self._dies_now(name) or state.processes.number(name) != process:
                return
            self._do(name, action)
        self._dies_now(name)

    def _do(self, name: str, action: NodeAction) -> None:
        state, scenario = self._state, self._state.scenario
        match action:
            case Train(t, z):
                duration = state.rng.uniform(*scenario.slow.get(name, scenario.training_s))
                state.happened["slow"] += name in scenario.slow
                state.processes.after(duration, name, self._train, name, t, z)
            case Push(to, message):
                lied = name in state.liars
                self.pushes.push(name, to, state.liars.push(state.nodes[name], message) if lied else message)
            case Answer(to, ack):
                lied = name in state.liars
                said = state.liars.ack(state.nodes[name], ack) if lied else ack
                self.pushes.answer(name, to, Answered(name, said))
            case Report(report):
                self._send_up(name, report)
            case PlanChanged(record):
                self.pushes.drop(name, {evicted for evicted, _ in record.evictions})
                self.report_progress(name)
            case Mixed():
                self.report_progress(name)
            case Save():
                state.disks.begin_save(name, action, state.learners[name], state.ledgers.pack(name))
                state.processes.after(state.rng.uniform(*scenario.sync_s), name, state.disks.finish_save, name)
            case Finish():
                state.finished[name] = action
                self.report_progress(name)
                if scenario.leave_s is not None:
                    state.processes.after(scenario.leave_s, name, self._exit, name)
            case Fail(Evicted()) if name not in state.liars:
                state.happened["restarted after its eviction"] += 1
                self.end(name)
                self.start(name)
            case Fail(PeerRestarted()):
                state.happened["restarted with another member"] += 1
                state.happened["restarted after its end"] += state.finished.pop(name, None) is not None
                self.end(name)
                self.start(name)
            case Fail() if name in state.liars:
                pass  # it lies on
            case Fail(error):
                raise error
            case Await() | Evaluate() | Publish():
                pass
            case _:
                assert_never(action)

    def _train(self, name: str, t: int, z: Any) -> None:
        state = self._state
        state.ledgers.take(name)
        local_update = self._local_update(name, t, z)
        state.invariants.trained(name, state.nodes[name].state.plan, t, state.learners[name].gains(local_update))
        self._handle(name, Trained(t, local_update))

    def _receive(self, name: str, message: Message) -> None:
        """A push arrives. At a process that is not a member yet it is lost, and its sender repeats it.

        The handshake refuses a stream of a run that all have resumed since. Its process has ended, and another one
        would take the answer for its own.
        """
        nodes = self._state.nodes
        receiver, sender = nodes.get(name), nodes.get(message.sender)
        replaced = sender is None or sender.state.incarnation != message.incarnation
        if receiver and replaced and message.number < receiver.state.plan.records[0].number:
            return
        self._handle(name, Received(message))

    def make_noise(self, name: str) -> None:
        """A liar sends something out of turn to anyone, and does so again."""
        state, rng = self._state, self._state.rng
        if name in state.nodes:
            to = rng.choice([other for other in sorted(state.learners) if other != name])
            if message := state.liars.noise(state.nodes[name]):
                self.pushes.send_once(name, to, message)
            self.pushes.answer(name, to, Answered(name, state.liars.unasked_ack(state.nodes[name])))
            self.report_progress(name)
            state.happened["lie"] += 1
        if not state.all_finished or not state.nodes:
            state.processes.after(rng.uniform(0.02, 0.4), name, self.make_noise, name)

    # --- start and end ------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """A process starts. All it knows is on its disk."""
        self._state.processes.start(name)
        self.connect(name)

    def end(self, name: str, power: bool = False) -> None:
        """A process ends, with its links and everything that it was about to do."""
        state, links = self._state, self._state.links
        state.disks.interrupt(name, power)
        state.ledgers.interrupt(name, power)
        state.processes.end(name)
        state.nodes.pop(name, None)
        self._fetched.pop(name, None)
        self._copying.pop(name, None)
        self._leaders.pop(name, None)
        state.invariants.halted.pop(name, None)
        if links.of_controller.pop(name, None) is not None:
            lost_link = links.of_nodes.get(name, -1)
            state.queue.after(state.network.latency_s(), self._controller.lose_link, name, lost_link)
        links.of_nodes.pop(name, None)

    def _exit(self, name: str) -> None:
        """A node that has finished exits, whether or not others still wait for its answer."""
        self._state.happened["exited after its end"] += 1
        self._state.record(name, "exits")
        self._state.exited[name] = self._state.nodes[name]
        self.end(name)
        self._controller.watch(name)

    def start_again(self, name: str) -> None:
        """An operator starts a node that has exited after its end, because the others need it."""
        state = self._state
        state.happened["started again after its end"] += 1
        state.record(name, "is started again")
        del state.finished[name], state.exited[name]
        self.start(name)

    def _dies_now(self, name: str) -> bool:
        if not self._state.crashes_now(name):
            return False
        self.fault(Kill(name, self._state.scenario.crash_at[self._state.moments], power=True))
        return True

    def fault(self, fault: ProcessFault) -> None:
        """A fault of a process, unless it has finished, or does not run, or, to be started, runs already."""
        name, state = fault.node, self._state
        if name in state.finished or (name in state.processes) == isinstance(fault, Start):
            return
        state.happened[type(fault).__name__.lower()] += 1
        state.record(name, fault)
        match fault:
            case Kill(_, back_s, power):
                self.end(name, power)
                if isinstance(fault, LoseState):
                    state.disks.wipe(name)
                    state.ledgers.wipe(name)
                if back_s is not None:
                    state.queue.after(back_s, self.fault, Start(name))
            case Freeze(_, for_s):
                state.processes.freeze(name, for_s)
            case Start():
                self.start(name)
        if not isinstance(fault, Start):
            self._controller.watch(name)

    # --- the control link ---------------------------------------------------------------------------

    def connect(self, name: str) -> None:
        """Open a control link and send the first report. What was under way on an older link is lost."""
        state, links = self._state, self._state.links
        if name not in state.processes:
            return
        if not state.network.linked(name):
            links.of_nodes.pop(name, None)
            self._connect_later(name)
            return
        if links.of_controller.pop(name, None) is not None:
            self._controller.handle(Disconnected(name))
        links.connect(name, self._controller.accept, name, self._join(name))
        self.report_progress(name)

    def _connect_later(self, name: str) -> None:
        self._state.processes.after(self._state.scenario.retry_s, name, self.connect, name)

    def _join(self, name: str) -> Join:
        state, node = self._state, self._state.nodes.get(name)
        digest, process = state.run_spec.run_digest, str(state.processes.last(name))
        if node is None:
            saved, plan = state.disks.scan(name)
            return Join(f"{name}:1", digest, DataSize(1, 1), saved, plan, process=process, key=state.key_of(name))
        join = Join(f"{name}:1", digest, DataSize(1, 1), frozenset(), node.state.plan, True, process, node.state.fence)
        return replace(join, follows=self._leaders.get(name), key=state.key_of(name))

    def lose_link(self, name: str) -> None:
        """A node notices that its link has ended, and opens another one. The controller notices it, too."""
        state = self._state
        link = state.links.of_nodes.pop(name)
        self._connect_later(name)
        state.queue.after(state.scenario.retry_s, self._controller.lose_link, name, link)
        self._controller.watch(name)

    def _send_up(self, name: str, report: NodeReport) -> None:
        if name in self._state.liars:
            report = self._state.liars.report(self._state.nodes.get(name), report)
        self._state.links.send_up(name, self._controller.handle, Reported(name, report))

    def report_progress(self, name: str) -> None:
        """A node reports how far it is, and which links it cannot use."""
        if node := self._state.nodes.get(name):  # else it has just died
            latest = node.state.plan.latest
            farewell = node.farewell() if name in self._state.finished else None
            blocked = self._state.blocked.reported_by(name, node.state.plan, node.state.next_round)
            self._send_up(name, Progress(node.state.next_round, latest.number, latest.digest, farewell, blocked))

    def deliver(self, name: str, order: Order) -> None:
        """An order arrives at a node."""
        match order:
            case Hello(leadership, paused):
                self._leaders[name] = leadership
                # precaution: a node that connects learns whether the run is paused
                self._halt(name, paused)
            case Halt(halted):
                self._halt(name, halted)
            case Welcome(plan, t):
                self._welcome(name, plan, t, order)
            case Restart() if name in self._copying:
                self._state.happened["restarted before its first round"] += 1
                self.end(name)
                self.start(name)
            case Offer() | Fence() | EvictionCommitted() | Restart():
                self._handle(name, order)
            case Ended(node) if node == name:
                require(name in self._state.finished, f"{name} is let go, and has not ended")
                self._state.happened["let go"] += 1
                self._exit(name)
            case Ended(node):
                self._state.happened["no answer expected"] += 1
                self.pushes.drop(name, {node})
                self._handle(name, order)
            case Sponsor(address):
                self._fetch(name, address.partition(":")[0])
            case Revoked():
                pass  # a matter of connections
            case LeaveRefused():
                self._state.happened["leave refused"] += 1
            case Refuse() | Standby():
                raise LocalProtocolError(f"{name} was sent {order}")
            case _:
                assert_never(order)

    def _halt(self, name: str, halted: bool) -> None:
        """Stand still, or continue. A process that is not a member yet remembers it."""
        node, allowed = self._state.nodes.get(name), self._state.invariants.halted
        if not halted:
            allowed.pop(name, None)
        elif name not in allowed:
            allowed[name] = node.state.next_round if node else -1
        self._handle(name, Halt(halted))

    # --- becoming a member --------------------------------------------------------------------------

    def _fetch(self, name: str, sponsor: str) -> None:
        """A newcomer copies its sponsor's model. If it cannot reach the sponsor, it asks the controller again."""
        state = self._state
        if name in state.nodes:
            return
        self._copying.pop(name, None)  # the others have resumed without it
        if sponsor in state.nodes and state.network.connects(name, sponsor) and self._new_learner is not None:
            self._fetched[name] = self._new_learner(state.learners[sponsor].model())
            self._send_up(name, Fetched())
        else:
            self._connect_later(name)

    def _welcome(self, name: str, plan: Plan, t: int, cause: Welcome) -> None:
        """A process becomes a member: a newcomer, an initial member, or one that resumes."""
        state = self._state
        if name in state.nodes:
            return
        self._copying.pop(name, None)  # all have resumed since
        if t > plan.records[0].start and state.run_spec.requirements.fixed:
            self._copying[name] = cause
            self._copy(name, cause, 0)
            return
        if t > plan.records[0].start:
            state.disks.rewind(name, -1)
            state.learners[name] = self._fetched.pop(name)
            state.happened["joined"] += 1
        else:
            if name not in state.learners:  # it came before the run began, and took the place of a node that is late
                assert self._new_learner is not None
                first = next(iter(state.learners))
                learner = state.learners[name] = state.learners[first].unpacked(self._initial[first])
                self._initial[name] = learner.pack(learner.snapshot(0))
            if plan.records[0].number > 0:
                self._resume(name, t, plan)
        self._begin(name, plan, t, cause)

    def _copy(self, name: str, welcome: Welcome, attempt: int) -> None:
        """A newcomer copies what the members have alike when the exchange begins in which it starts."""
        state, plan, t = self._state, welcome.plan, welcome.round
        if self._copying.get(name) is not welcome:
            return
        members = members_before(plan, t)
        sponsor = members[attempt % len(members)]
        copies = {member: self._copy_of(member, name, t) for member in members}
        copy = copies[sponsor]
        if copy is None or not is_confirmed(sum(c == copy for c in copies.values()), len(members)):
            state.happened["copy refused"] += copy is not None
            state.processes.after(state.scenario.retry_s, name, self._copy, name, welcome, attempt + 1)
            return
        del self._copying[name]
        learner = state.learners[sponsor]
        assert isinstance(learner, ExchangeLearner)
        state.learners[name] = learner.joining(copy, self._unsent(name, plan))
        state.disks.rewind(name, -1)
        state.happened["joined"] += 1
        self._begin(name, plan, t, welcome)

    def _copy_of(self, member: str, newcomer: str, t: int) -> dict[str, Any] | None:
        """What a member gives a newcomer that starts with round t. None if it is not there, or cannot be reached."""
        state, node, learner = self._state, self._state.nodes.get(member), self._state.learners.get(member)
        if node is None or not isinstance(learner, ExchangeLearner) or not state.network.connects(newcomer, member):
            return None
        if node.state.round // learner.exchange * learner.exchange != t:
            return None
        copy = learner.common(begun=node.state.next_round > t)
        poisons = member == state.scenario.poisons and len(members_before(node.state.plan, t)) > 2
        return copy | {"x": copy["x"] + 1} if poisons else copy

    def _unsent(self, name: str, plan: Plan) -> Any:
        """What a newcomer kept in its checkpoint and never sent. Most have nothing of the kind."""
        state, t = self._state, plan.records[0].start
        saved, theirs = state.disks.scan(name)
        if theirs is None or t not in saved or not is_unsent(name, t, theirs, plan):
            return 0
        learner = next(iter(state.learners.values())).unpacked(state.disks.load(name, t))
        assert isinstance(learner, ExchangeLearner)
        return learner.rest

    def _begin(self, name: str, plan: Plan, t: int, cause: Welcome) -> None:
        """A process begins its rounds."""
        state = self._state
        state.invariants.joined(name, plan, t, state.learners[name])
        state.nodes[name] = Node(
            name,
            plan,
            state.learners[name],
            t,
            state.scenario.window,
            checkpoint_every=state.scenario.checkpoint_every,
            verifier=CONTROLLER_SIGNER,
            lag=state.run_spec.lag,
        )
        self._perform(name, cause, state.nodes[name].start(name in state.invariants.halted))
        self.report_progress(name)

    def _resume(self, name: str, t: int, plan: Plan) -> None:
        """All members were down: resume from the common round, or, if no member had saved one, start again."""
        state = self._state
        if state.invariants.resumed(plan, t):
            running = [
                n
                for n, node in state.nodes.items()
                if n not in state.liars and state.network.linked(n) and self._takes_part(n, node)
            ]
            require(not running, f"all resume although {running} run")
            state.disks.begin_history()
            self.pushes.drop_all()
        if state.disks.has(name, t):
            state.ledgers.resume(name, state.disks.load(name, t))
            state.learners[name] = state.disks.resume(name, t, state.learners[name])
        else:
            # one that joined starts again as all others do
            initial = self._initial.get(name) or next(iter(self._initial.values()))
            state.learners[name] = state.learners[name].unpacked(initial)

    def _takes_part(self, name: str, node: Node) -> bool:
        """Whether a member is in its rounds, and neither evicted nor given up."""
        disturbances = [disturbance for _, disturbance in self._state.scenario.disturbances]
        forced = any(isinstance(d, Evict) and d.force and d.node == name for d in disturbances)
        forced = forced or name in self._controller.to_give_up
        evicted = self._controller.has_evicted(name, node.state.plan.at(node.state.round).incarnations.get(name, 0))
        return node.state.round < node.state.end and not forced and not evicted
