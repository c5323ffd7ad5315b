"""``edgenode health``: whether a daemon serves, for supervisors, which call it every few seconds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from edgenode.addresses import split_address
from edgenode.cli.own_credentials import local_security
from edgenode.cli.shared_options import as_name, insecure_option, node_option


@click.command()
@click.argument("address", metavar="[H:P]", default="127.0.0.1:7600")
@click.option("--timeout", "timeout_s", default=3.0, show_default=True, metavar="SECONDS",
              help="How long to wait for the answer.")  # fmt: skip
@node_option("state_dir", help="The daemon's, with its certificate. [default: the user's state folder]")
@click.option("--cluster", callback=as_name, envvar="EDGENODE_CLUSTER",
              help="The daemon's, if this machine has credentials for several. [default: the only one]")  # fmt: skip
@insecure_option
def health(address: str, timeout_s: float, state_dir: Path | None, cluster: str | None, insecure: bool) -> None:
    """Check with gRPC's health service whether the daemon at H:P serves. Exit code 1 if it does not.

    The default is a node on this machine. A node serves as soon as it listens, before the run begins.

    \b
    Examples:
      edgenode health                    a node on this machine
      edgenode health 127.0.0.1:7700     the controller
      edgenode health 127.0.0.1:7702     a relay
      edgenode health 10.0.0.7:7600
    """
    from edgenode.net.rpc import serves

    split_address(address)  # what was typed is judged first
    asyncio.run(serves(address, timeout_s, local_security(state_dir, insecure, cluster)))
    click.echo("serving")
