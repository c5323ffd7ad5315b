"""As many steps as fit the time of the slowest node, from its own measurements alone."""

from __future__ import annotations

import pytest

from edgenode.tasks.local_steps import MEASURED, PERIOD, StepsThatFit


def play(steps_s: list[float], network_s: float, rounds: int) -> list[list[int]]:
    """The steps of each node in each round, where all wait for the slowest, and for the network."""
    policies = [StepsThatFit() for _ in steps_s]
    taken = []
    for t in range(rounds):
        counts = [policy.of(t) for policy in policies]
        busy = [count * step for count, step in zip(counts, steps_s, strict=True)]
        for policy, count, step, mine in zip(policies, counts, steps_s, busy, strict=True):
            policy.observe(t, step if count else 0.0, max(busy) - mine + network_s)
        taken.append(counts)
    return taken


def test_fast_nodes_fill_the_time_of_the_slowest() -> None:
    taken = play([0.4, 0.1, 0.1, 0.2], network_s=0.01, rounds=PERIOD)
    assert taken[:MEASURED] == [[1, 1, 1, 1]] * MEASURED
    assert taken[MEASURED:] == [[1, 4, 4, 2]] * (PERIOD - MEASURED)


@pytest.mark.parametrize("network_s", [0.0, 0.05, 0.5])
def test_waiting_for_the_network_does_not_make_rounds_ever_longer(network_s: float) -> None:
    taken = play([0.1, 0.1, 0.1, 0.1], network_s, rounds=5 * PERIOD)
    longest = max(0.1 * max(counts) + network_s for counts in taken)
    assert longest <= 2 * (0.1 + network_s)
    assert taken[PERIOD - 1] == taken[5 * PERIOD - 1]


def test_a_node_that_slows_down_takes_fewer_steps_later() -> None:
    policy = StepsThatFit()
    for t in range(MEASURED):
        policy.observe(t, 0.1, 0.35)
    assert policy.of(PERIOD - 1) == 4
    for t in range(PERIOD, PERIOD + MEASURED):
        assert policy.of(t) == 1
        policy.observe(t, 0.3, 0.15)
    assert policy.of(PERIOD + MEASURED) == 1


def test_one_long_wait_does_not_count() -> None:
    policy = StepsThatFit()
    for t in range(MEASURED):
        policy.observe(t, 0.1, 5.0 if t == 7 else 0.0)
    assert policy.of(MEASURED) == 1
