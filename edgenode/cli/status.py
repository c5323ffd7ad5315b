"""``edgenode status``: a running cluster at a glance, for people and for scripts."""

from __future__ import annotations

import json
from typing import Any

import click

from edgenode.cli.options import cluster_options, json_option, with_operator
from edgenode.v1 import control_pb2, operator_pb2


@click.command()
@cluster_options
@json_option
def status(controller: str, cluster: str, as_json: bool) -> None:
    """Show every node of a running cluster: round, loss, accuracy, bytes, whom it waits for, and who holds everyone up.

    \b
    Examples:
      edgenode status
      edgenode status --json | jq '.nodes[].accuracy'
      edgenode status --json | jq '.nodes[] | select(.holds_up_s > 60) | .node'
    """
    found = with_operator(controller, cluster, lambda operator: operator.status())
    if as_json:
        click.echo(json.dumps(as_dict(found)))
        return
    from rich.console import Console

    from edgenode.cli.table import status_table

    Console().print(status_table(found))


def as_dict(status: operator_pb2.ClusterStatus) -> dict[str, Any]:
    """A status for scripts."""
    return {
        "cluster": status.cluster,
        "controller": status.reign.address,
        "term": status.reign.term,
        "missing": status.missing,
        "paused": status.paused,
        "evicting": list(status.evicting),
        "record": json.loads(status.records[-1]) if status.records else None,
        "nodes": [_node(node) for node in status.nodes],
    }


def _node(node: operator_pb2.NodeStatus) -> dict[str, Any]:
    progress = node.progress
    return {
        "node": node.node,
        "address": node.address,
        "connected": node.connected,
        "last_seen_s": round(node.last_seen_s, 3),
        "state": control_pb2.State.Name(progress.state).removeprefix("STATE_").lower(),
        "round": progress.round,
        "rounds": progress.rounds,
        "loss": progress.loss if progress.HasField("loss") else None,
        "accuracy": progress.accuracy if progress.HasField("accuracy") else None,
        "u": progress.u,
        "messages": progress.messages,
        "payload_bytes": progress.payload_bytes,
        "wire_bytes": progress.wire_bytes,
        "dense_bytes": progress.dense_bytes,
        "waiting_for": list(progress.waiting_for),
        "waiting_s": round(progress.waiting_s, 3),
        "holds_up": list(node.holds_up),
        "holds_up_s": round(node.holds_up_s, 3),
        "error": progress.error,
    }
