"""Boards away from the controller's network: they join by an invite and a host name, or train through a VPN."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process, until
from tests.e2e.homes import PUBLIC, Home, Homes
from tests.e2e.test_homes import Run

_WHY_NOT = netns.cannot_disturb()
_NO_VPN = [tool for tool in ("wireguard-go", "wg") if shutil.which(tool) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]
_NAME = "run.example.org"


@pytest.mark.timeout(300)
def test_board_behind_a_router_joins_with_an_invite_and_a_host_name(fleet: Fleet, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{PUBLIC} {_NAME}\n")
    with_hosts = ("unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh")
    with Homes(Home(2)) as homes:
        run = Run(fleet, homes, (), "--relay", "--public", _NAME, nodes=2, rounds=200_000)

        def start(i: int, *invite: str) -> Process:
            at = partial(homes.spawn, 1 + i)
            return fleet.bare_node(f"node-{i}", *invite, spawn=lambda argv, **more: at([*with_hosts, *argv], **more))

        run.boards = [start(i, "--join", run.invite(f"node-{i}")) for i in range(2)]
        run.boards[1].logs("enrolled: from now on, no invite is needed")
        run.goes_on("with the board")
        run.boards[1].kill()
        run.boards[1] = start(1)
        run.goes_on("with the board that is back")
        run.stop()


@pytest.mark.skipif(bool(_NO_VPN), reason=f"needs {', '.join(_NO_VPN)}")
@pytest.mark.timeout(300)
def test_boards_in_two_homes_train_through_wireguard(fleet: Fleet, tmp_path: Path) -> None:
    """The public host passes packets on between the boards. Nothing is relayed."""
    with Homes(Home(1), Home(1)) as homes, ExitStack() as stack:
        keys = [_new_key(tmp_path / f"key-{i}") for i in range(3)]
        for i in range(3):
            device, namespace = f"wg{homes.namespaces[0].split('-')[1]}-{i}", homes.namespaces[i]
            homes.spawn(i, ["wireguard-go", "-f", device], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            socket = Path(f"/var/run/wireguard/{device}.sock")
            stack.callback(socket.unlink, missing_ok=True)
            peers = [1, 2] if i == 0 else [0]
            command = ["wg", "set", device, "private-key", str(tmp_path / f"key-{i}"), "listen-port", "51820"]
            for peer in peers:
                allowed = "10.8.0.0/24" if peer == 0 else f"10.8.0.{peer + 1}/32"
                command += ["peer", keys[peer], "allowed-ips", allowed]
                command += ["endpoint", f"{PUBLIC}:51820", "persistent-keepalive", "15"] if peer == 0 else []
            until(partial(_succeeds, command), f"{device} is there", 20)
            netns.ip("-n", namespace, "address", "add", f"10.8.0.{i + 1}/24", "dev", device)
            netns.ip("-n", namespace, "link", "set", device, "up")
        netns.ip("netns", "exec", homes.namespaces[0], "sysctl", "-qw", "net.ipv4.ip_forward=1")

        fleet.configure({"run.nodes": 2, "topology.graphs": ["a"], "run.rounds": 60})
        controller = fleet.controller(listen=None, spawn=partial(homes.spawn, 0))
        boards = [
            fleet.node(f"node-{i}", "--controller", "10.8.0.1:7700", listen=f"10.8.0.{i + 2}:7600",
                       spawn=partial(homes.spawn, i + 1))
            for i in range(2)
        ]  # fmt: skip
        for process in (*boards, controller):
            process.exits(0)
        assert not any("by way of a relay" in board.stderr for board in boards)


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _new_key(file: Path) -> str:
    """Write a private key, and return the public one."""
    private = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
    file.write_text(private)
    file.chmod(0o600)
    return subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True).stdout.strip()
