"""All nodes of a run train one workload: the same parameters, with the code of one task.

The controller has only run.toml, so it compares the nodes with each other. A node that is in the run outranks one that
resumes, which outranks a new one. Among equals the first one counts. So after a restart of the controller, or of all
nodes, a newcomer with another model cannot turn away the members.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgenode.core.canonical import differences
from edgenode.core.protocol.orders import Join


def refusals(present: Mapping[str, Join], node: str, join: Join) -> dict[str, str]:
    """Return the nodes to refuse when a node joins, with reasons: the new one, or the ones that it outranks."""
    refused = {}
    for other, there in present.items():
        digests = {join.workload_digest, there.workload_digest}
        if len(digests) == 1 or "" in digests:
            continue
        if _rank(join) <= _rank(there):
            return {node: _reason(node, join, other, there)}
        refused[other] = _reason(other, there, node, join)
    return refused


def _rank(join: Join) -> int:
    return 2 if join.running else int(join.plan is not None)


def _reason(node: str, join: Join, other: str, there: Join) -> str:
    what = differences(join.workload, there.workload, there.workload_digest) or "its workload has another digest"
    return f"{node} trains something else than {other}: {what}"
