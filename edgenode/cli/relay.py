"""``edgenode relay``: a process that only relays."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgenode.addresses import split_address
from edgenode.cli.shared_options import log_format_option, log_start, take_sigterm_as_ctrl_c, verbose_option
from edgenode.observability.logs import set_up_logging
from edgenode.storage.filesystem import default_state_dir

RELAY_PORT = 7702


@click.command()
@click.option("--join", metavar="INVITE|FILE|-", envvar="EDGENODE_JOIN",
              help="Enrol this relay first: an invite (edgenode invite NAME --role relay), a file that contains it, or "
                   "- for standard input.")  # fmt: skip
@click.option("--listen", default=f"0.0.0.0:{RELAY_PORT}", show_default=True, metavar="H:P",
              envvar="EDGENODE_RELAY_LISTEN", help="Address for nodes.")  # fmt: skip
@click.option("--public", default="", metavar="HOST[:PORT]", envvar="EDGENODE_PUBLIC",
              help="Host name or address where nodes reach this relay. PORT leads to --listen. [default: its address "
                   "towards the controller]")  # fmt: skip
@click.option("--controller", default="", metavar="H:P", envvar="EDGENODE_CONTROLLER",
              help="Address of the controller. [default: that in the invite]")  # fmt: skip
@click.option("--relay-gb", type=click.FloatRange(0, min_open=True), metavar="GB", envvar="EDGENODE_RELAY_GB",
              help="The most gigabytes that it carries for one node. [default: no limit]")  # fmt: skip
@click.option("--state-dir", type=click.Path(path_type=Path), envvar="EDGENODE_STATE_DIR",
              help="Folder of its key and certificate. [default: relay in the user's state folder]")  # fmt: skip
@log_format_option
@verbose_option
def relay(
    join: str | None,
    listen: str,
    public: str,
    controller: str,
    relay_gb: float | None,
    state_dir: Path | None,
    log_format: str,
    verbose: bool,
) -> None:
    """Relay between nodes that cannot dial each other, without a part in the run: it trains nothing.

    Start it on a machine that all nodes can dial. It needs no run.toml. Several relays serve one cluster: if one is
    lost, nodes use another. The bytes that it passes on are encrypted between the nodes.

    \b
    Examples:
      edgenode relay --join inv-...                   the first start; edgenode invite NAME --role relay prints the line
      edgenode relay                                  every later start
      edgenode relay --join inv-... --public relay.example.org      behind a router that forwards the port
    """
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # structlog would load 4 MB to colour tracebacks
    set_up_logging(verbose, log_format)
    for address in filter(None, (listen, controller)):
        split_address(address)
    log_start(relay=listen)
    from edgenode.node.relay_process import RelayOptions, run_relay

    take_sigterm_as_ctrl_c()
    state_dir = state_dir or default_state_dir("", "relay")
    run_relay(RelayOptions(listen, state_dir, public, controller, relay_gb, join))
