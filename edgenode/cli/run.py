"""``edgenode run`` and ``edgenode controller``: the processes of a cluster."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from edgenode.addresses import split_address
from edgenode.cli.own_credentials import invite_command, run_command
from edgenode.cli.shared_options import (
    CONTROLLER_PORT,
    HTTP_PORT,
    config_option,
    every_node_option,
    insecure_option,
    load_config,
    log_format_option,
    log_start,
    node_name,
    node_option,
    reflection_option,
    set_option,
    take_sigterm_as_ctrl_c,
    track_option,
    verbose_option,
    warn,
)
from edgenode.node.node_options import node_options
from edgenode.observability.logs import set_up_logging
from edgenode.security.local import AUTHORITY
from edgenode.storage.filesystem import default_state_dir


@click.command()
@config_option
@every_node_option
@set_option
@log_format_option
@verbose_option
def run(
    config_path: Path | None, settings: tuple[str, ...], log_format: str, verbose: bool, name: str | None, **given: Any
) -> None:
    """Run one node: find the others, train together, write model.safetensors and result.json.

    After a stop or a power cut, the same command resumes from the newest round that all nodes have saved.

    \b
    Examples:
      edgenode run --join inv-...                     the first start on a device; edgenode invite prints the line
      edgenode run                                    every later start, in the folder of run.toml
      edgenode run --join inv-... --controller 10.0.0.5:7700      in a network without multicast
      edgenode run --peers 10.0.0.2:7600,10.0.0.3:7600            without a controller, after edgenode cert issue
      edgenode run --metrics 0.0.0.0:9100             serve metrics to Prometheus
      edgenode run --set run.publish_every=20 --publish /srv/model.safetensors    use the model while it trains
      edgenode run --fresh                            discard earlier checkpoints
      edgenode run --resume-from 800                  go back to an earlier round, on every node
    """
    config = load_config(config_path, settings)
    if given["fresh"] and given["resume_from"] is not None:
        raise click.UsageError("--fresh discards the checkpoint that --resume-from names: give one of them")
    options = node_options(config, node_name(name), **given)
    set_up_logging(verbose, log_format)
    log_start(node=options.name, cluster=config.run.cluster, nodes=config.run.nodes)
    from edgenode.node.credentials import node_security
    from edgenode.node.resources import keep_freed_memory

    options = replace(options, security=node_security(options))
    take_sigterm_as_ctrl_c()
    keep_freed_memory()
    with _objects_that_stay():
        import torch  # noqa: F401

        from edgenode.node.node_process import run_node
        from edgenode.node.task_workload import TaskWorkload
    try:
        run_node(options, TaskWorkload(config, options.name, state_dir=options.state_dir, warn=warn))
    except KeyboardInterrupt:
        click.echo(f"edgenode: results so far are in {options.state_dir}", err=True)
        raise


@contextmanager
def _objects_that_stay() -> Iterator[None]:
    """Spare the garbage collector the objects of this block, which is full of imports, now and later.

    It would take a tenth of the time, and find nothing.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@click.command()
@config_option
@click.option("--listen", default=f"0.0.0.0:{CONTROLLER_PORT}", show_default=True, metavar="H:P",
              envvar="EDGENODE_CONTROLLER_LISTEN", help="Address for nodes and operators.")  # fmt: skip
@node_option("state_dir", help="Folder of the controller's state and history. [default: the user's state folder]")
@click.option("--recover", is_flag=True, envvar="EDGENODE_RECOVER",
              help="Take over a run whose controller is lost for good.")  # fmt: skip
@click.option("--http", default=f"127.0.0.1:{HTTP_PORT}", show_default=True, metavar="H:P|none", envvar="EDGENODE_HTTP",
              help="Address of the page and /metrics. Port 0 is any free port.")  # fmt: skip
@click.option("--page-url", default="", metavar="URL", envvar="EDGENODE_PAGE_URL",
              help="How browsers reach the page through a proxy or a container. [default: as --http]")  # fmt: skip
