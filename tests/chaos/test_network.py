"""Partitions, packet loss, slow links and silent connections: five hosts on a bridge, the controller on the last."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.chaos.live_run import EPOCH, RUN, WINDOW, LiveRun, count, last_round, logs_again
from tests.e2e import netns
from tests.e2e.fleet import Fleet, Process

NODES, CONTROLLER = 4, 4  # hosts; without a partition, three nodes are enough
_WHY_NOT = netns.cannot_disturb()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))]


@pytest.fixture
def bridge() -> Iterator[netns.Bridge]:
    with netns.Bridge(NODES + 1) as bridge:
        yield bridge


def run_on(bridge: netns.Bridge, fleet: Fleet, settings: dict[str, object]) -> LiveRun:
    """Start every process on its own host."""

    def node(i: int, *arguments: str) -> Process:
        return fleet.node(f"node-{i}", *arguments, listen=None, spawn=partial(bridge.spawn, i))

    controller = partial(fleet.controller, listen=None, spawn=partial(bridge.spawn, CONTROLLER))
    return LiveRun(fleet, fleet.configure(settings), node, controller)


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


@pytest.mark.timeout(600)
def test_partition_trains_on_one_side_at_most_and_heals(bridge: netns.Bridge, fleet: Fleet, seed: int) -> None:
    """The side with the controller and at least half of the members continues. The other waits, and rejoins afterwards.

    If neither side has both, all nodes wait.
    """
    chance = random.Random(seed)
    run = run_on(bridge, fleet, {**RUN, "run.nodes": NODES})
    run.nodes[0].logs("epoch=3 ")
    for k in range(3):
        partition = PARTITIONS[(3 * seed + k) % len(PARTITIONS)]
        one, other = chance.sample(range(NODES), 2)
        fault, paused = partition(bridge, one, other)
        print(partition.__name__, one, other)
        waits = [count(node, "no progress") for node in run.nodes]
        before = {node.name: last_round(node) for node in run.nodes}
        evictions, known = [run.evictions(i) for i in range(NODES)], run.changes()
        with fault:
            if len(paused) < NODES:
                for i in paused:
                    run.until_evicted(i, evictions[i])
                run.until_progress(run.others(*paused), epochs=4)
            else:
                for node, before_it in zip(run.nodes, waits, strict=True):
                    logs_again(node, "no progress", before_it)
            for i in paused:  # rounds that had begun may have ended, but no others
                name = f"node-{i}"
                assert last_round(run.nodes[i]) <= before[name] + WINDOW + 2 * EPOCH
        run.until_all_train()
        # A link that is found broken as the partition heals may change the graph, but never the members.
        evicted = {i for i in range(NODES) if run.evictions(i) > evictions[i]}
        if len(paused) < NODES:
            assert evicted == paused
        else:
            assert evicted == set()
            assert all(change.nodes == NODES for number, change in run.changes().items() if number not in known)
    run.stop(spawn=partial(bridge.spawn, CONTROLLER))


# --- bad links --------------------------------------------------------------------------------------


def weights(model: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return metadata and tensors of a model file, whose writer does not choose the order of the metadata."""
    with safe_open(model, "numpy") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def test_packet_loss_changes_no_bit_of_the_models(
    bridge: netns.Bridge, fleet: Fleet, tmp_path: Path, seed: int
) -> None:
    settings = {
        **RUN,
        "run.cluster": f"loss-{uuid.uuid4().hex[:10]}",  # is in the model files, so both runs share it
        "run.evict_after_s": 60.0,
        "run.rounds": 30,
        "run.seed": seed,
        "topology.every": "5r",
    }
    with Fleet(tmp_path / "lossless") as lossless:
        LiveRun(lossless, lossless.configure(settings)).complete()
    run = run_on(bridge, fleet, settings)
    with bridge.lose(0, 0.1), bridge.lose(2, 0.1):  # at one end, or both, of every edge
        run.complete()
    for node in run.nodes:
        with_losses, without = (f.state(node.name) / "model.safetensors" for f in (fleet, lossless))
        assert weights(with_losses) == weights(without)
    assert run.changes() == {}


def test_slow_link_only_slows_the_run(bridge: netns.Bridge, fleet: Fleet, seed: int) -> None:
    run = run_on(bridge, fleet, {**RUN, "run.nodes": 2, "run.rounds": 50, "run.seed": seed})
    with bridge.limit(seed % 2, 256_000):  # before the nodes have started
        run.complete()
    assert run.changes() == {}


def test_silent_connections_are_replaced(bridge: netns.Bridge, fleet: Fleet, seed: int) -> None:
    """As when a router forgets its connections: new ones work, and only timeouts reveal that the old ones are dead."""
    graphs = ("a", "b", "c") if seed % 2 else ("a",)  # an idle connection takes longer to time out
    run = run_on(bridge, fleet, {**RUN, "run.evict_after_s": 60.0, "topology.graphs": graphs})
    run.nodes[0].logs("epoch=3 ")
    with bridge.sever(random.Random(seed).randrange(3)):
        run.until_progress(run.nodes, epochs=4)
    run.until_progress(run.nodes)
    assert run.changes() == {}
    run.stop(spawn=partial(bridge.spawn, CONTROLLER))
