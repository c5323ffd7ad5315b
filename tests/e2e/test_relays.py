"""Relays, which are processes of their own: boards in two homes train over them, and lose one after the other."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process, until
from tests.e2e.homes import PUBLIC, Home, Homes
from tests.e2e.test_homes import WHERE, Run

_WHY_NOT = netns.cannot_disturb()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]

_EDGES = [("node-0", "node-1"), ("node-1", "node-0")]


@pytest.mark.timeout(600)
def test_relay_takes_the_place_of_one_that_is_lost(fleet: Fleet) -> None:
    with Homes(Home(1), Home(1)) as homes:
        run = Run(fleet, homes, (1, 2), rounds=200_000, evict_after_s=60)
        run.controller.logs("controller ready")
        found = re.search(r"edgenode relay --join (inv-\S+)", run.command("invite", "relay-a", "--role", "relay"))
        assert found
        start = partial(fleet.relay, spawn=partial(homes.spawn, 0))
        listens_a, listens_b = ("--listen", f"{PUBLIC}:7702"), ("--listen", f"{PUBLIC}:7703", *WHERE)
        relays = {"relay-a": start("relay-a", "--join", found[1], *listens_a), "relay-b": start("relay-b", *listens_b)}
        for relay in relays.values():
            relay.logs("nodes may use this relay .*nodes=2")
        until(lambda: len(_used(run)) == len(_EDGES), "both edges are relayed")
        process = Path(f"/proc/{relays['relay-a'].popen.pid}")
        assert "torch" not in (process / "maps").read_text()
        print(re.findall("VmHWM.*", (process / "status").read_text()))
        assert run.goes_on("over relays")["links"] == []
        shown = run.command("status")
        for name in relays:
            what = r"connected, \d+ connections?, [\d.]+ [kM]?B so far"
            assert re.search(rf"Relay {name} at {PUBLIC}:770\d: {what}", shown), shown

        relays["relay-a"].kill()
        began = time.monotonic()
        until(lambda: _all_by(run, "relay-b"), "another relay takes its place", 60)
        print(f"replaced after {time.monotonic() - began:.1f} s")
        run.goes_on("over the other relay")

        run.controller.kill()  # relays and members go on without it
        t = _round(run.boards[0])
        until(lambda: _round(run.boards[0]) > t + 20, "rounds without a controller", 60)
        run.controller = run.start_controller()
        run.controller.logs("relay connected")
        assert _all_by(run, "relay-b")

        relays["relay-b"].kill()
        until(lambda: run.status()["links"], "a blocked link without a relay", 60)
        relays["relay-a"] = start("relay-a", *listens_a)  # without the invite
        until(lambda: _all_by(run, "relay-a"), "the first relay is back", 60)
        status = run.goes_on("over the relay that is back")
        assert status["links"] == [] and len(status["record"]["members"]) == 2

        run.command("revoke", "relay-b", "--role", "relay", "--yes")
        revoked = fleet.start("relay-b", "relay", "--state-dir", str(fleet.state("relay-b")), *listens_b,
                              spawn=partial(homes.spawn, 0))  # fmt: skip
        revoked.exits(3)
        until(lambda: [relay["relay"] for relay in run.status()["relays"]] == ["relay-a"], "it is forgotten")
        run.stop()
        relays["relay-a"].interrupt()
        relays["relay-a"].exits(130)


def _used(run: Run) -> dict[tuple[str, str], str]:
    """The relays of the edges that are relayed."""
    return {edge: way for edge, way in run.ways().items() if way.startswith("relay-")}


def _all_by(run: Run, relay: str) -> bool:
    return _used(run) == dict.fromkeys(_EDGES, relay)


def _round(board: Process) -> int:
    return int(re.findall(r"round=(\d+)", board.stderr)[-1])
