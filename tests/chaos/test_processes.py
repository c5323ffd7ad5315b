"""Processes that die, pause, return and leave while the others continue to train."""

from __future__ import annotations

import random
import re
import signal
import time
from typing import Any

import pytest

from tests.chaos.live_run import AGREEING, LEARNT, RUN, LiveRun, count, logs_again, mean_accuracy, sum_u
from tests.e2e.fleet import Fleet, Process

NODES = 3
ONE_POINT = 0.01


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The mean accuracy of a run with this configuration and without faults."""
    with Fleet(tmp_path_factory.mktemp("undisturbed")) as fleet:
        run = LiveRun(fleet, fleet.configure(AGREEING))
        run.until_round(LEARNT)
        return mean_accuracy(run.stop())


def assert_as_good_as(undisturbed: float, results: list[dict[str, Any]]) -> None:
    print("accuracy", mean_accuracy(results), "undisturbed", undisturbed)
    assert mean_accuracy(results) > undisturbed - ONE_POINT


@pytest.mark.slow
@pytest.mark.group("undisturbed")
def test_killed_nodes_rejoin_and_cost_no_accuracy(fleet: Fleet, undisturbed: float, seed: int) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    # Only the new process proves that the old one is dead, so all wait for it, and few rounds pass meanwhile.
    run = LiveRun(fleet, fleet.configure({**AGREEING, "run.evict_after_s": 60.0}))
    run.nodes[0].logs("epoch=3 ")
    for _ in range(5):
        victim = chance.randrange(NODES)
        before = run.evictions(victim)
        run.nodes[victim].kill()
        time.sleep(chance.choice((0, 0, chance.uniform(0, 2.5))))  # this pause is the fault, not a wait
        run.restart(victim).logs("run begins")
        run.until_evicted(victim, before)
        run.until_all_train()
    run.until_round(LEARNT)
    assert_as_good_as(undisturbed, run.stop())


@pytest.mark.slow
@pytest.mark.group("undisturbed")
def test_zombies_are_fenced_and_rejoin_as_newcomers(fleet: Fleet, undisturbed: float, seed: int) -> None:
    chance = random.Random(seed)
    run = LiveRun(fleet, fleet.configure(AGREEING))
    run.nodes[0].logs("epoch=3 ")
    for _ in range(2):
        victim = chance.randrange(NODES)
        zombie, before = run.nodes[victim], run.evictions(victim)
        returns, begins = count(zombie, "rejoining as a newcomer"), count(zombie, "run begins")
        zombie.popen.send_signal(signal.SIGSTOP)
        run.until_evicted(victim, before)
        run.until_progress(run.others(victim))
        zombie.popen.send_signal(signal.SIGCONT)
        logs_again(zombie, "rejoining as a newcomer", returns)
        logs_again(zombie, "run begins", begins)
        run.until_all_train()
    run.until_round(LEARNT)
    assert_as_good_as(undisturbed, run.stop())


@pytest.mark.slow
def test_killed_controller_costs_no_round_and_resumes(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    run = LiveRun(fleet, fleet.configure(RUN))
    run.nodes[0].logs("epoch=3 ")
    for term in (1, 2):
        run.controller.kill()
        time.sleep(chance.uniform(0, 0.5))  # this pause is the fault, not a wait
        run.until_progress(run.nodes, epochs=4)
        run.start_controller().logs(f"resuming the run .*term={term}")
        for node in run.nodes:
            run.controller.logs(f"node joined .*node={node.name}")
        change = fleet.command("topology", "set", chance.choice("bc"), "--cluster", fleet.cluster)
        promise = re.search(r"at round (\d+) at every node", change.stdout)
        assert promise, change.stdout
        for node in run.nodes:
            node.logs(f"plan changes +at_round={promise[1]} ")
    run.stop()


@pytest.mark.slow
def test_sigterm_hands_over_and_the_ring_closes(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    run = LiveRun(fleet, fleet.configure(RUN))
    leaver = chance.randrange(NODES)
    run.nodes[leaver].logs(f"epoch={chance.randrange(2, 8)} ")
    run.nodes[leaver].popen.terminate()
    run.nodes[leaver].exits(0)
    run.others(leaver)[0].logs(rf"plan changes .*leaving=\['node-{leaver}'\]")
    run.until_progress(run.others(leaver), epochs=2)
    assert sum_u(run.stop(leaver)) == pytest.approx(NODES)  # the others have the mass of the leaver


@pytest.mark.slow
def test_two_nodes_that_die_together_are_both_evicted(fleet: Fleet) -> None:
    """In the ring 0 -> 1 -> 2 -> 3 -> 4 no live node waits for node 0: only the fence around node 1 does."""
    run = LiveRun(fleet, fleet.configure({**RUN, "run.nodes": 5, "topology.graphs": ["a"]}))
    run.nodes[0].logs("epoch=3 ")
    run.nodes[0].kill()
    run.nodes[1].kill()
    run.until_evicted(0, 0)
    run.until_evicted(1, 0)
    run.until_progress(run.others(0, 1), epochs=2)


@pytest.mark.slow
def test_less_than_half_wait_until_an_operator_forces_it(fleet: Fleet) -> None:
    run = LiveRun(fleet, fleet.configure(RUN))
    run.nodes[0].logs("epoch=3 ")
    for dead in (1, 2):
        run.nodes[dead].kill()
    run.controller.logs("change rejected .*: without it 1 of 3 members would be left")
    run.nodes[0].logs("no progress")

    def evict(*words: str, code: int = 0) -> Process:
        return fleet.command("evict", *words, "--cluster", fleet.cluster, code=code)

    fenced = run.controller.logs(r"fencing .*without=\['node-(\d)'\]")
    other = "12".replace(fenced[1], "")  # the fence waits for its promise
    assert f"node-{other} stays: without it 1 of 3 members would be left" in evict(f"node-{other}", code=2).stderr
    evict(f"node-{other}", "--force")
    for dead in (1, 2):
        run.until_evicted(dead, 0)
    run.until_progress([run.nodes[0]], epochs=2)
