"""Nodes and one controller in simulated time: one seeded queue of events, no threads, no asyncio.

The state machines are those of the daemons. The simulator performs what they decide: late, twice, out of order, or
after several attempts. It decides nothing itself, and reads only what they publish. After every event it checks what
must hold in every order (`invariants`). Equal seeds give equal transcripts on every host.

- `sim_state`: what all parts share: hosts, network, disks, transcript.
- `node_shells`: the processes of the nodes.
- `controller_shell`: the process of the controller.
- `disturbances`: what happens from outside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from edgenode.core.protocol.controller.cluster import Cluster
from edgenode.core.protocol.events import Finish, Reply
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology import allreduce
from edgenode.core.topology.graph import Digraph
from edgenode.errors import LocalProtocolError
from tests.simulation.controller_shell import ControllerShell
from tests.simulation.disturbances import Disturbances
from tests.simulation.exchange_learner import ExchangeLearner
from tests.simulation.fixed_members import require_exchanges, require_fixed_members
from tests.simulation.invariants import require
from tests.simulation.learners import TrackedLearner
from tests.simulation.node_shells import LocalUpdate, NewLearner, NodeShells
from tests.simulation.scenario import Scenario
from tests.simulation.sim_state import SimState
from tests.simulation.transcript import Transcript


class Stuck(LocalProtocolError):
    """Nothing moves any more, and the run is not over."""


class ClusterSim:
    """One run from its start to the last answer.

    Args:
        learners: of the initial members.
        local_update: (node, round, z) -> the local update of that round.
        new_learner: z -> the learner of a newcomer. Without it no node can join.
    """

    def __init__(
        self,
        run_spec: RunSpec,
        learners: Mapping[str, TrackedLearner],
        local_update: LocalUpdate,
        scenario: Scenario,
        new_learner: NewLearner | None = None,
    ) -> None:
        self._state = SimState(run_spec, learners, scenario)
        self._controller = ControllerShell(self._state)
        self._nodes = NodeShells(self._state, self._controller, local_update, new_learner)
        self._controller.nodes = self._nodes
        self._disturbances = Disturbances(self._state, self._nodes, self._controller)

    # --- the result of a run ------------------------------------------------------------------------

    @property
    def run_spec(self) -> RunSpec:
        """What the run is created from."""
        return self._state.run_spec

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The state machines of the members whose processes run."""
        return self._state.nodes

    @property
    def learners(self) -> Mapping[str, TrackedLearner]:
        """Of all nodes that ever took part."""
        return self._state.learners

    @property
    def finished(self) -> Mapping[str, Finish]:
        """How each node ended."""
        return self._state.finished

    @property
    def replies(self) -> Mapping[int, Reply]:
        """The last reply to each operator, by request id."""
        return self._controller.requests.replies

    @property
    def happened(self) -> Counter[str]:
        """How often each kind of fault has happened."""
        return self._state.happened

    @property
    def scenario(self) -> Scenario:
        """What can happen, and what does."""
        return self._state.scenario

    @property
    def moments(self) -> int:
        """How often a host could have crashed: before, between and after its actions."""
        return self._state.moments

    @property
    def transcript(self) -> Transcript:
        """All events."""
        return self._state.transcript

    @property
    def alive(self) -> frozenset[str]:
        """The names under which a process runs, members and others."""
        return self._state.processes.names

    @property
    def liars(self) -> frozenset[str]:
        """The members that lie."""
        return frozenset(self._state.liars)

    @property
    def graphs(self) -> Mapping[int, Digraph]:
        """The digraph of every mixed round, the same at all nodes."""
        return self._state.invariants.graphs

    @property
    def cluster(self) -> Cluster | None:
        """The controller's state machine; None while no controller runs."""
        return self._controller.cluster

    # --- the run ------------------------------------------------------------------------------------

    def run(self) -> ClusterSim:
        """Play until nothing is left to happen.

        Raises:
            Stuck: no push was answered for the scenario's patience, or nothing is left and some node has not finished.
            LocalProtocolError: an invariant is broken.
            EdgenodeError: a state machine failed.
        """
        state = self._state
        for name in sorted(state.learners):
            self._nodes.start(name)
        self._disturbances.schedule()
        for name in state.liars:
            self._nodes.make_noise(name)
        return self._continue()

    def start_again(self, names: Iterable[str]) -> ClusterSim:
        """An operator starts nodes that have exited after their end, in a run that is stuck. Play on to its end.

        Raises:
            Stuck, LocalProtocolError, EdgenodeError: as `run` does.
        """
        for name in sorted(names):
            self._nodes.start_again(name)
        self._nodes.pushes.answered_s = self._state.queue.now
        return self._continue()

    def _continue(self) -> ClusterSim:
        state = self._state
        for callback, args in state.queue:
            try:
                callback(*args)
            except LocalProtocolError as exc:
                raise LocalProtocolError(f"at {state.queue.now:.6f} s: {exc}") from exc
            if state.queue.now >= self._nodes.pushes.answered_s + state.scenario.patience_s:
                raise Stuck(f"at {state.queue.now:.6f} s: deadlock: {self._waits()}")
        self._check_end()
        return self

    def _check_end(self) -> None:
        state = self._state
        nodes = {name: node for name, node in (state.nodes | state.exited).items() if name not in state.liars}
        if not nodes or not nodes.keys() <= state.finished.keys():
            raise Stuck(f"at {state.queue.now:.6f} s: nothing is left to happen: {self._waits()}")
        plans, learner = [node.state.plan for node in nodes.values()], next(iter(state.learners.values()))
        if isinstance(learner, ExchangeLearner):
            require_exchanges(plans, learner.exchange)
        elif state.run_spec.requirements.fixed:
            require_fixed_members(plans)
        leavers = {leaver for node in nodes.values() for r in node.state.plan.records for leaver, _ in r.handoffs}
        stayed = nodes.keys() - leavers
        # Members that others resumed without end by themselves: sooner where fewer members need fewer rounds, and
        # without what only the others learned of an extension.
        last = state.run_spec.schedule.last
        apart = (last is not None and last.preset == allreduce.NAME) or bool(state.happened["extend"])
        chains = {n: nodes[n].state.plan.records[0].digest if apart else "" for n in stayed}
        for chain in set(chains.values()):
            of_chain = [n for n in stayed if chains[n] == chain]
            ends = {state.finished[n].round for n in of_chain} | {nodes[n].state.end for n in of_chain}
            require(len(ends) <= 1, f"the nodes ended in rounds {sorted(ends)}")
        state.invariants.check_end(frozenset(nodes))
        state.ledgers.check_end()
        if not state.happened["controller lost its disk"]:
            self._controller.requests.check_end(self.cluster)

    def _waits(self) -> str:
        """Which node waits for which others."""
        nodes = self._state.nodes
        waits = [f"{n} in round {node.state.round} waits for {node.state.missing()}" for n, node in nodes.items()]
        return "; ".join([*waits, *(f"{n} is not a member" for n in self._state.learners if n not in nodes)])
