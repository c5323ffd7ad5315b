"""What people read of a status."""

from __future__ import annotations

import pytest

from edgenode.core.protocol.status import Fault, NodeStatus, NodeView
from edgenode.observability.status_view import faults_lines, less_than_uncompressed


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (0.5, "2.0 times as much as uncompressed"),
        (1.0, "as much as uncompressed"),
        (1.04, "as much as uncompressed"),
        (1.33, "1.3 times less than uncompressed"),
        (67.4, "67 times less than uncompressed"),
    ],
)
def test_compression_is_a_sentence_that_is_true(factor: float, text: str) -> None:
    assert less_than_uncompressed(factor) == text


def test_faults_are_a_line_for_each_peer_with_most_first() -> None:
    seen = {
        "n0": [Fault("n3", "push", 9), Fault("n1", "answer", 1)],
        "n1": [Fault("n3", "push", 4)],
        "n3": [Fault("n3", "report", 2)],
    }
    nodes = [NodeView(name, status=NodeStatus(faults=tuple(faults))) for name, faults in seen.items()]
    assert faults_lines(nodes) == ["refused from n3: 13 × push, 2 × report", "refused from n1: 1 × answer"]
    many = NodeView("n0", status=NodeStatus(faults=tuple(Fault(f"m{i}", "push", 1) for i in range(10))))
    assert faults_lines([many])[-1] == "and from 2 more"
