"""The reports of nodes and the controller for people and monitoring, as frozen plain values.

No step of the protocol depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from edgenode.core.protocol.orders import BlockedLink, Leadership
from edgenode.core.protocol.plan.plan import Plan
from edgenode.evaluation import Metric

COUNTERS = ("messages", "payload_bytes", "gossip_bytes", "received_bytes", "wire_bytes", "dense_bytes")
"""The fields of a `NodeStatus` that only grow while its process lives."""

FAULT_KINDS = ("push", "answer", "report")
"""The kinds of messages that can be refused."""


class NodeState(StrEnum):
    """The state of a node. UNSPECIFIED until its first report."""

    UNSPECIFIED = "unspecified"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """True if the node takes no further part in the run."""
        return self.ended_well or self is NodeState.FAILED

    @property
    def ended_well(self) -> bool:
        """True if the node did all its rounds, or stopped because an operator stopped the run."""
        return self in (NodeState.DONE, NodeState.STOPPED)


@dataclass(frozen=True, slots=True)
class Fault:
    """The number of protocol violations of a peer.

    Attributes:
        kind: "push", "answer" or "report".
    """

    peer: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Way:
    """The way of a node's pushes to a receiver that it does not dial directly.

    Attributes:
        by: the process that connects both. The node itself if the receiver has opened the connection.
    """

    receiver: str
    by: str


@dataclass(frozen=True, slots=True)
class OpenLink:
    """A node's connection to a receiver.

    Attributes:
        round_trip_s: what a call takes there and back over it, as a moving average.
        bytes_per_s: sent lately.
    """

    receiver: str
    round_trip_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The report of a node about itself.

    Attributes:
        round: rounds that this node has completed.
        rounds: rounds of the whole run.
        loss: training loss of the last local step.
        accuracy: test accuracy at the last evaluation, 0 to 1.
        metrics: the named metrics of that evaluation. The first one is the accuracy or the test loss.
        u: push-sum weight; the mean over the blocks if the model has several.
        messages: pushes sent.
        payload_bytes: payload of the pushes sent.
        gossip_bytes: the part of payload_bytes that the final gossip of SCSP sent.
        received_bytes: payload of the pushes received, repeats included.
        wire_bytes: gRPC messages sent to peers.
        dense_bytes: the size of the same pushes as uncompressed float32.
        round_s: recent duration of a round, waits included; 0 before the first.
        waiting_for: in-neighbours whose push the current round lacks.
        waiting_s: seconds since the node began to wait for them.
        peak_memory_bytes: the most memory the process ever held; 0 if the system does not report it.
        joules_per_round: energy of the whole board or processor per round; None without a sensor.
        power_sensor: the sensor that measures the energy, or why none does.
        sketch: random projection of z after sketch_round rounds, the same projection at every node.
        error: the reason why the node failed.
        faults: the messages of its peers that it refused.
        alarms: poison alarms of this node: messages that it received, and collapses of its own evaluation.
        save_error: the reason why the last checkpoint or published model could not be written, or "".
        save_error_s: seconds since saving began to fail.
        ways: the receivers that the node does not dial directly, and that are no blocked links.
        open_links: the connections to receivers, by any way. At most 64.
    """

    state: NodeState = NodeState.UNSPECIFIED
    round: int = 0
    rounds: int = 0
    loss: float | None = None
    accuracy: float | None = None
    metrics: tuple[Metric, ...] = ()
    u: float = 0.0
    messages: int = 0
    payload_bytes: int = 0
    gossip_bytes: int = 0
    received_bytes: int = 0
    wire_bytes: int = 0
    dense_bytes: int = 0
    round_s: float = 0.0
    waiting_for: tuple[str, ...] = ()
    waiting_s: float = 0.0
    peak_memory_bytes: int = 0
    joules_per_round: float | None = None
    power_sensor: str = ""
    sketch_round: int = 0
    sketch: tuple[float, ...] = ()
    error: str = ""
    faults: tuple[Fault, ...] = ()
    alarms: int = 0
    save_error: str = ""
    save_error_s: float = 0.0
    ways: tuple[Way, ...] = ()
    open_links: tuple[OpenLink, ...] = ()

    @property
    def reported(self) -> bool:
        """True if the node has reported."""
        return self.round > 0 or self.state is not NodeState.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the controller reports it.

    Attributes:
        address: host:port where its peers dial it.
        connected: it is connected to the controller.
        last_seen_s: seconds since its last report.
        status: its last report.
        holds_up: nodes that wait for this node while it waits for none.
        holds_up_s: seconds since it began to hold others up.
    """

    node: str
    address: str = ""
    connected: bool = False
    last_seen_s: float = 0.0
    status: NodeStatus = field(default_factory=NodeStatus)
    holds_up: tuple[str, ...] = ()
    holds_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change that is requested and not part of the plan yet.

    Attributes:
        change: the change in a few words.
        waits_for: the event that has to happen first, as in "after ...".
        earliest: no earlier round is possible.
    """

    change: str
    waits_for: str
    earliest: int


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link that its sender cannot use.

    Attributes:
        left_out: the newest record does without it.
    """

    sender: str
    blocked: BlockedLink
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a member has sent by way of a relay.

    Attributes:
        connections: those that it has opened, and that are open.
        bytes: since the relay started.
        relay: the name of the process that relays. Empty if the reader knows it.
    """

    node: str
    connections: int
    bytes: int
    relay: str = ""


