"""``edgenode page``: signs in to the controller's page."""

from __future__ import annotations

import os
import sys
import webbrowser
from typing import TYPE_CHECKING

import click

from edgenode.cli.connect import Where, cluster_options, with_operator
from edgenode.cli.status_table import page_lines
from edgenode.core.protocol.status import ClusterStatus

if TYPE_CHECKING:
    from edgenode.net.operator_client import OperatorClient


@click.command()
@click.option("--no-open", is_flag=True,
              help="Only print the link, also on a desktop.")  # fmt: skip
@cluster_options
def page(no_open: bool, where: Where) -> None:
    """Print a link to the controller's page, and open it if this machine has a desktop.

    The link signs you in with the rights of your certificate: a viewer watches, an operator also steers the run. It
    works once, and for 5 minutes. The browser stays signed in for 12 hours, or until your key is revoked.

    \b
    Examples:
      edgenode page
      edgenode page --controller 10.0.0.5:7700 --no-open
    """

    async def call(client: OperatorClient) -> tuple[str, ClusterStatus]:
        return await client.open_page(), await client.status()

    link, status = with_operator(where, call)
    line, *how = page_lines(status, link)
    click.echo(link)
    if how:
        click.echo("\n".join([f"edgenode: {line}", *how]), err=True)
    elif not no_open and _has_desktop():
        webbrowser.open(link)


def _has_desktop() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(k) for k in ("DISPLAY", "WAYLAND_DISPLAY"))
