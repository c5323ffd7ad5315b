"""Prometheus: a cluster's or a node's numbers under conventional names and units. A registry of its own, no globals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Node = Mapping[str, Any]  # a row of `edgenode nodes --json`
View = Mapping[str, Any]  # `edgenode status --json`

# name -> (help, key of a node's row); what a node does not know is left out
_GAUGES: Mapping[str, tuple[str, str]] = {
    "edgenode_round": ("Rounds that this node has closed.", "round"),
    "edgenode_rounds": ("Rounds of the whole run, as this node knows it.", "rounds"),
    "edgenode_round_seconds": ("Duration of a round lately, waits included.", "round_s"),
    "edgenode_loss": ("Training loss of the last local step.", "loss"),
    "edgenode_accuracy_ratio": ("Test accuracy at the last evaluation, 0 to 1.", "accuracy"),
    "edgenode_push_sum_weight": ("Push-sum weight u.", "u"),
    "edgenode_waiting_seconds": ("For how long this node has waited in its round.", "waiting_s"),
    "edgenode_peak_memory_bytes": ("The most memory that the process ever held.", "peak_memory_bytes"),
    "edgenode_joules_per_round": ("Energy of a round, where the board has a sensor.", "joules_per_round"),
}
_COUNTERS: Mapping[str, tuple[str, str]] = {
    "edgenode_messages": ("Pushes sent.", "messages"),
    "edgenode_received_bytes": ("Payload of the pushes that came in.", "received_bytes"),
    "edgenode_wire_bytes": ("Bytes of the gRPC messages sent to peers.", "wire_bytes"),
    "edgenode_dense_bytes": ("What the same pushes would weigh as float32.", "dense_bytes"),
}
# what only a controller knows of a node
_SEEN: Mapping[str, tuple[str, str]] = {
    "edgenode_up": ("Whether the node has a link to the controller.", "connected"),
    "edgenode_last_seen_seconds": ("Since the node's last report.", "last_seen_s"),
    "edgenode_straggling_seconds": ("For how long this node has held the others up.", "holds_up_s"),
}
_STATES = ("running", "paused", "done", "stopped", "failed")


class _Snapshot(Collector):
    """The numbers of one moment."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def cluster_metrics(view: View) -> bytes:
    """What a controller knows, in the text format; label ``node`` where it is of a node."""
    nodes = view["nodes"]
    return _text([*_cluster(view), *_of_nodes(nodes), *_gauges(_SEEN, nodes)])


def node_metrics(node: Node) -> bytes:
    """What a node knows of itself, under the same names."""
    return _text(_of_nodes([node]))


def metrics_app(row: Callable[[], Node]) -> Starlette:
    """/metrics of one node, and nothing else."""

    async def metrics(request: Request) -> Response:
        return Response(node_metrics(row()), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/metrics", metrics)])


def _text(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(families))
    return generate_latest(registry)


def _cluster(view: View) -> list[Metric]:
    distance = view["consensus_distance"]
    families = [
        _single("edgenode_members", "Members of the plan.", len(view["record"]["members"]) if view["record"] else 0),
        _single("edgenode_missing_nodes", "Nodes that the founding still waits for.", view["missing"]),
        _single("edgenode_paused", "Whether an operator has paused the run.", view["paused"]),
        _single("edgenode_controller_term", "Starts of the controller in this run.", view["term"]),
    ]
    if distance is not None:
        help_ = "Mean distance of the models from their mean, estimated from sketches."
        families.append(_single("edgenode_consensus_distance", help_, distance))
    return families


def _of_nodes(nodes: Sequence[Node]) -> list[Metric]:
    return [*_gauges(_GAUGES, nodes), *_states(nodes), *_counters(nodes), _sent(nodes)]


def _single(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _gauges(what: Mapping[str, tuple[str, str]], nodes: Sequence[Node]) -> list[Metric]:
    return [_filled(GaugeMetricFamily(name, text, labels=["node"]), nodes, key) for name, (text, key) in what.items()]


def _counters(nodes: Sequence[Node]) -> list[Metric]:
    return [
        _filled(CounterMetricFamily(name, text, labels=["node"]), nodes, key) for name, (text, key) in _COUNTERS.items()
    ]


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, nodes: Sequence[Node], key: str
) -> GaugeMetricFamily | CounterMetricFamily:
    for node in nodes:
        if node[key] is not None:
            family.add_metric([node["node"]], float(node[key]))
    return family


def _states(nodes: Sequence[Node]) -> list[Metric]:
    family = GaugeMetricFamily("edgenode_state", "1 for the state that the node is in.", labels=["node", "state"])
    for node in nodes:
        for state in _STATES:
            family.add_metric([node["node"], state], float(node["state"] == state))
    return [family]


def _sent(nodes: Sequence[Node]) -> Metric:
    text = "Payload of the pushes sent, while training and in the final gossip."
    family = CounterMetricFamily("edgenode_sent_bytes", text, labels=["node", "phase"])
    for node in nodes:
        family.add_metric([node["node"], "train"], node["payload_bytes"] - node["gossip_bytes"])
        family.add_metric([node["node"], "gossip"], node["gossip_bytes"])
    return family
