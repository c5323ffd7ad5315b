"""A sponsor gives newcomers a wrong model: those in the run train on, and the newcomer names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.fleet import Fleet, Process, until

BAD_SPONSOR = str(Path(__file__).with_name("bad_sponsor.py"))


def start(fleet: Fleet, factor: float) -> tuple[Process, list[Process], Process]:
    """A run of three members, the first of which is the sponsor, and a newcomer."""
    fleet.configure(
        {
            "run.nodes": 3,
            "run.rounds": 1_000_000,
            "run.evict_after_s": 3,
            "run.evaluate_every": 10,
            "topology.graphs": ["complete"],
        }
    )
    controller = fleet.controller()
    members = [fleet.node("node-0", program=[BAD_SPONSOR, str(factor)]), fleet.node("node-1"), fleet.node("node-2")]
    members[1].logs(r"test accuracy .*round=30\b")
    return controller, members, fleet.node("node-9")


def fleet_round(fleet: Fleet) -> int:
    return int(json.loads(fleet.command("status", "--json", "--cluster", fleet.cluster).stdout)["round"])


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e30, 1e14])
def test_model_on_which_no_step_is_possible_harms_only_the_newcomer(fleet: Fleet, factor: float) -> None:
    controller, members, newcomer = start(fleet, factor)
    if factor == 1e30:
        newcomer.logs("cannot join yet .*a number of .*as if it had diverged")
        newcomer.kill()
    else:
        (error,) = newcomer.exits(1).errors
        assert "the first step on the sponsor's model diverged" in error
    begun = fleet_round(fleet)
    until(lambda: fleet_round(fleet) > begun + 50, "the run goes on")
    fleet.stop([*members, controller])
    assert "training diverged" not in controller.stderr
