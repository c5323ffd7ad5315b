"""``edgenode invite``, ``join``, ``keys``, ``revoke`` and ``cert``: who may take part in a cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import click

from edgenode.cli.connect import Where, cluster_options, with_credentials
from edgenode.cli.own_credentials import run_command
from edgenode.cli.shared_options import as_name, confirm, json_option, yes_option
from edgenode.config.load import checked_name
from edgenode.errors import ConfigError
from edgenode.security.authority import Authority
from edgenode.security.certificates import Credentials, cluster_of
from edgenode.security.invite import OPEN_S
from edgenode.security.local import AUTHORITY, OPERATOR, OWN
from edgenode.security.secret_files import write_credentials
from edgenode.security.subject import Role, Subject
from edgenode.storage.filesystem import default_state_dir

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[int]):
    """A time with its unit, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
        if match is None or int(match[1]) == 0:
            self.fail(f"{value!r} is not a time: expected a number and s, m, h or d, as in 30m", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


role_option = click.option("--role", type=click.Choice(["node", "relay", "operator", "viewer"]), default="node",
                           show_default=True, help="node: a device. relay: a process that only relays. operator: a "
                           "person who steers runs. viewer: a person who only watches.")  # fmt: skip
ttl_option = click.option("--ttl", "ttl_s", type=Duration(), default=f"{OPEN_S // 60}m", show_default=True,
                          metavar="TIME", help="How long the invite is open.")  # fmt: skip


@click.command()
@click.argument("name", required=False, callback=as_name)
@role_option
@ttl_option
@cluster_options
def invite(name: str | None, role: str, ttl_s: int, where: Where) -> None:
    """Print the command that lets one device or one person into the cluster. Type it on the device, or on her machine.

    Its last word is the invite. It can be used once. It contains a secret and the fingerprint of the cluster's
    authority, so the device does not send the secret to anyone else. A device needs its run.toml, and can have any
    free name. With NAME, the invite is for a node of this name, and replaces the key of a device that was reinstalled.
    A person is an operator or a viewer. A person and a relay need a NAME.

    \b
    Examples:
      edgenode invite                             for a device with any free name
      edgenode invite pi-3                        for pi-3, also after its card was replaced
      edgenode invite anna --role operator        for Anna, who steers runs
      edgenode invite fra --role relay            for edgenode relay, on a server
      edgenode invite --ttl 1d
      edgenode invite | ssh pi-3 edgenode run --config run.toml --join -
    """
    if role != "node" and name is None:
        raise click.UsageError(f"give the NAME of the {role}, as in edgenode invite anna --role {role}")
    line = with_credentials(where, lambda client: client.invite(cast(Role, role), name or "", ttl_s))
    command = "relay --join" if role == "relay" else "join"
    click.echo(run_command(line, name) if role == "node" else f"edgenode {command} {line}")


@click.command()
@click.argument("line", metavar="INVITE|FILE|-")
@click.option("--out", type=click.Path(path_type=Path),
              help="File for your key and certificate. [default: in your state folder]")  # fmt: skip
def join(line: str, out: Path | None) -> None:
    """Enrol yourself on this machine, with an invite for you. Commands such as `edgenode status` then work here.

    An invite for a device goes to `edgenode run --join`.

    \b
    Example:
      edgenode join inv-...
    """
    from edgenode.net.enrolment_client import enrol
    from edgenode.node.credentials import read_invite

    credentials = enrol(read_invite(line))
    cluster = cluster_of(credentials.authority)
    path = out or default_state_dir(checked_name("the authority's cluster", cluster), OPERATOR)
    write_credentials(path, credentials)
    click.echo(f"you are {credentials.subject} of the cluster {cluster}: {path}")


@click.command()
@cluster_options
@json_option
def keys(where: Where, as_json: bool) -> None:
    """List the valid keys of the cluster: who may take part in it, in which role.

    \b
    Examples:
      edgenode keys
      edgenode keys --json | jq -r '.[] | select(.role == "operator") | .name'
    """
    _print_keys(with_credentials(where, lambda client: client.keys()), as_json)


def _print_keys(found: Mapping[Subject, str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([{"role": s.role, "name": s.name, "key": key} for s, key in found.items()]))
        return
    for subject, key_id in found.items():
        click.echo(f"{subject.role:10} {subject.name:20} {key_id[:16]}")


@click.command()
@click.argument("name", callback=as_name)
@role_option
@yes_option
@click.option(
    "--authority",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the authority, to revoke the key there: for a controller that is stopped, or does not answer.",
)
@cluster_options
def revoke(name: str, role: str, yes: bool, authority: Path | None, where: Where) -> None:
    """Revoke the key of NAME: every process of the cluster refuses it from now on, and ends its connections.

    A node that is a member is evicted. It can come back with another key (edgenode invite NAME).

    With --authority, the command calls nobody. A controller that runs acts on it within a second, and another one when
    it starts.

    \b
    Examples:
      edgenode revoke pi-3
      edgenode revoke anna --role operator      edgenode keys lists the roles and names
      sudo edgenode revoke pi-3 --authority /var/lib/edgenode-controller/authority
    """
    subject = Subject(cast(Role, role), name)
    evicted = ", and is evicted if it is a member" if role == "node" else ""
    confirm(f"Revoke the key of {subject}? It can come back with a new invite only{evicted}.", yes)
    if authority is not None:
        key_id = _authority(authority, "a controller's is in its --state-dir").revoke(subject)
    else:
        key_id = with_credentials(where, lambda client: client.revoke(subject))
    click.echo(f"the key {key_id[:16]} of {subject} is revoked")


@click.group()
def cert() -> None:
    """Make certificates without a controller: for runs with --peers, and for images of devices.

    \b
    Examples:
      edgenode cert init --cluster home
      edgenode cert issue pi-1 pi-2 --out boards
    """


authority_option = click.option(
    "--authority", "folder", type=click.Path(path_type=Path), default=AUTHORITY, show_default=True,
    help="Folder of the authority. A controller's is in its --state-dir.",
)  # fmt: skip


@cert.command("init")
@click.option("--cluster", default="edgenode", show_default=True, callback=as_name, envvar="EDGENODE_CLUSTER",
              help="Name of the cluster.")  # fmt: skip
@authority_option
def init(cluster: str, folder: Path) -> None:
    """Make an authority, if the folder has none. Keep the folder secret, and keep a copy of it.

    \b
    Example:
      edgenode cert init --cluster home
    """
    authority = Authority(folder, cluster)
    click.echo(f"the authority is in {folder}, fingerprint {authority.digest.hex()}")


@cert.command("issue")
@click.argument("names", nargs=-1, required=True)
@role_option
@click.option("--out", type=click.Path(path_type=Path), default=".", show_default=True,
              help=f"Folder for NAME/{OWN}: the node's --state-dir is OUT/NAME.")  # fmt: skip
@authority_option
def issue(names: tuple[str, ...], role: str, out: Path, folder: Path) -> None:
    """Make a key and a certificate for each of the NAMES. Those that are there and not due stay as they are.

    \b
    Examples:
      edgenode cert issue node-0 node-1 node-2 --out /media/boards
      edgenode cert issue anna --role operator
    """
    _certify(_authority(folder).keep, names, role, out)


@cert.command("renew")
@click.argument("names", nargs=-1, required=True)
@role_option
@click.option("--out", type=click.Path(path_type=Path), default=".", show_default=True,
              help=f"Folder with NAME/{OWN}, as edgenode cert issue wrote it.")  # fmt: skip
@authority_option
def renew(names: tuple[str, ...], role: str, out: Path, folder: Path) -> None:
    """Give each of the NAMES another certificate for the key that it has. Copy the files to the devices.

    With a controller this is not needed: nodes renew their certificates themselves.

    \b
    Examples:
      edgenode cert renew node-0 node-1 --out /media/boards
      edgenode cert renew anna --role operator
    """
    _certify(_authority(folder).renew, names, role, out)


def _certify(certify: Callable[[Path, Subject], Credentials], names: tuple[str, ...], role: str, out: Path) -> None:
    for name in names:
        path = out / checked_name("command-line argument NAMES", name) / OWN
        credentials = certify(path, Subject(cast(Role, role), name))
        click.echo(f"{path}  valid until {credentials.expires():%Y-%m-%d}")


@cert.command("list")
@authority_option
@json_option
def list_keys(folder: Path, as_json: bool) -> None:
    """List the valid keys of an authority.

    \b
    Example:
      edgenode cert list
    """
    _print_keys(_authority(folder).subjects(), as_json)


def _authority(folder: Path, remedy: str = "make one with edgenode cert init, or name its --authority") -> Authority:
    """The authority of a folder that exists."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: {remedy}")
    return Authority(folder, "")
