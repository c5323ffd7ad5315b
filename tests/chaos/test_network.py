"""Networks that part, lose, crawl and forget: five hosts on one bridge, the controller on the last."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.chaos.crew import EPOCH, RUN, WINDOW, Crew, count, last_round, says_again
from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process

NODES, CONTROLLER = 4, 4  # hosts; where nobody is parted, three nodes will do
_WHY_NOT = netns.cannot_disturb()
pytestmark = pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))


@pytest.fixture
def bridge() -> Iterator[netns.Bridge]:
    with netns.Bridge(NODES + 1) as bridge:
        yield bridge


def crew_on(bridge: netns.Bridge, fleet: Fleet, settings: dict[str, object]) -> Crew:
    """Every process on a host of its own."""

    def node(i: int, *arguments: str) -> Process:
        return fleet.node(f"node-{i}", *arguments, listen=None, spawn=partial(bridge.spawn, i))

    controller = partial(fleet.controller, listen=None, spawn=partial(bridge.spawn, CONTROLLER))
    return Crew(fleet, fleet.configure(settings), node, controller)


# --- partitions -------------------------------------------------------------------------------------


def one_unplugged(bridge: netns.Bridge, one: int, _: int) -> tuple[AbstractContextManager[None], set[int]]:
    return bridge.unplugged(one), {one}


def one_deaf(bridge: netns.Bridge, one: int, _: int) -> tuple[AbstractContextManager[None], set[int]]:
    return bridge.drop(one, incoming=True), {one}


def one_mute(bridge: netns.Bridge, one: int, _: int) -> tuple[AbstractContextManager[None], set[int]]:
    return bridge.drop(one, outgoing=True), {one}


def half(bridge: netns.Bridge, one: int, other: int) -> tuple[AbstractContextManager[None], set[int]]:
    rest = [i for i in range(NODES) if i not in (one, other)]
    return bridge.split([one, other], [*rest, CONTROLLER]), {one, other}


def three_without_controller(bridge: netns.Bridge, one: int, _: int) -> tuple[AbstractContextManager[None], set[int]]:
    rest = [i for i in range(NODES) if i != one]
    return bridge.split(rest, [one, CONTROLLER]), set(range(NODES))


PARTITIONS = (one_unplugged, half, three_without_controller, one_deaf, one_mute)


@pytest.mark.timeout(240)
def test_a_partition_never_has_two_sides_that_train_and_heals_by_itself(
    bridge: netns.Bridge, fleet: Fleet, seed: int
) -> None:
    """The side with the controller and at least half of the members goes on; every other waits, then is let in again.

    Nobody goes on where neither side has both.
    """
    chance = random.Random(seed)
    crew = crew_on(bridge, fleet, {**RUN, "run.nodes": NODES})
    crew.nodes[0].says("epoch=3 ")
    for k in range(3):
        partition = PARTITIONS[(3 * seed + k) % len(PARTITIONS)]
        one, other = chance.sample(range(NODES), 2)
        fault, paused = partition(bridge, one, other)
        print(partition.__name__, one, other)
        waits = [count(node, "no progress") for node in crew.nodes]
        before = {node.name: last_round(node) for node in crew.nodes}
        cuts = {i: crew.cuts(i) for i in paused}
        known = len(crew.changes())
        with fault:
            if len(paused) < NODES:
                for i in paused:
                    crew.until_cut(i, cuts[i])
                crew.until_progress(crew.others(*paused), epochs=4)
            else:
                for node, before_it in zip(crew.nodes, waits, strict=True):
                    says_again(node, "no progress", before_it)
            for i in paused:  # what was begun before may have ended, and no more
                name = f"node-{i}"
                assert last_round(crew.nodes[i]) <= before[name] + WINDOW + 2 * EPOCH
        crew.until_all_train(timeout_s=90)
        assert (len(crew.changes()) > known) == (len(paused) < NODES)
    crew.stop(spawn=partial(bridge.spawn, CONTROLLER))


# --- bad links --------------------------------------------------------------------------------------


def weights(model: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """What is in a model file; the order of its metadata is not its writer's to choose."""
    with safe_open(model, "numpy") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.timeout(240)
def test_packet_loss_changes_no_bit_of_the_models(
    bridge: netns.Bridge, fleet: Fleet, tmp_path: Path, seed: int
) -> None:
    settings = {
        **RUN,
        "run.cluster": f"loss-{uuid.uuid4().hex[:10]}",  # in the model files, so the same in both runs
        "run.evict_after_s": 60.0,
        "run.rounds": 30,
        "run.seed": seed,
        "topology.every": "5r",
    }
    with Fleet(tmp_path / "lossless") as lossless:
        Crew(lossless, lossless.configure(settings)).ended()
    crew = crew_on(bridge, fleet, settings)
    with bridge.lose(0, 0.1), bridge.lose(2, 0.1):  # at one end, or both, of every edge
        crew.ended(timeout_s=200)
    for node in crew.nodes:
        with_losses, without = (f.state(node.name) / "model.safetensors" for f in (fleet, lossless))
        assert weights(with_losses) == weights(without)
    assert crew.changes() == {}


@pytest.mark.timeout(120)
def test_a_slow_link_makes_the_run_slow_and_nothing_else(bridge: netns.Bridge, fleet: Fleet, seed: int) -> None:
    crew = crew_on(bridge, fleet, {**RUN, "run.nodes": 2, "run.rounds": 50, "run.seed": seed})
    with bridge.limit(seed % 2, 256_000):  # before anyone has loaded what it needs to begin
        crew.ended()
    assert crew.changes() == {}


@pytest.mark.timeout(180)
def test_connections_that_go_silent_are_made_anew(bridge: netns.Bridge, fleet: Fleet, seed: int) -> None:
    """As when a router forgets them: new ones pass, and only time tells that the old ones are dead."""
    graphs = ("a", "b", "c") if seed % 2 else ("a",)  # a connection that idles is found out later than one in use
    crew = crew_on(bridge, fleet, {**RUN, "run.evict_after_s": 60.0, "topology.graphs": graphs})
    crew.nodes[0].says("epoch=3 ")
    with bridge.sever(random.Random(seed).randrange(3)):
        crew.until_progress(crew.nodes, epochs=4)
    crew.until_progress(crew.nodes)
    assert crew.changes() == {}
    crew.stop(spawn=partial(bridge.spawn, CONTROLLER))
