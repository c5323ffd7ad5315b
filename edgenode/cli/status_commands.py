"""``edgenode status`` and ``edgenode nodes``: the current state of a cluster, as tables or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from edgenode.cli.connect import Where, cluster_options, with_operator
from edgenode.cli.fitted_table import stdout
from edgenode.cli.shared_options import json_option
from edgenode.cli.status_table import nodes_table, status_table
from edgenode.core.protocol.status import ClusterStatus
from edgenode.core.wording import counted
from edgenode.observability.status_view import cluster_json, node_json

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient


@click.command()
@cluster_options
@json_option
def status(where: Where, as_json: bool) -> None:
    """Show the round, loss, accuracy, bytes and state of every node, and which nodes hold up others.

    \b
    Examples:
      edgenode status
      edgenode status --json | jq '.nodes[].accuracy'
      edgenode status --json | jq '.nodes[] | select(.holds_up_s > 60) | .node'
    """
    if as_json:
        click.echo(json.dumps(cluster_json(with_operator(where, lambda client: client.status()))))
    else:
        stdout().print(status_table(*with_operator(where, _status_and_link)))


async def _status_and_link(client: OperatorClient) -> tuple[ClusterStatus, str]:
    """The status, and a link to the page. "" if there is no page, or for a node, which may not sign in."""
    found = await client.status()
    return found, await client.open_page() if found.page and client.may_open_page else ""


@click.command()
@cluster_options
@json_option
def nodes(where: Where, as_json: bool) -> None:
    """List the nodes of a running cluster with their address, state, round and the time of their last report.

    \b
    Examples:
      edgenode nodes
      edgenode nodes --json | jq -r '.[] | select(.connected | not) | .node'
    """
    found = with_operator(where, lambda client: client.status())
    if as_json:
        click.echo(json.dumps([node_json(node) for node in found.nodes]))
    elif found.nodes:
        stdout().print(nodes_table(found))
    else:
        stdout().print(f"no nodes yet: waiting for {counted(found.missing, 'more node')}")
