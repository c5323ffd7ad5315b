"""What every part of one simulated run reads and writes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from edgenode.core.protocol.events import Finish
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.plan.run_spec import RunSpec
from tests.simulation.blocked_links import BlockedLinks
from tests.simulation.control_links import ControlLinks
from tests.simulation.event_queue import EventQueue, Processes
from tests.simulation.host_disks import HostDisks
from tests.simulation.host_ledgers import HostLedgers
from tests.simulation.invariants import Invariants
from tests.simulation.learners import TrackedLearner
from tests.simulation.liars import Liars
from tests.simulation.lossy_network import LossyNetwork
from tests.simulation.scenario import Scenario
from tests.simulation.transcript import Transcript


class SimState:
    """The hosts, the network between them, and what has happened so far.

    Attributes:
        learners: of all nodes that ever took part.
        nodes: the state machines of the members whose processes run.
        exited: the state machines of the members whose processes have exited after their end.
        finished: how each node ended.
        happened: how often each kind of fault has happened.
        liars: the members that lie.
        moments: how often a host could have crashed so far: before, between and after its actions.
    """

    def __init__(self, run_spec: RunSpec, learners: Mapping[str, TrackedLearner], scenario: Scenario) -> None:
        self.run_spec, self.scenario = run_spec, scenario
        self.learners: dict[str, TrackedLearner] = dict(learners)
        self.nodes: dict[str, Node] = {}
        self.exited: dict[str, Node] = {}
        self.finished: dict[str, Finish] = {}
        self.happened: Counter[str] = Counter()
        self.moments = 0
        self.transcript = Transcript()
        self.rng = random.Random(scenario.seed)
        self.queue = EventQueue()
        self.processes = Processes(self.queue)
        self.network = LossyNetwork(scenario, self.rng, self.happened)
        self.blocked = BlockedLinks(self.queue, run_spec, self.happened)
        self.links = ControlLinks(self.queue, self.processes, self.network)
        self.disks = HostDisks(run_spec.run_digest, self.rng, self.happened)
        self.ledgers = HostLedgers(scenario.seed, self.happened)
        self.liars = Liars(scenario.seed, scenario.liars)
        zero = 0 * next(iter(learners.values())).mass()
        self.invariants = Invariants(zero, scenario.window, self.happened, self.liars, run_spec.lag)

    @property
    def all_finished(self) -> bool:
        """Whether every node that runs has finished."""
        return self.nodes.keys() <= self.finished.keys()

    def key_of(self, name: str) -> str:
        """The id of the key of the last process of a name. A device that comes back has got another one."""
        return sha256(f"{name} {self.processes.last(name)}".encode()).hexdigest()

    def record(self, host: str, cause: Any, actions: Sequence[Any] = ()) -> None:
        """Add an event to the transcript."""
        self.transcript.add(self.queue.now, host, cause, actions)

    def crashes_now(self, host: str) -> bool:
        """Count one more moment between two actions of a host. Whether it is one at which the scenario crashes it."""
        self.moments += 1
        if self.moments not in self.scenario.crash_at:
            return False
        self.record(host, f"crashes at moment {self.moments}")
        return True
