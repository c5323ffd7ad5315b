"""Prometheus metrics of a cluster or of one node, with conventional names and units. Uses no global registry."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeView, Relayed, RelayView
from edgenode.net.http import host_of
from edgenode.net.interfaces import is_loopback
from edgenode.observability.status_view import faults_of
from edgenode.security.subject import CONTROLLER

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TOKEN = "metrics-token"
"""The file of the token, in the state folder."""
_NO_TOKEN = f"From another machine, send Authorization: Bearer TOKEN, with the file {TOKEN} of the state folder.\n"

# name -> (help text, the value of a node, or None where the node does not know it)
_Metrics = Mapping[str, tuple[str, Callable[[NodeView], float | None]]]

_GAUGES: _Metrics = {
    "edgenode_round": ("Rounds that this node has completed.", lambda n: n.status.round),
    "edgenode_rounds": ("Rounds of the whole run.", lambda n: n.status.rounds),
    "edgenode_round_seconds": ("Recent duration of a round, waits included.", lambda n: round(n.status.round_s, 4)),
    "edgenode_loss": ("Training loss of the last local step.", lambda n: n.status.loss),
    "edgenode_accuracy_ratio": ("Test accuracy at the last evaluation, 0 to 1.", lambda n: n.status.accuracy),
    "edgenode_push_sum_weight": ("Push-sum weight u.", lambda n: n.status.u),
    "edgenode_waiting_seconds": (
        "How long this node has waited for others in its current round.",
        lambda n: round(n.status.waiting_s, 3),
    ),
    "edgenode_save_error_seconds": (
        "How long this node has not been able to save its checkpoints or its model. 0 if it can.",
        lambda n: round(n.status.save_error_s, 3),
    ),
    "edgenode_peak_memory_bytes": ("Peak memory of the process.", lambda n: n.status.peak_memory_bytes),
    "edgenode_joules_per_round": (
        "Energy per round, if the board has a power sensor.",
        lambda n: n.status.joules_per_round,
    ),
}
_COUNTERS: _Metrics = {
    "edgenode_messages": ("Pushes sent.", lambda n: n.status.messages),
    "edgenode_received_bytes": ("Payload bytes of the pushes received.", lambda n: n.status.received_bytes),
    "edgenode_poison_alarms": (
        "Poison alarms: received messages beyond what is expected, and collapses of the own evaluation.",
        lambda n: n.status.alarms,
    ),
    "edgenode_wire_bytes": ("Bytes of the gRPC messages sent to peers.", lambda n: n.status.wire_bytes),
    "edgenode_dense_bytes": (
        "Size of the same pushes as uncompressed float32, in bytes.",
        lambda n: n.status.dense_bytes,
    ),
}
# only a controller knows these of a node
_CONTROLLER_GAUGES: _Metrics = {
    "edgenode_up": ("Whether the node is connected to the controller.", lambda n: n.connected),
    "edgenode_last_seen_seconds": ("Time since the node's last report.", lambda n: round(n.last_seen_s, 3)),
    "edgenode_straggling_seconds": ("How long this node has held other nodes up.", lambda n: round(n.holds_up_s, 3)),
}


class _Snapshot(Collector):
    """The metrics of one moment."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def cluster_metrics(status: ClusterStatus) -> bytes:
    """The metrics of a run in the text format. Metrics of a node have the label ``node``."""
    of_controller = _filled(GaugeMetricFamily, _CONTROLLER_GAUGES, status.nodes)
    return _text([*_cluster(status), *_of_nodes(status.nodes), *of_controller])


def node_metrics(node: NodeView) -> bytes:
    """The metrics that a node knows of itself, under the same names."""
    return _text(_of_nodes([node]))


def metrics_app(node: Callable[[], NodeView], token: str) -> Starlette:
    """An ASGI app that serves one node's /metrics, as `metrics_route`."""
    return Starlette(routes=[metrics_route(lambda: node_metrics(node()), token)])