@dataclass(frozen=True, slots=True)
class RelayView:
    """A process that only relays, as the controller reports it.

    Attributes:
        address: host:port where members dial it.
        connected: it is connected to the controller.
        last_seen_s: seconds since its last report.
    """

    name: str
    address: str
    connected: bool
    last_seen_s: float


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A run as the controller reports it.

    Attributes:
        missing: nodes that the run still needs in order to start.
        plan: the plan from the slowest node's round on; None before the run starts.
        leadership: the controller that reports this.
        unix_time_s: the controller's clock, in seconds since 1970.
        paused: an operator has paused the run.
        evicting: members that are being evicted.
        awaited: members whose answer to the fence is missing.
        consensus_distance: mean distance of the members' models from their mean, estimated from their sketches.
        consensus_round: the round of those sketches.
        page: URL of the controller's page, on loopback if only its own machine can open it; empty without one.
        reached: the newest round that the run is known to have reached.
        departed_payload_bytes: payload of the pushes of nodes that are no longer listed in ``nodes``.
        departed_dense_bytes: the size of those pushes as uncompressed float32.
        time_left_s: estimate of the time to the end of the run; None while it is unknown or paused.
        requested: the names of the graphs that an operator requested last, or of the first ones.
        difference: the substitute of the plan for the requested graphs, and why. Empty if there is none.
        pending: the changes that are not part of the plan yet.
        links: those that their senders cannot use.
        relayed: what the controller and the relays have relayed.
        relays: nodes that nobody can dial may wait at the controller, or at a relay that is connected to it.
        relay_processes: the relays besides the controller.
    """

    cluster: str
    missing: int = 0
    plan: Plan | None = None
    nodes: tuple[NodeView, ...] = ()
    rounds_per_epoch: int = 0
    leadership: Leadership = field(default_factory=lambda: Leadership(0))
    unix_time_s: float = 0.0
    paused: bool = False
    evicting: tuple[str, ...] = ()
    awaited: tuple[str, ...] = ()
    consensus_distance: float | None = None
    consensus_round: int = 0
    page: str = ""
    reached: int = 0
    departed_payload_bytes: int = 0
    departed_dense_bytes: int = 0
    time_left_s: float | None = None
    requested: str = ""
    difference: str = ""
    pending: tuple[PendingChange, ...] = ()
    links: tuple[LinkView, ...] = ()
    relayed: tuple[Relayed, ...] = ()
    relays: bool = False
    relay_processes: tuple[RelayView, ...] = ()

    @property
    def round(self) -> int:
        """The round of the slowest node, among the nodes that have reported one. It does not fall."""
        return max(self.reached, min((node.status.round for node in self.nodes if node.status.reported), default=0))

    @property
    def payload_bytes(self) -> int:
        """Payload of all pushes of the run, those of departed nodes included."""
        return self.departed_payload_bytes + sum(node.status.payload_bytes for node in self.nodes)

    @property
    def dense_bytes(self) -> int:
        """The size of all pushes of the run as uncompressed float32."""
        return self.departed_dense_bytes + sum(node.status.dense_bytes for node in self.nodes)
