"""The simulator of disasters itself: it is deterministic, reaches every kind of fault, and finds nothing any more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest

from tests.simulation import crash_matrix, faults
from tests.simulation.campaign import play, trials

# Each of these found something: a cut that undid an earlier one of its name, a second cut of the same process, a run
# founded beside another, an offer for a newcomer that had gone, two histories in one resume, a pause without end, ...
_FOUND_SOMETHING = (
    1628, 1731, 1766, 2028, 2414, 2443, 2745, 2751, 2847, 2910, 3201, 3514, 3867, 5073, 5280, 11387, 14862, 16226,
    21215, 22364, 25164, 25526, 32686, 67096, 91085, 96565, 98711, 100092,
)  # fmt: skip


@pytest.mark.timeout(400)
def test_no_disaster_loses_a_unit_of_mass_or_stops_a_majority() -> None:
    happened, failed = Counter[str](), []
    for trial in trials(faults.network, [*range(2000), *(s for s in _FOUND_SOMETHING if s >= 2000)]):
        happened += trial.happened
        failed += [trial] if trial.error else []
    assert not failed
    assert [kind for kind in faults.KINDS if not happened[kind]] == []


@pytest.mark.timeout(120)
def test_the_same_seed_is_the_same_run() -> None:
    assert [trial.error for trial in trials(faults.network, range(100), twice=True) if trial.error] == []


def test_a_quarter_of_the_runs_exchange_one_block_after_another_and_members_come_and_go_there_too() -> None:
    """To the last unit of every block: that is what `books` weighs."""
    happened, seeds = Counter[str](), 0
    for seed in range(200):
        network = faults.network(seed)
        if next(iter(network.learners.values())).blocks > 1:
            happened += play(network).happened
            seeds += 1
    assert seeds > 20
    for kind in ("cut", "joined", "leave", "duplicated", "lost", "evict", "kill"):
        assert happened[kind], kind


@pytest.mark.timeout(120)
def test_a_run_does_not_depend_on_the_hash_seed() -> None:
    command = [sys.executable, "-m", "tests.simulation.faults", "--seeds", "0..20"]
    runs = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": h}, capture_output=True, check=True).stdout
        for h in ("1", "2")
    ]
    assert b"20 seeds, 0 violations, transcripts " in runs[0]
    assert runs[0] == runs[1]


@pytest.mark.timeout(120)
def test_whenever_the_power_fails_for_all_the_run_goes_on_from_what_was_safe() -> None:
    played = list(trials(partial(faults.network, power_fails=True), range(200)))
    assert [trial for trial in played if trial.error] == []
    resumed = sum(trial.happened["resumed after all were down"] > 0 for trial in played)
    assert resumed > 150, "the power failed before there was anything to resume"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", crash_matrix.RUNS)
def test_anybody_may_die_between_any_two_actions(run: str) -> None:
    cases = list(crash_matrix.crashes(run, nodes=3, count=1))
    assert len(cases) > 300
    assert [trial for trial in trials(crash_matrix.network, cases) if trial.error] == []


@pytest.mark.parametrize("run", ["quiet", "pause"])
def test_nor_does_it_matter_that_the_others_are_done(run: str) -> None:
    """In so short a run many die in its last rounds: only who comes back then is turned away."""
    cases = list(crash_matrix.crashes(run, nodes=3, count=1, rounds=4))
    assert [trial for trial in trials(crash_matrix.network, cases) if trial.error] == []
