"""A stranger in the network sends mDNS packets without end, to a run whose hosts find each other by mDNS."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet
from tests.floods.flood import ATTACKER, CONTROLLER, MORE_ADDRESSES, NODES, AttackedRun

_WHY_NOT = netns.unavailable()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]

PACKETS = "tests/floods/mdns_packets.py"
KINDS = ("new", "impostor", "goodbye", "pointers", "records", "foreign", "question", "probe", "known")
LOUD = {
    "large packets": (*KINDS, "--rate", "120"),
    "small packets of many sources": (*KINDS, "--rate", "800", "--size", "1400", "--sources", *MORE_ADDRESSES[:50]),
}
JOINED_S = 10.0


def test_floods_slow_no_run_and_no_command(fleet: Fleet) -> None:
    with netns.Bridge(NODES + 2) as bridge:
        run = AttackedRun(bridge, fleet)
        run.until_trains()
        before = run.measure(15)
        for name, arguments in LOUD.items():
            with run.attacked_by(PACKETS, *arguments):
                during = run.measure(20)
            assert during.rate >= 0.8 * before.rate, f"{name}: {before}, {during}"
            assert (during.failures, during.status_s < before.status_s + 1.0) == (0, True), (
                f"{name}: {before}, {during}"
            )
        run.none_has_ended()


def test_newcomer_and_operator_get_past_200_silent_controllers(fleet: Fleet) -> None:
    """Goodbyes for all true services, and impostors under their names, are sent meanwhile."""
    with netns.Bridge(NODES + 2) as bridge:
        run = AttackedRun(bridge, fleet)
        run.until_trains()
        where = bridge.addresses[ATTACKER]
        kinds = ("controllers", "goodbye", "impostor", "--rate", "600", "--size", "1400", "--sources", where)
        with run.attacked_by(PACKETS, *kinds):
            time.sleep(2)
            run.run.nodes[0].kill()
            node = run.run.restart(0)
            node.logs("listening")
            began = time.monotonic()
            node.logs("run begins|fetched the model")
            seconds = time.monotonic() - began
            status = fleet.command("status", "--cluster", fleet.cluster, spawn=partial(bridge.spawn, CONTROLLER))
            run.run.until_all_train()
        assert "node-3" in status.stdout
        assert seconds < JOINED_S, node.tail()
        run.none_has_ended()
