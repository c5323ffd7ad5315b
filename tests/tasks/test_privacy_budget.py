"""Epsilon against two libraries, and the law of the budget: it never counts less than was taken."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp
from scipy.integrate import quad

from edgenode.errors import ConfigError
from edgenode.tasks.privacy_budget import ORDERS, Budget, MemoryLedger, Spending, epsilon_of, noise_for

SCHEDULES = [
    [Spending(noise, rate, steps)]
    for noise in (1.0, 1.5, 3.0)
    for rate in (0.001, 0.01, 0.03)
    for steps in (10, 1000)
] + [
    [Spending(1.0, 1.0, 5)],
    [Spending(0.8, 0.01, 100), Spending(1.3, 0.05, 700), Spending(2.0, 1.0, 3)],
]  # fmt: skip
KIND = Spending(1.0, 0.1, 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_epsilon_is_that_of_two_libraries(schedule: list[Spending]) -> None:
    assert len(SCHEDULES) == 20
    opacus, google = RDPAccountant(), RdpAccountant(list(ORDERS))
    for part in schedule:
        opacus.history.append((part.noise, part.rate, part.steps))
        mechanism = dp_accounting.PoissonSampledDpEvent(part.rate, dp_accounting.GaussianDpEvent(part.noise))
        google.compose(dp_accounting.SelfComposedDpEvent(mechanism, part.steps))
    ours = epsilon_of(schedule, 1e-5)
    assert ours == pytest.approx(opacus.get_epsilon(1e-5, alphas=list(ORDERS)), rel=1e-3)
    assert ours == pytest.approx(google.get_epsilon(1e-5), rel=1e-3)


def test_divergence_between_whole_orders_is_exact() -> None:
    """There, dp-accounting has an upper bound only, 1 % higher for these steps. So this integrates the definition."""
    noise, rate, order = 1.5, 0.1, 2.8

    def density(z: float) -> float:
        ratio = 1 - rate + rate * math.exp((2 * z - 1) / (2 * noise**2))
        return math.exp(-(z**2) / (2 * noise**2)) / math.sqrt(2 * math.pi) / noise * ratio**order

    exact = math.log(quad(density, -30, 60, limit=500)[0]) / (order - 1)
    (found,) = compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=[order])
    assert found == pytest.approx(exact, rel=1e-6)


def test_nothing_spent_is_zero() -> None:
    assert epsilon_of([], 1e-5) == epsilon_of([KIND], 1e-5) == 0


@pytest.mark.parametrize("epsilon", [0.5, 3.0, 8.0])
def test_noise_spends_the_budget_and_no_more(epsilon: float) -> None:
    noise = noise_for(epsilon, 1e-5, 0.05, 500)
    assert 0.99 * epsilon < epsilon_of([Spending(noise, 0.05, 500)], 1e-5) <= epsilon


def test_budget_that_no_noise_suffices_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy.epsilon = 1e-06 is too small for 100000 steps"):
        noise_for(1e-6, 1e-5, 1.0, 100_000)


def test_budget_ends_at_its_limit() -> None:
    budget = Budget(MemoryLedger(), 3.0, 1e-5, KIND)
    left = budget.left
    assert sum(budget.take() for _ in range(left + 5)) == left
    assert budget.left == 0
    assert budget.epsilon <= 3.0 < epsilon_of([Spending(1.0, 0.1, left + 1)], 1e-5)


def test_steps_of_another_noise_count_too() -> None:
    ledger = MemoryLedger()
    ledger.write((Spending(0.9, 0.1, 20),))
    assert 0 < Budget(ledger, 6.0, 1e-5, KIND).left < Budget(MemoryLedger(), 6.0, 1e-5, KIND).left


def test_budget_without_a_limit_counts() -> None:
    ledger = MemoryLedger()
    budget = Budget(ledger, None, 1e-5, KIND)
    assert all(budget.take() for _ in range(1000))
    budget.settle()
    assert ledger.read() == (Spending(1.0, 0.1, 1000),)


@given(st.lists(st.sampled_from(["take"] * 6 + ["settle", "crash", "save", "return", "lose"]), max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_end_of_a_process_makes_the_count_less(moments: list[str]) -> None:
    """A crash keeps the ledger, a return to a checkpoint restores its count, and a lost ledger leaves a checkpoint."""
    ledger, taken, saved = MemoryLedger(), 0, (0, (Spending(1.0, 0.1, 0),))
    budget = Budget(ledger, 4.0, 1e-5, KIND)
    for moment in moments:
        match moment:
            case "take":
                taken += budget.take()
            case "settle":
                budget.settle()
                assert sum(part.steps for part in ledger.read()) == sum(part.steps for part in budget.spent())
            case "save":
                saved = taken, budget.spent()
            case "crash":
                budget = Budget(ledger, 4.0, 1e-5, KIND)
            case "return":
                budget = Budget(ledger, 4.0, 1e-5, KIND)
                budget.raise_to(saved[1])
            case "lose":  # the disk with the ledger, and the checkpoint is a copy: what is known is what it knows
                ledger = MemoryLedger()
                budget = Budget(ledger, 4.0, 1e-5, KIND)
                budget.raise_to(saved[1])
                taken = saved[0]
        assert sum(part.steps for part in ledger.read()) >= taken
        assert budget.epsilon <= 4.0
