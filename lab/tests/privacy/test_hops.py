"""Attacks across nodes on messages of the simulator: they work where they must, and compressed messages tell less."""

from __future__ import annotations

import numpy as np
import pytest

from edgenode.core.topology.graph import GraphSpec
from edgenode_lab.privacy import cells, gradient_inversion, inversion, shadows, victims
from edgenode_lab.privacy.hops import NODES, HopCell, attack_cell, distances, estimates

MEMBERS = tuple(f"node-{number}" for number in range(NODES))


def cell(*texts: str) -> HopCell:
    return next(cell for cell in cells.HOPS if all(text in cell.name for text in texts))


def found(chosen: HopCell) -> tuple[np.ndarray, np.ndarray]:
    """By the pushes between a node and its attacker: the digits that the first layer identifies, as a share, and the
    mean cosine of the believed and the true step.
    """
    config = chosen.config(0)
    true, believed = estimates(config, shadows.initial_model(config))
    pool, everything = victims.Pool(2 * NODES, NODES, 0.0), victims.all_images()
    (graph,) = GraphSpec(config.topology.graphs[0]).period(MEMBERS)
    hops, owners, members = distances(graph), pool.owners(), pool.members(0)
    shares, cosines = np.zeros((2, hops.max() + 1, 0)).tolist()
    for attacker in range(NODES):
        for node in set(range(NODES)) - {attacker}:
            step, truth = believed[attacker, node], true[node]
            guesses = inversion.directions(victims.tensors(step, everything.shape[1])[0])[:1]
            digits = pool.images[members & (owners == node)]
            shares[hops[node, attacker]].append(inversion.identified(guesses, digits, everything))
            cosines[hops[node, attacker]].append(step @ truth / np.linalg.norm(step) / np.linalg.norm(truth))
    return np.array([np.mean(x) for x in shares[1:]]), np.array([np.mean(x) for x in cosines[1:]])


def test_distances_follow_the_pushes() -> None:
    (ring,) = GraphSpec("a").period(MEMBERS)
    assert distances(ring)[:, 0].tolist() == [0, 5, 4, 3, 2, 1]
    (both,) = GraphSpec("two-way").period(MEMBERS)
    assert distances(both)[:, 0].tolist() == [0, 1, 2, 3, 2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["ring", "two-way ring", "ring with a chord"])
def test_small_steps_on_one_digit_are_found_across_nodes(graph: str) -> None:
    """Whole models, and push-sum weights that differ on the chord."""
    shares, cosines = found(cell(f", {graph}, learning rate 0.001, batch 1"))
    assert shares[0] == 1 and shares[1] > 0.8
    assert cosines[0] > 0.9999 and cosines[1] > 0.98 and cosines.min() > 0.7


@pytest.mark.slow
def test_large_steps_are_found_at_in_neighbours() -> None:
    shares, cosines = found(cell("learning rate 0.1"))
    assert shares[0] == 1 and cosines[0] > 0.9999
    assert shares[2:].max() < 0.5 and cosines[2:].max() < 0.7


@pytest.mark.slow
def test_top_1_percent_hides_the_steps_of_others() -> None:
    shares, cosines = found(cell("top 1 %"))
    assert cosines[0] > 0.3 and np.abs(cosines[1:]).max() < 0.3 and shares[1:].max() < 0.5


@pytest.mark.slow
def test_cell_has_a_result_for_each_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_inversion, "STARTS", 2)
    result = attack_cell(cell("two-way"), 1)
    assert {hops: counts.digits for hops, counts in result.items()} == {1: 12, 2: 12, 3: 6}
    assert result[1].optimised == result[1].analytic == 12 and result[2].optimised >= 11