def metrics_route(text: Callable[[], bytes], token: str) -> Route:
    """/metrics, for clients on this machine, and for those that know the token."""

    async def metrics(request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if not (_is_local(request) or hmac.compare_digest(given.encode(), f"Bearer {token}".encode())):
            return PlainTextResponse(_NO_TOKEN, 401, {"www-authenticate": "Bearer"})
        return Response(text(), media_type=CONTENT_TYPE)

    return Route("/metrics", metrics)


def _is_local(request: Request) -> bool:
    """Return whether a client on this machine names this machine. A browser that a foreign page misuses does not."""
    client = request.client.host if request.client else ""
    return is_loopback(client) and is_loopback(host_of(request.headers.get("host", "")))


def _text(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(families))
    return generate_latest(registry)


def _cluster(status: ClusterStatus) -> list[Metric]:
    members = len(status.plan.latest.members) if status.plan else 0
    families = [
        _single("edgenode_members", "Members of the run.", members),
        _single("edgenode_missing_nodes", "Nodes that the run still needs in order to start.", status.missing),
        _single("edgenode_paused", "Whether an operator has paused the run.", status.paused),
        _single("edgenode_controller_term", "Starts of the controller in this run.", status.leadership.term),
    ]
    if status.relayed:
        families += _relayed(status.relayed)
    if status.relay_processes:
        families.append(_relays(status.relay_processes))
    if status.consensus_distance is not None:
        text = "Mean distance of the models from their mean, estimated from sketches."
        families.append(_single("edgenode_consensus_distance", text, status.consensus_distance))
    return families


def _of_nodes(nodes: Sequence[NodeView]) -> list[Metric]:
    gauges, counters = _filled(GaugeMetricFamily, _GAUGES, nodes), _filled(CounterMetricFamily, _COUNTERS, nodes)
    return [*gauges, _states(nodes), _tested(nodes), *counters, _sent(nodes), _faults(nodes)]


def _relayed(relayed: Sequence[Relayed]) -> list[Metric]:
    carried = CounterMetricFamily(
        "edgenode_relayed_bytes", "Bytes of a node that a relay has carried.", None, ["node", "relay"]
    )
    now = GaugeMetricFamily(
        "edgenode_relayed_connections", "Connections that a relay has open for a node.", None, ["node", "relay"]
    )
    for one in relayed:
        relay = one.relay or CONTROLLER.name
        carried.add_metric([one.node, relay], one.bytes)
        now.add_metric([one.node, relay], one.connections)
    return [carried, now]


def _relays(relays: Sequence[RelayView]) -> Metric:
    text = "Whether the relay is connected to the controller."
    family = GaugeMetricFamily("edgenode_relay_up", text, labels=["relay"])
    for relay in relays:
        family.add_metric([relay.name], float(relay.connected))
    return family


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _filled(
    kind: type[GaugeMetricFamily | CounterMetricFamily], metrics: _Metrics, nodes: Sequence[NodeView]
) -> Iterator[Metric]:
    for name, (text, value) in metrics.items():
        family = kind(name, text, labels=["node"])
        for node in nodes:
            if (known := value(node)) is not None:
                family.add_metric([node.node], float(known))
        yield family


def _states(nodes: Sequence[NodeView]) -> Metric:
    family = GaugeMetricFamily("edgenode_state", "1 for the state that the node is in.", labels=["node", "state"])
    for node in nodes:
        for state in NodeState:
            if state is not NodeState.UNSPECIFIED:
                family.add_metric([node.node, state.value], float(node.status.state is state))
    return family


def _tested(nodes: Sequence[NodeView]) -> Metric:
    text = "Named metric of the last evaluation, in its own unit."
    family = GaugeMetricFamily("edgenode_test_metric", text, labels=["node", "metric"])
    for node in nodes:
        for metric in node.status.metrics:
            family.add_metric([node.node, metric.name], metric.value)
    return family


def _sent(nodes: Sequence[NodeView]) -> Metric:
    text = "Payload bytes of the pushes sent, by phase: training or final gossip."
    family = CounterMetricFamily("edgenode_sent_bytes", text, labels=["node", "phase"])
    for node in nodes:
        gossip = node.status.gossip_bytes
        family.add_metric([node.node, "train"], node.status.payload_bytes - gossip)
        family.add_metric([node.node, "gossip"], gossip)
    return family


def _faults(nodes: Sequence[NodeView]) -> Metric:
    text = "Pushes, answers and reports of a peer that this node, or the controller, refused as against the protocol."
    family = CounterMetricFamily("edgenode_peer_faults", text, labels=["node", "peer", "kind"])
    for by, fault in faults_of(nodes):
        family.add_metric([by, fault.peer, fault.kind], fault.count)
    return family
