"""The linear-algebra attack on numbers that the test makes up: exact where it must be, blind where nothing comes."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode_lab.privacy import gossip

NODES, ROUNDS, SIZE = 6, 10, 40


def ring(nodes: int = NODES) -> np.ndarray:
    """Each node keeps a half, and pushes a half to the next."""
    return (np.eye(nodes) + np.roll(np.eye(nodes), 1, axis=0)) / 2


def messages(steps: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """What the nodes send, round by round, [rounds, nodes, size]."""
    x, sent = np.zeros(steps.shape[1:]), []
    for step in steps:
        x = x + step
        sent.append(x)
        x = matrix @ x
    return np.array(sent)


def test_coefficients_are_those_of_the_messages() -> None:
    steps = np.random.default_rng(0).normal(size=(ROUNDS, NODES, SIZE))
    parts = gossip.coefficients([ring()] * ROUNDS)
    assert np.allclose(np.einsum("tnsk,skd->tnd", parts, steps), messages(steps, ring()))


@pytest.mark.parametrize("attacker", [0, 3])
def test_numbers_that_are_only_mixed_are_found_at_all_nodes(attacker: int) -> None:
    """Gossip without training: the attacker has one in-neighbour, and five other nodes have no secret."""
    steps = np.zeros((ROUNDS, NODES, SIZE))
    steps[0] = np.random.default_rng(1).normal(size=(NODES, SIZE))
    parts = gossip.coefficients([ring()] * ROUNDS)[:, attacker - 1, :1]
    own = parts[:, 0, attacker, None] * steps[0, attacker]
    parts[:, :, attacker] = 0
    found = gossip.first_steps(parts, messages(steps, ring())[:, attacker - 1] - own, 0.0, 1e-12)
    others = np.arange(NODES) != attacker
    assert np.allclose(found[others], steps[0, others], atol=1e-3)
    assert not found[attacker].any()  # it is known, and not asked for


def similarity(drift: float) -> np.ndarray:
    """Of the estimated and the true first steps of nodes 5 to 1, which are 1 to 5 pushes away: the cosine."""
    random = np.random.default_rng(2)
    walk = random.normal(size=(ROUNDS, NODES, SIZE))
    walk[1:] *= np.sqrt(drift)
    steps = walk.cumsum(axis=0)
    parts = gossip.coefficients([ring()] * ROUNDS)[:, -1]
    parts[:, :, 0], steps[:, 0] = 0, 0
    found = gossip.first_steps(parts, messages(steps, ring())[:, -1], drift, 1e-12)
    true = steps[0]
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(true, axis=1)
    return ((found * true).sum(axis=1)[1:] / lengths[1:])[::-1]


def test_steps_that_resemble_each_other_are_found_across_nodes() -> None:
    assert (similarity(1e-8) > 0.99).all()


def test_steps_that_differ_are_found_at_the_in_neighbour_alone() -> None:
    found = similarity(1.0)
    assert found[0] > 0.999 and found[1] < 0.9 and found[4] < 0.5


def test_nodes_that_nothing_comes_from_are_not_guessed() -> None:
    """Node 0 hears node 1, and node 2 pushes to nobody."""
    matrix = np.array([[1, 0.5, 0], [0, 0.5, 0], [0, 0, 1.0]])
    steps = np.ones((ROUNDS, 3, SIZE))
    parts = gossip.coefficients([matrix] * ROUNDS)[:, 1]
    found = gossip.first_steps(parts, messages(steps, matrix)[:, 1], 1e-6, 1e-12)
    assert np.allclose(found[1], 1) and not found[2].any()


def test_drift_and_error_are_measured_in_lengths_of_steps() -> None:
    steps = 3 * np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert gossip.own_drift(steps) == pytest.approx(1.0)  # 2 and 0, for steps of length 1
    models = np.zeros_like(steps)
    assert gossip.own_error(models, models + np.array([0.3, 0.0]), steps) == pytest.approx(0.01)
    assert 0 < gossip.own_error(models + 3, models + 3, steps) < 1e-12
