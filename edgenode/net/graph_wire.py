"""Named graphs of operators <-> protobuf messages, in both directions."""

from __future__ import annotations

from edgenode.core.topology.graph import GraphSpec
from edgenode.net.proto import operator_pb2


def graph_to_wire(spec: GraphSpec) -> operator_pb2.Graph:
    """A named graph."""
    return operator_pb2.Graph(
        name=spec.name, edges=[operator_pb2.Edge(sender=s, receiver=r) for s, r in spec.edges or ()]
    )


def graph_from_wire(wire: operator_pb2.Graph) -> GraphSpec:
    """A named graph from an operator.

    Raises:
        GraphError: the name is not a preset, or an edge is a duplicate.
    """
    return GraphSpec(wire.name, tuple((e.sender, e.receiver) for e in wire.edges) or None)
