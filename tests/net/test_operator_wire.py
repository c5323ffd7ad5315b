"""Graphs of operators through protobuf and back."""

from __future__ import annotations

import pytest

from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import GraphError
from edgenode.net.operator_wire import GRAPH
from edgenode.net.proto import operator_pb2


@pytest.mark.parametrize("spec", [GraphSpec("chord"), GraphSpec("mine", (("x", "y"), ("y", "x")))])
def test_named_graph_survives_the_wire(spec: GraphSpec) -> None:
    assert GRAPH.from_wire(GRAPH.to_wire(spec)) == spec


def test_unknown_graph_is_refused() -> None:
    with pytest.raises(GraphError, match="no graph named 'aa'"):
        GRAPH.from_wire(operator_pb2.Graph(name="aa"))