@track_option
@click.option("--straggler", type=click.Choice(["wait", "drop"]), envvar="EDGENODE_STRAGGLER",
              help="Wait for a slow node, or evict it. [default: run.straggler of run.toml]")  # fmt: skip
@click.option("--enrol", default="", metavar="H:P", envvar="EDGENODE_ENROL",
              help="Address where devices enrol. [default: the port after that of --listen]")  # fmt: skip
@click.option("--invites", type=click.IntRange(0, 1024), metavar="N", envvar="EDGENODE_INVITES",
              help="Print invites for N devices. [default: run.nodes at the first start on a terminal]")  # fmt: skip
@click.option("--relay", is_flag=True, envvar="EDGENODE_RELAY",
              help="Relay between nodes that cannot dial each other, as those behind two home routers.")  # fmt: skip
@click.option("--relay-gb", type=click.FloatRange(0, min_open=True), metavar="GB", envvar="EDGENODE_RELAY_GB",
              help="The most gigabytes that --relay carries for one node. [default: no limit]")  # fmt: skip
@click.option("--public", default="", metavar="HOST[:PORT]", envvar="EDGENODE_PUBLIC",
              help="Host name or address for devices in other networks, which invites then name. PORT leads to "
                   "--listen, and the next port to --enrol. [default: the ports of both]")  # fmt: skip
@insecure_option
@reflection_option
@set_option
@log_format_option
@verbose_option
def controller(
    config_path: Path | None,
    listen: str,
    state_dir: Path | None,
    recover: bool,
    http: str,
    page_url: str,
    track: str,
    straggler: str | None,
    enrol: str,
    invites: int | None,
    relay: bool,
    relay_gb: float | None,
    public: str,
    insecure: bool,
    reflection: bool,
    settings: tuple[str, ...],
    log_format: str,
    verbose: bool,
) -> None:
    """Run the controller: it starts the run when all nodes have joined, and changes its topology on request.

    It is not in the data path. Training continues without it, and a restarted controller continues from its saved
    state. Exit code 1 if a node failed.

    \b
    Examples:
      edgenode controller                             in the folder of run.toml
      edgenode controller --invites 4                 print four commands, edgenode run --join inv-..., for devices
      edgenode controller --http 0.0.0.0:8080         serve the page to the whole network
      edgenode controller --track tensorboard:events; tensorboard --logdir events
      edgenode controller --relay --public run.example.org    for nodes in two homes, on a machine that both can dial
      edgenode controller --recover                   after its disk was lost
      edgenode controller --straggler drop            evict nodes that hold up others
    """
    settings = (*settings, *((f"run.straggler={straggler}",) if straggler else ()))
    config = load_config(config_path, settings)
    set_up_logging(verbose, log_format)
    for address in (listen, *(address for address in (http, enrol) if address not in ("", "none"))):
        split_address(address)  # malformed addresses are rejected before anything starts
    log_start(controller=listen, cluster=config.run.cluster, nodes=config.run.nodes)
    from edgenode.controller.controller_options import ControllerOptions, checked_url, public_address
    from edgenode.controller.controller_process import run_controller
    from edgenode.net.rpc import refuse_beyond_loopback

    if insecure:
        refuse_beyond_loopback(listen)
        if http != "none":
            refuse_beyond_loopback(http, "--http")
    state_dir = state_dir or default_state_dir(config.run.cluster, "controller")
    take_sigterm_as_ctrl_c()
    if invites is None:
        invites = config.run.nodes if sys.stdout.isatty() and not (state_dir / AUTHORITY).exists() else 0
    options = ControllerOptions(
        config, listen, state_dir, recover, http, checked_url(page_url), enrol, track, reflection, insecure, invites,
        relay, relay_gb, public_address(public, listen, enrol),
        show_invite=lambda invite: click.echo(run_command(invite)), invite_command=invite_command(state_dir),
    )  # fmt: skip
    if not run_controller(options):
        raise SystemExit(1)
