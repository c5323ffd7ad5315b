"""Processes that die, stand still, come back and leave while the others train on."""

from __future__ import annotations

import random
import re
import signal
import time
from typing import Any

import pytest

from tests.chaos.crew import AGREEING, LEARNT, RUN, Crew, count, mean_accuracy, says_again, sum_u
from tests.e2e.fleet import Fleet, Process

NODES = 3
ONE_POINT = 0.01


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The mean accuracy of a run with this configuration to which nothing happens."""
    with Fleet(tmp_path_factory.mktemp("undisturbed")) as fleet:
        crew = Crew(fleet, fleet.configure(AGREEING))
        crew.until_round(LEARNT)
        return mean_accuracy(crew.stop())


def assert_as_good_as(undisturbed: float, results: list[dict[str, Any]]) -> None:
    print("accuracy", mean_accuracy(results), "undisturbed", undisturbed)
    assert mean_accuracy(results) > undisturbed - ONE_POINT


@pytest.mark.timeout(150)
def test_killed_nodes_come_back_as_newcomers_and_the_run_ends_as_well_as_undisturbed(
    fleet: Fleet, undisturbed: float, seed: int
) -> None:
    chance = random.Random(seed)
    print(f"seed {seed}")
    # Only a new process proves that the old one is dead: so all wait for it, and few rounds pass meanwhile.
    crew = Crew(fleet, fleet.configure({**AGREEING, "run.evict_after_s": 60.0}))
    crew.nodes[0].says("epoch=3 ")
    for _ in range(5):
        victim = chance.randrange(NODES)
        before = crew.cuts(victim)
        crew.nodes[victim].kill()
        time.sleep(chance.choice((0, 0, chance.uniform(0, 2.5))))  # the chaos itself, and not a wait
        crew.restart(victim).says("run begins", timeout_s=60)
        crew.until_cut(victim, before)
        crew.until_all_train()
    crew.until_round(LEARNT)
    assert_as_good_as(undisturbed, crew.stop())


@pytest.mark.timeout(150)
def test_zombies_are_fenced_and_rejoin_as_newcomers(fleet: Fleet, undisturbed: float, seed: int) -> None:
    chance = random.Random(seed)
    crew = Crew(fleet, fleet.configure(AGREEING))
    crew.nodes[0].says("epoch=3 ")
    for _ in range(2):
        victim = chance.randrange(NODES)
        zombie, before = crew.nodes[victim], crew.cuts(victim)
        returns, begins = count(zombie, "coming back as a newcomer"), count(zombie, "run begins")
        zombie.popen.send_signal(signal.SIGSTOP)
        crew.until_cut(victim, before)
        crew.until_progress(crew.others(victim))
        zombie.popen.send_signal(signal.SIGCONT)
        says_again(zombie, "coming back as a newcomer", returns)
        says_again(zombie, "run begins", begins)
        crew.until_all_train()
    crew.until_round(LEARNT)
    assert_as_good_as(undisturbed, crew.stop())


@pytest.mark.timeout(150)
def test_a_killed_controller_costs_no_round_and_goes_on_where_it_was(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    crew = Crew(fleet, fleet.configure(RUN))
    crew.nodes[0].says("epoch=3 ")
    for term in (1, 2):
        crew.controller.kill()
        time.sleep(chance.uniform(0, 0.5))  # the chaos itself, and not a wait
        crew.until_progress(crew.nodes, epochs=4)
        crew.start_controller().says(f"resuming the run .*term={term}")
        for node in crew.nodes:
            crew.controller.says(f"node joined .*node={node.name}")
        change = fleet.command("topology", "set", chance.choice("bc"), "--cluster", fleet.cluster)
        promise = re.search(r"at round (\d+) at every node", change.stdout)
        assert promise, change.stdout
        for node in crew.nodes:
            node.says(f"plan changes +at_round={promise[1]} ")
    crew.stop()


@pytest.mark.timeout(90)
def test_sigterm_hands_over_and_the_ring_closes(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    crew = Crew(fleet, fleet.configure(RUN))
    leaver = chance.randrange(NODES)
    crew.nodes[leaver].says(f"epoch={chance.randrange(2, 8)} ")
    crew.nodes[leaver].popen.terminate()
    crew.nodes[leaver].ended(0)
    crew.others(leaver)[0].says(rf"plan changes .*leaving=\['node-{leaver}'\]")
    crew.until_progress(crew.others(leaver), epochs=2)
    assert sum_u(crew.stop(leaver)) == pytest.approx(NODES)  # what the leaver had is with the others


@pytest.mark.timeout(90)
def test_two_that_die_together_are_both_cut_out(fleet: Fleet) -> None:
    """In the ring 0 -> 1 -> 2 -> 3 -> 4 nobody alive waits for node 0: only the fence around node 1 does."""
    crew = Crew(fleet, fleet.configure({**RUN, "run.nodes": 5, "topology.graphs": ["a"]}))
    crew.nodes[0].says("epoch=3 ")
    crew.nodes[0].kill()
    crew.nodes[1].kill()
    crew.until_cut(0, 0)
    crew.until_cut(1, 0)
    crew.until_progress(crew.others(0, 1), epochs=2)


@pytest.mark.timeout(90)
def test_less_than_half_wait_until_an_operator_who_knows_better_forces_it(fleet: Fleet) -> None:
    crew = Crew(fleet, fleet.configure(RUN))
    crew.nodes[0].says("epoch=3 ")
    for dead in (1, 2):
        crew.nodes[dead].kill()
    crew.controller.says("eviction rejected .*: without it 1 of 3 members would be left")
    crew.nodes[0].says("no progress")

    def evict(*words: str, code: int = 0) -> Process:
        return fleet.command("evict", *words, "--cluster", fleet.cluster, code=code)

    fenced = crew.controller.says(r"fencing .*without=\['node-(\d)'\]")
    other = "12".replace(fenced[1], "")  # whose promise the fence waits for
    assert f"node-{other} stays: without it 1 of 3 members would be left" in evict(f"node-{other}", code=2).stderr
    evict(f"node-{other}", "--force")
    for dead in (1, 2):
        crew.until_cut(dead, 0)
    crew.until_progress([crew.nodes[0]], epochs=2)
