"""Graphs of operators through protobuf and back."""

from __future__ import annotations

import pytest

from edgenode.core.topology.graph import GraphSpec
from edgenode.errors import GraphError
from edgenode.net.graph_wire import graph_from_wire, graph_to_wire
from edgenode.net.proto import operator_pb2


@pytest.mark.parametrize("spec", [GraphSpec("chord"), GraphSpec("mine", (("x", "y"), ("y", "x")))])
def test_named_graph_survives_the_wire(spec: GraphSpec) -> None:
    assert graph_from_wire(graph_to_wire(spec)) == spec


def test_unknown_graph_is_refused() -> None:
    with pytest.raises(GraphError, match="no graph named 'aa'"):
        graph_from_wire(operator_pb2.Graph(name="aa"))
