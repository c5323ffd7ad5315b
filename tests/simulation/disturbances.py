"""What happens from outside: faults, partitions, clock jumps, and the requests of operators and leavers."""

from __future__ import annotations

from typing import assert_never

from edgenode.controller.liveness import most_blocked
from edgenode.core.protocol.events import (
    UNREQUESTED,
    Avoid,
    Disconnected,
    Evict,
    Extend,
    Pause,
    Reported,
    Resume,
    Rotate,
    Stop,
)
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.orders import Leave
from tests.simulation.blocked_links import NOTICE_S
from tests.simulation.controller_shell import ControllerShell
from tests.simulation.lossy_network import Direction
from tests.simulation.node_shells import NodeShells
from tests.simulation.scenario import (
    CONTROLLER,
    BlockLink,
    ClockJump,
    Disturbance,
    Expel,
    Freeze,
    GiveUp,
    Kill,
    LeaveRequest,
    LinkBreak,
    Partition,
    PauseFor,
    RevokeKey,
    Start,
)
from tests.simulation.sim_state import SimState


class Disturbances:
    """The disturbances of one run: all that its scenario schedules."""

    def __init__(self, state: SimState, nodes: NodeShells, controller: ControllerShell) -> None:
        self._state, self._nodes, self._controller = state, nodes, controller

    def schedule(self) -> None:
        """Schedule everything."""
        scenario, queue = self._state.scenario, self._state.queue
        for when, disturbance in scenario.disturbances:
            queue.at(when, self._disturb, disturbance)
        if scenario.crash_s is not None:
            queue.at(scenario.crash_s, self._controller.crash, scenario.back_s)

    def _disturb(self, disturbance: Disturbance) -> None:
        match disturbance:
            case Kill() | Freeze() | Start():
                self._nodes.fault(disturbance)
            case Partition():
                self._begin(disturbance)
            case BlockLink():
                self._block(disturbance)
            case ClockJump(host):
                self._jump(host)
            case LinkBreak(name):
                self._break_link(name)
            case LeaveRequest(name):
                self._controller.handle(Reported(name, Leave()))
            case PauseFor(request_id, for_s):
                self._controller.request(Pause(request_id), "pause")
                self._state.queue.after(for_s, self._resume)
            case RevokeKey(name):
                self._revoke(name)
            case Expel(name):
                self._expel(name)
            case GiveUp(name):
                self._give_up(name)
            case Rotate() | Stop() | Extend() | Evict():
                self._controller.request(disturbance, type(disturbance).__name__.lower())
            case _:
                assert_never(disturbance)

    def _begin(self, partition: Partition) -> None:
        """A partition breaks the control links across it. They cannot be opened again before it ends."""
        state = self._state
        state.record("network", partition)
        state.queue.after(partition.for_s, self._end, state.network.begin(partition))
        for name in [n for n in sorted(state.links.of_nodes) if not state.network.linked(n)]:
            self._nodes.lose_link(name)

    def _end(self, directions: list[Direction]) -> None:
        self._state.network.end(directions)
        self._state.record("network", "partition ends")

    def _block(self, block: BlockLink) -> None:
        state = self._state
        if state.blocked.begin(block):
            state.record("network", block)
            state.queue.after(NOTICE_S, self._nodes.report_progress, block.sender)
            state.queue.after(NOTICE_S + state.scenario.evict_s, self._watch_link, block.sender, block.receiver)
            if block.for_s is not None:
                state.queue.after(block.for_s, self._unblock, block)

    def _unblock(self, block: BlockLink) -> None:
        self._state.blocked.end(block)
        self._state.record("network", "link works")
        self._nodes.report_progress(block.sender)

    def _watch_link(self, sender: str, receiver: str) -> None:
        """The controller looks at a link that is blocked, as the daemon's failure detector does."""
        state, cluster = self._state, self._controller.cluster
        over = (state.nodes or state.exited) and state.all_finished
        if over or not state.blocked.is_blocked((sender, receiver)):
            return
        self._nodes.report_progress(sender)
        views = (
            [v for v in cluster.links.views if (v.sender, v.blocked.receiver) == (sender, receiver)] if cluster else []
        )
        stands = state.queue.now - self._nodes.pushes.answered_s >= state.scenario.evict_s
        if views and views[0].blocked.by:
            self._controller.handle(Avoid(frozenset({(sender, receiver)})))
        elif views and cluster and stands and not views[0].left_out and not cluster.state.paused:
            state.happened["evicted for its links"] += 1
            self._controller.handle(Evict(UNREQUESTED, most_blocked([(sender, receiver)])))
        state.queue.after(state.scenario.evict_s, self._watch_link, sender, receiver)

    def _jump(self, host: str) -> None:
        """A clock jumps forward: whatever was to happen later happens now, and must do no harm."""
        state = self._state
        state.happened["clock jump"] += 1
        state.record(host, "clock jumps")
        if host == CONTROLLER:
            silent = state.rng.choice(sorted(state.learners))
            if silent not in state.finished:
                self._controller.handle(Evict(UNREQUESTED, silent))
        self._nodes.pushes.repeat(host)

    def _break_link(self, name: str) -> None:
        state = self._state
        state.links.of_controller.pop(name, None)
        state.queue.after(state.network.latency_s(), self._nodes.connect, name)
        self._controller.handle(Disconnected(name))

    def _expel(self, name: str) -> None:
        """The operator evicts a liar. The request is repeated until it is out, or the others have ended.

        Its key is revoked then.
        """
        state = self._state
        honest = [node for other, node in state.nodes.items() if other not in state.liars]
        over = self._controller.cluster is not None and self._controller.cluster.state.over
        if over or (honest and all(_is_without(node, name) for node in honest)):
            self._nodes.end(name)
            self._controller.watch(name)
            state.record(name, "is cut off")
            return
        self._controller.request(Evict(-2 - state.queue.serial(), name, force=True), "evict")
        if not state.all_finished:
            state.queue.after(state.scenario.retry_s, self._expel, name)

    def _give_up(self, name: str) -> None:
        """The request is repeated until the plan is without the member, or the run is over."""
        state, cluster = self._state, self._controller.cluster
        plan = cluster.state.plan if cluster is not None else None
        over = state.finished.keys() >= state.learners.keys() - {name} or (cluster is not None and cluster.state.over)
        if over or (plan is not None and name not in plan.latest.names):
            return
        if cluster is not None and plan is not None and name not in cluster.state.membership.given_up:
            self._controller.request(Evict(-2 - state.queue.serial(), name, force=True), "give up")
        state.queue.after(state.scenario.retry_s, self._give_up, name)

    def _revoke(self, name: str) -> None:
        """Every listener ends the streams of the process, so it is as good as dead. Nobody restarts it."""
        state = self._state
        if name not in state.finished and name in state.processes:
            key = state.key_of(name)
            state.happened["revoke"] += 1
            state.record(name, "loses its key")
            self._nodes.end(name)
            self._controller.watch(name)
            self._controller.revoke(key)

    def _resume(self) -> None:
        """The operator that paused the run resumes it. The request is repeated until a controller replies."""
        state = self._state
        request = Resume(-2 - state.queue.serial())  # a request id that nothing else uses
        self._controller.request(request, "resume")
        over = (state.nodes or state.exited) and state.all_finished  # not while all are down
        if state.run_spec.requirements.fixed:  # those that are down come back
            over = state.finished.keys() >= state.learners.keys()
        if request.request_id not in self._controller.requests.replies and not over:
            state.queue.after(state.scenario.retry_s, self._resume)


def _is_without(node: Node, name: str) -> bool:
    """Whether a node does not wait for another one, and will not."""
    out = node.state.plan.processes.last_evicted(name) >= 0 or name not in node.state.plan.at(node.state.round).names
    return out and name not in node.state.missing()
