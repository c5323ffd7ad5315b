"""`edgenode doctor` on four hosts: its finding about multicast matches the firewall."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process

_WHY_NOT = netns.cannot_disturb()
CLEAN, NOTHING_IN, NOTHING_OUT, CONTROLLER = range(4)


def findings(doctor: Process, code: int) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in json.loads(doctor.exits(code).stdout)}


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_doctor_finds_a_firewall_that_blocks_multicast(fleet: Fleet) -> None:
    fleet.configure()
    with netns.Bridge(4) as bridge:
        fleet.controller(listen=None, spawn=partial(bridge.spawn, CONTROLLER)).logs("controller ready")
        with bridge.drop(NOTHING_IN, incoming=True), bridge.drop(NOTHING_OUT, outgoing=True):
            command = ("doctor", "--config", "run.toml", "--json")
            spawns = [partial(bridge.spawn, host) for host in (CLEAN, NOTHING_IN, NOTHING_OUT)]
            clean, deaf, dumb = (fleet.start(f"doctor-{i}", *command, spawn=spawn) for i, spawn in enumerate(spawns))

            found = findings(clean, 0)
            way, _, senders = found["multicast"]["text"].partition(", with answers from ")
            assert way == f"eth0 ({bridge.addresses[CLEAN]}): works"
            assert bridge.addresses[CONTROLLER] in senders.split(", ")
            controller = f"{bridge.addresses[CONTROLLER]}:7700 answers; enrol this device to see more"
            assert found["controller"]["text"] == controller
            assert {finding["level"] for finding in found.values()} <= {"ok", "warning"}

            for doctor, reason in ((deaf, "does not come back"), (dumb, "Operation not permitted")):
                multicast = findings(doctor, 1)["multicast"]
                assert multicast["level"] == "problem"
                assert reason in multicast["text"]
                assert "--controller H:P" in multicast["remedy"]
