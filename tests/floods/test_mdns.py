"""A stranger in the network sends mDNS packets without end, to a run whose hosts find each other by mDNS."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet
from tests.floods.flood import ATTACKER, CONTROLLER, MORE_ADDRESSES, NODES, AttackedRun, table

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
        moments = {"before": (before := run.measure(15))}
        for name, arguments in LOUD.items():
            with run.attacked_by(PACKETS, *arguments):
                moments[name] = during = run.measure(20)
            assert during.rate >= 0.9 * before.rate, f"{name}: {before}, {during}"
            assert during.failures == 0, f"{name}: {during}"
            assert during.status_s < 1.5 * before.status_s + 1, f"{name}: {before}, {during}"
        print(table(moments))
        run.none_has_ended()


def test_newcomer_and_operator_get_past_200_silent_controllers(fleet: Fleet) -> None:
    """Goodbyes for all true services, and impostors under their names, are sent meanwhile. They hold no name either."""
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
            run.run.controller.kill()
            run.run.start_controller().logs("controller ready")
        print(f"the newcomer was in the run after {seconds:.1f} s")
        assert "node-3" in status.stdout.partition("graph")[2]
        assert "warning" not in status.stdout
        assert seconds < JOINED_S, node.tail()
        run.none_has_ended()
