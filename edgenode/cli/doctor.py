"""``edgenode doctor``: find what would stop a run on this device, and name the remedy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from edgenode.addresses import split_address
from edgenode.cli.own_credentials import local_security
from edgenode.cli.services import installation, installation_of_relay
from edgenode.cli.shared_options import (
    CONTROLLER_PORT,
    HTTP_PORT,
    config_option,
    default_name,
    insecure_option,
    json_option,
    load_config,
    node_option,
    set_option,
)
from edgenode.config.schema import Config
from edgenode.doctor import Finding, cuda_build, machine, network, ok, problem, traffic, warning
from edgenode.errors import ConfigError, EdgenodeError
from edgenode.factory import check_networked
from edgenode.net.interfaces import interfaces_for
from edgenode.net.reasons import expired
from edgenode.net.tls import MutualTls, Security
from edgenode.node.credentials import how_to_get_one, read_invite
from edgenode.security.invite import ENROL_PORT
from edgenode.security.local import OWN
from edgenode.storage.filesystem import default_state_dir

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@config_option
@node_option("listen", help="As for edgenode run.")
@node_option("peers", help="As for edgenode run.")
@node_option("controller", help="As for edgenode run. [default: mdns, or none with --peers]")
@node_option("state_dir", help="As for edgenode run. [default: the user's state folder]")
@click.option("--systemd", is_flag=True,
              help="Only print the commands that install the systemd services.")  # fmt: skip
@click.option("--relay-only", is_flag=True, help="With --systemd: those of a machine that only relays.")
@node_option("join", help="With --systemd: also start this device's node or relay, with this invite.")
@insecure_option
@set_option
@json_option
def doctor(
    config_path: Path | None,
    listen: str,
    peers: str,
    controller: str | None,
    state_dir: Path | None,
    systemd: bool,
    relay_only: bool,
    join: str | None,
    insecure: bool,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check this device before a run. Prints one line per check, with a remedy where one is needed.

    Checks Python and packages, torch, the model of the run, what a relay would carry, memory, disk, ports, multicast on
    each interface, the controller, its clock, and the way to each other node. Changes nothing. Exit code 1 if something
    would stop a run.

    \b
    Examples:
      edgenode doctor --config run.toml
      edgenode doctor --config run.toml --controller 10.0.0.5:7700   without multicast
      edgenode doctor --json | jq '.[] | select(.level != "ok")'
      edgenode doctor --systemd | sudo sh
      edgenode doctor --systemd --join inv-... | sudo sh
      edgenode doctor --systemd --relay-only --join inv-... | sudo sh
    """
    if systemd:
        click.echo(_installation(join, relay_only), nl=False)
        return
    if relay_only:
        raise click.UsageError("--relay-only is for --systemd")
    fixed = () if peers == "mdns" else tuple(p.strip() for p in peers.split(",") if p.strip())
    where = Addresses(listen, fixed, controller or ("none" if fixed else "mdns"))
    found = asyncio.run(_shown(_findings(config_path, settings, where, state_dir, insecure), not as_json))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    problems = sum(finding.level == "problem" for finding in found)
    if not as_json:
        click.echo(f"{problems or 'no'} problem{'' if problems == 1 else 's'}")
    if problems:
        raise SystemExit(1)


@dataclass(frozen=True)
class Addresses:
    """The addresses that the options give."""

    listen: str
    peers: tuple[str, ...]
    controller: str


async def _shown(findings: AsyncIterator[Finding], verbose: bool) -> list[Finding]:
    """Return all findings. With ``verbose``, print each as soon as it is known."""
    found = []
    async for finding in findings:
        found.append(finding)
        if verbose:
            click.echo(f"{click.style(f'{finding.level:8}', _COLOURS[finding.level])} {finding.check:11}  {finding}")
    return found


async def _findings(
    path: Path | None, settings: tuple[str, ...], where: Addresses, state_dir: Path | None, insecure: bool
) -> AsyncIterator[Finding]:
    host, _ = split_address(where.listen)
    interfaces, targets = interfaces_for(host), (*where.peers, *({where.controller} - {"mdns", "none"}))
    for target in targets:
        split_address(target)
    for finding in machine.installed():
        yield finding
    try:
        config: Config = load_config(path, settings)
    except ConfigError as exc:
        yield problem("run.toml", str(exc), "correct it")
        return
    state_dir = state_dir or default_state_dir(config.run.cluster, default_name())
    said = set[str]()
    for finding in (
        *machine.torch(config),
        *cuda_build.cuda(),
        *machine.model(config, state_dir),
        *machine.liars(config),
        *(traffic.relayed(config) if where.controller != "none" else ()),
        machine.power(),
    ):
        said.add(finding.text)
        yield finding
    try:
        check_networked(config, controller=where.controller != "none")
    except ConfigError as exc:
        if str(exc) not in said:
            yield problem("run.toml", str(exc), "correct it, or the options of edgenode run")
    security, finding = _certificate(state_dir, insecure, config.run.cluster, where.controller)
    yield finding
    yield await network.port("port", where.listen, True, security)
    for others in (f"0.0.0.0:{CONTROLLER_PORT}", f"127.0.0.1:{HTTP_PORT}"):
        yield await network.port("port", others, False, security)
    yield await network.port("port", f"0.0.0.0:{ENROL_PORT}", False, None)  # it asks nobody for a certificate
    async for finding in network.multicast(interfaces, where.controller == "mdns"):
        yield finding
    async for finding in network.others(config.run.cluster, where.controller, where.peers, host, security):
        yield finding


def _certificate(state_dir: Path, insecure: bool, cluster: str, controller: str) -> tuple[Security | None, Finding]:
    """Return the credentials that this device can show to others."""
    try:
        security = local_security(state_dir, insecure, cluster)
    except EdgenodeError as exc:
        return None, problem("certificate", str(exc), "correct it, or enrol this device again (edgenode invite)")
    if security is None:
        remedy = how_to_get_one(default_name(), controller)
        return None, warning("certificate", "this device has no certificate yet", remedy)
    if not isinstance(security, MutualTls):
        return security, warning("certificate", "none: --insecure", "enrol this device (edgenode invite)")
    shown = security.credentials
    if (until := shown.expires()) <= datetime.now(UTC):
        remedy = "edgenode invite and edgenode cert renew give it another certificate"
        return security, problem("clock", expired(until), remedy)
    if shown.subject.role != "node" and not (state_dir / OWN).exists():
        remedy = f"to run a node here, {how_to_get_one(default_name(), controller)}"
        return security, warning("certificate", f"this device has one of {shown.subject}, and none of a node", remedy)
    return security, ok("certificate", f"{shown.subject}, valid until {shown.expires():%Y-%m-%d}")


def _installation(join: str | None, relay_only: bool) -> str:
    return (installation_of_relay if relay_only else installation)(str(read_invite(join)) if join else "")
