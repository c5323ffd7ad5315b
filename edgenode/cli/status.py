"""``edgenode status`` and ``edgenode nodes``: a running cluster at a glance, for people and for scripts."""

from __future__ import annotations

import json

import click

from edgenode.cli.options import cluster_options, json_option, with_operator


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
        from edgenode.observability.status_view import cluster_json

        click.echo(json.dumps(cluster_json(found)))
        return
    from rich.console import Console

    from edgenode.cli.status_table import status_table

    Console().print(status_table(found))


@click.command()
@cluster_options
@json_option
def nodes(controller: str, cluster: str, as_json: bool) -> None:
    """List the nodes of a running cluster: one a line, with address, state, round and when it was last seen.

    \b
    Examples:
      edgenode nodes
      edgenode nodes --json | jq -r '.[] | select(.connected | not) | .node'
    """
    found = with_operator(controller, cluster, lambda operator: operator.status())
    from edgenode.observability.status_view import cluster_json

    rows = cluster_json(found)["nodes"]
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.console import Console

    from edgenode.cli.status_table import nodes_table

    Console().print(nodes_table(found) if rows else f"no nodes yet: waiting for {found.missing}")
