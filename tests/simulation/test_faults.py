"""The simulator of disasters: it is deterministic, causes every kind of fault, and finds no violation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from tests.simulation import crash_matrix, faults
from tests.simulation.campaign import Trial, trials
from tests.simulation.cluster_sim import ClusterSim
from tests.simulation.exchange_runs import build_run_with_exchanges

# Each of these seeds once found a defect: an eviction that undid an earlier one of its name, a second eviction of one
# process, a run created next to another, an offer for a newcomer that had exited, two histories in one resume, a pause
# without end, a verdict of this simulator, ...
_FOUND_DEFECTS = (
    1628, 1731, 1766, 2028, 2414, 2443, 2597, 2745, 2751, 2847, 2910, 3201, 3514, 3867, 5073, 5280, 11387, 14862, 16226,
    21215, 22364, 25164, 25526, 32686, 57065, 59502, 67096, 81014, 86444, 91085, 96565, 98711, 100092,
    17437, 209582, 220319, 306665, 70824, 361682, 389277, 401648,
)  # fmt: skip


def quick_and_rest(quick: int, last: int) -> pytest.MarkDecorator:
    """The first seeds in `make test`, and the rest, up to the last, in `make test-slow`."""
    marks = [pytest.mark.slow, pytest.mark.timeout(900)]
    rest = pytest.param(range(quick, last), marks=marks, id=f"{quick}..{last}")
    return pytest.mark.parametrize("seeds", [pytest.param(range(quick), id=f"0..{quick}"), rest])


def play_all(
    make: Callable[[Any], ClusterSim], of: Iterable[Any], twice: bool = False, digests: bool = False
) -> list[Trial[Any]]:
    """Play these runs in this process, and assert that none fails."""
    played = list(trials(make, list(of), twice, jobs=1, digests=digests))
    assert [trial for trial in played if trial.error] == []
    return played


def happened(played: Iterable[Trial[Any]]) -> Counter[str]:
    return sum((trial.happened for trial in played), Counter[str]())


first_seeds = pytest.mark.group("first seeds")


@pytest.fixture(scope="module")
def quick() -> list[Trial[int]]:
    """The first seeds, played once for all tests."""
    return play_all(faults.build_run, range(60), digests=True)


@first_seeds
def test_no_disaster_loses_mass_or_stops_a_majority(quick: list[Trial[int]]) -> None:
    kinds = set(faults.KINDS) - {"torn checkpoint rejected", "stop"}  # which take more seeds
    assert [kind for kind in kinds if not happened(quick)[kind]] == []


@pytest.mark.slow
@first_seeds
def test_equal_seeds_give_equal_runs(quick: list[Trial[int]]) -> None:
    again = play_all(faults.build_run, range(10), digests=True)
    assert [trial.digest for trial in again] == [trial.digest for trial in quick[:10]]


@first_seeds
def test_rolling_exchange_keeps_its_mass_in_every_disaster(quick: list[Trial[int]]) -> None:
    """A quarter of the runs have several blocks. `mass_accounting` checks the sum of every block."""
    learners = (next(iter(faults.build_run(trial.of).learners.values())) for trial in quick)
    rolling = [trial for trial, learner in zip(quick, learners, strict=True) if learner.blocks > 1]
    assert len(rolling) > 10
    for kind in ("evicted", "joined", "leave", "duplicated", "lost", "evict", "kill"):
        assert happened(rolling)[kind], kind


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_neither_do_the_disasters_of_all_seeds() -> None:
    played = play_all(faults.build_run, [*range(60, 300), *_FOUND_DEFECTS])
    assert [kind for kind in faults.KINDS if not happened(played)[kind]] == []


@pytest.mark.slow
@quick_and_rest(25, 300)
def test_neither_does_one_with_an_overlap(seeds: range) -> None:
    kinds = happened(play_all(partial(faults.build_run, overlaps=True), seeds))
    for kind in ("evicted", "joined", "leave", "controller crashed", "pause", "power cut", "lost", "duplicated"):
        assert kinds[kind], kind


@quick_and_rest(10, 300)
def test_fixed_members_come_back_and_none_is_evicted(seeds: range) -> None:
    kinds = happened(play_all(faults.build_run_with_fixed_members, seeds))
    for kind in ("restarted with another member", "resumed after all were down", "let go", "no answer expected"):
        assert kinds[kind], kind
    assert not (kinds["evicted"] or kinds["joined"] or kinds["leave"] or kinds["evict"])


@quick_and_rest(14, 150)
def test_exchanges_go_on_as_members_die_for_good_and_others_join(seeds: range) -> None:
    """In seed 78, one that the others resumed without brings what it had not sent before."""
    kinds = happened(play_all(build_run_with_exchanges, [*seeds, 78]))
    for kind in (
        "exchange",
        "first exchange without a member",
        "give up",
        "silent member given up",
        "losestate",
        "restarted with another member",
        "joined",
        "copy refused",
        "restarted before its first round",
        "came back with what it had not sent",
    ):
        assert kinds[kind], kind
    assert not (kinds["evicted"] or kinds["leave"])


def test_fixed_members_that_ended_and_are_needed_are_started_again() -> None:
    kinds = happened(play_all(faults.build_run_with_fixed_members, range(501092, 501093)))
    assert kinds["exited after its end"] and kinds["started again after its end"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fixed_members_train_on_over_blocked_links() -> None:
    kinds = happened(play_all(partial(faults.build_run_with_fixed_members, links=True), range(50)))
    for kind in ("link blocked", "push relayed", "restarted with another member", "let go"):
        assert kinds[kind], kind
    assert not (kinds["evicted"] or kinds["link left out"])


@pytest.mark.slow
@quick_and_rest(12, 200)
def test_neither_does_a_blocked_link(seeds: range) -> None:
    """In seed 2022725, a controller resumes a run, and with its disk has lost a record that left out a link."""
    kinds = happened(play_all(partial(faults.build_run, links=True), [*seeds, 2022725]))
    for kind in ("link blocked", "push relayed", "link left out", "link taken back"):
        assert kinds[kind], kind


@pytest.mark.slow
@quick_and_rest(8, 100)
def test_after_power_cuts_a_run_with_an_overlap_resumes(seeds: range) -> None:
    played = play_all(partial(faults.build_run, power_fails=True, overlaps=True), seeds)
    assert sum(trial.happened["resumed after all were down"] > 0 for trial in played) > 0.75 * len(seeds)


@pytest.mark.slow
@quick_and_rest(12, 100)
def test_after_power_cuts_the_run_resumes_from_safe_checkpoints(seeds: range) -> None:
    played = play_all(partial(faults.build_run, power_fails=True), seeds)
    resumed = sum(trial.happened["resumed after all were down"] > 0 for trial in played)
    assert resumed > 0.75 * len(seeds), "the power failed before there was a run to resume"


@quick_and_rest(10, 300)
def test_members_that_lie_harm_no_other(seeds: range) -> None:
    """In seed 200667, one that lied about an evicted node has to take back what it does not keep any more."""
    kinds = happened(play_all(faults.build_run_with_liars, [*seeds, 200667]))
    assert kinds["refused a lie"] > kinds["lie"] / 4 > 50


@pytest.mark.parametrize("overlaps", [False, True], ids=["in lock-step", "after an overlap"])
@quick_and_rest(15, 150)
def test_who_ends_a_last_phase_with_deaths_has_the_average(seeds: range, overlaps: bool) -> None:
    kinds = happened(play_all(partial(faults.build_run_with_last_phase, overlaps=overlaps), seeds))
    for kind in ("last phase", "evicted", "leave refused", "power cut", "restarted after its eviction"):
        assert kinds[kind] > len(seeds) / 100, kind


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_controller_that_lost_its_disk_splits_no_run() -> None:
    seeds = [seed for seed in range(2000, 4000) if faults.build_run(seed).scenario.controller_loses_disk]
    kinds = happened(play_all(faults.build_run, seeds))
    assert kinds["controller lost its disk"] == len(seeds) > 180


@pytest.mark.slow
def test_more_equal_seeds_give_equal_runs() -> None:
    play_all(faults.build_run, range(10, 55), twice=True)


@pytest.mark.slow
def test_runs_do_not_depend_on_the_hash_seed() -> None:
    command = [sys.executable, "-m", "tests.simulation.faults", "--seeds", "0..20", "--jobs", "1"]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": h}, capture_output=True, check=True).stdout
        for h in ("1", "2")
    ]
    assert b"20 seeds, 0 violations, transcripts " in runs[0]
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("run", crash_matrix.RUNS)
def test_any_process_may_die_between_any_two_actions(run: str) -> None:
    cases = list(crash_matrix.crashes(run, nodes=3, count=1))
    assert len(cases) > 300
    play_all(crash_matrix.build_run, cases)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("run", ["quiet", "pause", "allreduce"])
def test_any_process_may_die_when_the_others_have_finished(run: str, every: int) -> None:
    """In so short a run many processes die in the last rounds. Those that come back then are refused."""
    play_all(crash_matrix.build_run, list(crash_matrix.crashes(run, nodes=3, count=1, rounds=4))[::every])


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_fixed_members_that_have_ended_return_for_one_that_dies(every: int) -> None:
    cases = list(crash_matrix.crashes(crash_matrix.FIXED, nodes=3, count=1, rounds=4))[::every]
    played = play_all(crash_matrix.build_run, cases)
    assert happened(played)["restarted after its end"]
    for trial in played:
        let_go = trial.happened["let go"]
        # A controller that crashes in between does not know that the first ones have gone. A daemon stays five minutes.
        assert let_go == 3 or (let_go and trial.happened["controller crashed"]), trial.of
