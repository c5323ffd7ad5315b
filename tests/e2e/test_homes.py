"""Boards that cannot dial each other: in two homes, behind a carrier's NAT, in a Wi-Fi that isolates its clients."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process, until
from tests.e2e.homes import PUBLIC, Home, Homes

_WHY_NOT = netns.cannot_disturb()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]
WHERE = ("--controller", f"{PUBLIC}:7700")


class Run:
    """A controller on the public host, and boards on hosts of the homes.

    A board has run.toml and an invite. By these it enrols, and finds the controller.
    """

    def __init__(self, fleet: Fleet, homes: Homes, hosts: tuple[int, ...], *arguments: str, **settings: object) -> None:
        self._fleet, self._homes, self._hosts, self._arguments = fleet, homes, hosts, arguments
        given = {key.replace("__", ".") if "__" in key else f"run.{key}": value for key, value in settings.items()}
        fleet.configure({"run.nodes": len(hosts), "topology.graphs": ["a"], **given})
        self.controller = self.start_controller()
        self.controller.logs("controller ready")
        invites = [self.invite(f"node-{i}") for i in range(len(hosts))]
        self.boards = [self.start_board(i, "--join", invite) for i, invite in enumerate(invites)]

    def start_controller(self) -> Process:
        where = ("--public", PUBLIC, *self._arguments)
        return self._fleet.controller(*where, listen=None, spawn=partial(self._homes.spawn, 0))

    def start_board(self, i: int, *invite: str) -> Process:
        return self._fleet.bare_node(f"node-{i}", *invite, spawn=partial(self._homes.spawn, self._hosts[i]))

    def invite(self, name: str) -> str:
        found = re.search(r"--join (inv-\S+)", self.command("invite", name))
        assert found
        return found[1]

    def command(self, *words: str) -> str:
        return self._fleet.command(*words, *WHERE, spawn=partial(self._homes.spawn, 0)).stdout

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("status", "--json"))
        return found

    def goes_on(self, what: str, more: int = 20) -> dict[str, Any]:
        """Wait for some rounds. Return the status after them."""
        t = self.status()["round"]
        found: dict[str, Any] = until(lambda: (now := self.status())["round"] > t + more and now, f"rounds {what}")
        return found

    def ways(self) -> dict[tuple[str, str], str]:
        """The edges that are not direct, each with its way."""
        return {(s, r): group["relay"] or group["way"] for group in self.status()["ways"] for s, r in group["edges"]}

    def stop(self) -> None:
        self.command("stop", "--yes")
        for board in self.boards:
            board.exits(0)


def models(fleet: Fleet, count: int) -> list[dict[str, bytes]]:
    files = [load_file(fleet.state(f"node-{i}") / "model.safetensors") for i in range(count)]
    return [{name: tensor.tobytes() for name, tensor in file.items()} for file in files]


@pytest.mark.timeout(400)
def test_two_homes_train_to_the_bits_of_one_network(fleet: Fleet, tmp_path: Path) -> None:
    """Both homes use the same addresses, so that a board that dials another one finds a third one, or nobody."""
    with Homes(Home(2), Home(2, behind_carrier=True)) as homes:
        run = Run(fleet, homes, (1, 2, 3, 4), "--relay", rounds=60)
        for process in (*run.boards, run.controller):
            process.exits(0)
    with netns.Bridge(5) as bridge, Fleet(tmp_path / "lan") as lan:
        lan.configure({"run.nodes": 4, "topology.graphs": ["a"], "run.rounds": 60})
        controller = lan.controller(listen=None, spawn=partial(bridge.spawn, 4))
        boards = [lan.node(f"node-{i}", listen=None, spawn=partial(bridge.spawn, i)) for i in range(4)]
        for process in (*boards, controller):
            process.exits(0)
        assert models(fleet, 4) == models(lan, 4)


@pytest.mark.timeout(600)
def test_run_in_three_networks_survives_board_router_and_controller(fleet: Fleet) -> None:
    """Two boards in each of two homes, and one in a third network. Carriers translate the addresses of two networks."""
    with Homes(Home(2), Home(2, behind_carrier=True), Home(1, behind_carrier=True)) as homes:
        run = Run(fleet, homes, (1, 2, 3, 4, 5), "--relay", rounds=200_000, evict_after_s=10)
        between = {("node-1", "node-2"), ("node-3", "node-4"), ("node-4", "node-0")}
        until(lambda: run.ways() == dict.fromkeys(between, "controller"), "the edges between networks are relayed")
        status = run.goes_on("between three networks")
        assert status["links"] == []
        assert {relayed["node"] for relayed in status["relayed"]} == {f"node-{i}" for i in range(5)}
        shown = run.command("topology", "show")
        assert "Relayed by controller" in shown
        assert "node-1 → node-2: relayed by controller, " in shown and "node-0 → node-1: direct, " in shown

        run.boards[3].kill()
        until(lambda: len(run.status()["record"]["members"]) == 4, "the dead board is evicted")
        run.goes_on("of four boards")
        run.boards[3] = run.start_board(3)
        run.boards[3].logs("fetched the model")
        until(lambda: len(run.status()["record"]["members"]) == 5, "the board is back")
        run.goes_on("of five boards")

        homes.restart_router(0)
        run.goes_on("with another public address")

        run.controller.kill()
        run.controller = run.start_controller()
        run.controller.logs("controller ready")
        run.goes_on("with the controller that is back")
        assert len(run.status()["record"]["members"]) == 5
        run.stop()


@pytest.mark.timeout(300)
def test_boards_that_a_wifi_isolates_train_over_relayed_edges(fleet: Fleet) -> None:
    with Homes(Home(3, isolated=True)) as homes:
        run = Run(fleet, homes, (1, 2, 3), "--relay", rounds=200_000)
        edges = {(f"node-{i}", f"node-{(i + 1) % 3}"): "controller" for i in range(3)}
        until(lambda: run.ways() == edges, "all edges are relayed")
        t = run.goes_on("in an isolated network")["round"]

        homes.isolate(0, on=False)
        began = time.monotonic()
        until(lambda: run.ways() == {}, "all edges are direct", 60)
        print(f"direct after {time.monotonic() - began:.0f} s")
        homes.isolate(0, on=True)
        until(lambda: run.ways() == edges, "all edges are relayed again", 60)
        status = run.goes_on("after the ways have changed")
        assert status["links"] == [] and status["round"] > t and status["faults"] == []
        run.stop()


@pytest.mark.timeout(300)
def test_receiver_that_reaches_its_sender_opens_the_connection(fleet: Fleet) -> None:
    """Nobody relays between a board with a public address and one behind a router."""
    with Homes(Home(1)) as homes:
        run = Run(fleet, homes, (0, 1), rounds=200_000)
        until(lambda: run.ways() == {("node-0", "node-1"): "reversed"}, "one edge is reversed")
        assert run.goes_on("over a reversed edge")["links"] == []
        shown = run.command("status")
        assert "Opened by the receiver: node-0 → node-1." in shown
        assert re.search(r"node-0 → node-1: reversed, [\d.]+ ms there and back, [\d.]+ k?B/s", shown)
        assert "relay=controller" not in run.boards[0].stderr
        run.stop()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("killed", "arguments"), [(0, ["--relay"]), (1, [])], ids=["relay", "no relay"])
def test_board_with_a_forwarded_port_needs_no_relay(fleet: Fleet, killed: int, arguments: list[str]) -> None:
    """The board knows nothing of the port, and the router has another address later.

    A board that comes back has to reach the other one. So that with the port needs a relay, and the other needs none.
    """
    with Homes(Home(1, forwards=True), Home(1)) as homes:
        run = Run(fleet, homes, (1, 2), *arguments, rounds=200_000, evict_after_s=10)

        def is_direct(after: str) -> None:
            began, ways = time.monotonic(), {("node-0", "node-1"): "reversed"}
            until(lambda: run.ways() == ways, f"one way is direct, and one reversed, {after}")
            print(f"without a relay {after} after {time.monotonic() - began:.0f} s")
            status = run.goes_on(after)
            assert run.ways() == ways and status["links"] == []

        is_direct("from the start")
        assert "node-1 → node-0: direct, " in run.command("topology", "show")

        homes.restart_router(0)
        is_direct("with another public address")

        run.boards[killed].kill()
        until(lambda: len(run.status()["record"]["members"]) == 1, "the dead board is evicted")
        run.boards[killed] = run.start_board(killed)
        until(lambda: len(run.status()["record"]["members"]) == 2, "the board is back")
        is_direct("with the board that is back")
        run.stop()


@pytest.mark.timeout(600)
def test_graph_that_knows_two_homes_halves_the_bytes_between_them(tmp_path: Path) -> None:
    """All that the routers pass in a whole run counts, the last phase and reports to the controller included."""

    def bytes_between(graph: str) -> int:
        with Homes(Home(4), Home(4)) as homes, Fleet(tmp_path / graph[:2]) as fleet:
            alternating = tuple(host for pair in zip(*homes.places, strict=True) for host in pair)
            settings = {"topology__graphs": [graph], "algorithm__gossip_graph": "auto", "rounds": 400}
            run = Run(fleet, homes, alternating, "--relay", **settings)
            for process in (*run.boards, run.controller):
                process.exits(0)
            return sum(map(homes.crossed, (0, 1)))

    plain, knowing = bytes_between("a"), bytes_between("a@node-0+node-2+node-4+node-6:node-1+node-3+node-5+node-7")
    print(f"{plain:,} and {knowing:,} bytes: {knowing / plain:.2f}")
    assert knowing <= plain / 2
