"""One member accuses another of everything that members report of each other. Its word alone evicts nobody."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet, until

EVICT_AFTER_S = 8
ACCUSER = str(Path(__file__).with_name("accuser.py"))


@pytest.mark.slow
def test_one_member_gets_no_other_evicted(fleet: Fleet) -> None:
    fleet.configure(
        {
            "run.nodes": 4,
            "run.rounds": 1_000_000,
            "run.evict_after_s": EVICT_AFTER_S,
            "run.straggler": "drop",
            "run.on_poison": "evict",
            "topology.graphs": ["complete"],
        }
    )
    controller = fleet.controller()
    accuser = fleet.node("node-3", program=[ACCUSER, "node-0"])
    honest = fleet.nodes(3)
    controller.logs(r"poison alarm .*node-0: ")
    controller.logs("a link does not work .*node-3 cannot reach node-0")
    until_s = time.monotonic() + 2.5 * EVICT_AFTER_S
    until(lambda: time.monotonic() > until_s or "fencing" in controller.stderr, "some limits pass")
    assert not re.findall("node is too slow.*|nothing relays.*|fencing.*", controller.stderr)
    fleet.stop([*honest, accuser, controller])
