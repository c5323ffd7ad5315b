"""Masked exchanges: the masks cancel to the bit, hide each message, and need every member."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.config.load import load
from edgenode.errors import ConfigError, LocalProtocolError
from edgenode.extensions import QUANTISE, Compressor, Contribution, GraphError, Layout, Sent, State, keep_all
from edgenode.simulate.simulation import Simulation
from edgenode_lab.algorithms.masked import MASKED, MaskedSum, PairwiseMasks
from tests.simulate.test_simulation import interrupted, models

NAMES = ("a", "b", "c", "d")
LAYOUT = Layout((3000, 7))
COMPRESSOR = Compressor(keep_all, QUANTISE["int8"])
RNG = np.random.default_rng(0)
OF_A_RUN = {
    "run.nodes": 4, "run.rounds": 2, "task.local_steps": 2, "topology.graphs": ["complete"],
    "algorithm.name": "edgenode_lab.algorithms.masked:DEFINITION",
}  # fmt: skip


def all_masks(run: str = "run") -> dict[str, PairwiseMasks]:
    own = {name: ec.generate_private_key(ec.SECP256R1()) for name in NAMES}
    public = {name: key.public_key() for name, key in own.items()}
    return {name: PairwiseMasks(name, own[name], public, run) for name in NAMES}


def started(change: np.ndarray) -> State:
    """A node after local steps that changed the common model by ``change``."""
    state = State.initial(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32), list(MASKED.keeps))
    state.kept["start"][:] = state.x
    state.kept["change"][:] = change
    return state


def exchange(changes: np.ndarray, bits: int, masked: bool) -> tuple[list[State], list[Sent]]:
    """One exchange of four nodes."""
    masks = all_masks()
    sums = [MaskedSum(len(NAMES), bits, masks[name] if masked else None) for name in NAMES]
    states = [started(change) for change in changes]
    sent = [
        Sent(own.compress(state, COMPRESSOR, LAYOUT, RNG), np.ones(1), 0.7)
        for own, state in zip(sums, states, strict=True)
    ]
    for i, own in enumerate(sums):
        others = [Contribution(0.25, np.ones(1), message.payload) for j, message in enumerate(sent) if j != i]
        own.mix(states[i], sent[i], 0.25, others)
    return states, sent


def changes(scale: float = 0.02) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=scale, size=(len(NAMES), LAYOUT.size)).astype(np.float32)


@pytest.mark.parametrize("modulus", [15, 255])
def test_masks_of_all_nodes_cancel_and_are_new_in_each_exchange(modulus: int) -> None:
    masks = all_masks()
    first, second = ([mask(t, 20_000, modulus) for mask in masks.values()] for t in (0, 1))
    assert not (np.sum(first, axis=0) % modulus).any()
    assert not np.array_equal(first[0], second[0])
    assert np.bincount(first[0], minlength=modulus).min() > 0
    assert np.array_equal(masks["a"](0, 20_000, modulus), first[0])


def test_another_run_has_other_masks() -> None:
    own = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    public = {"a": own[0].public_key(), "b": own[1].public_key()}
    one, other = (PairwiseMasks("a", own[0], public, run)(0, 100, 255) for run in ("one", "other"))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("bits", [4, 8])
def test_sum_is_that_without_masks_to_the_bit(bits: int) -> None:
    with_masks, without = (exchange(changes(), bits, masked)[0] for masked in (True, False))
    for hidden, plain in zip(with_masks, without, strict=True):
        assert np.array_equal(hidden.x, plain.x)
        assert np.array_equal(hidden.kept["rest"], plain.kept["rest"])
        assert np.array_equal(hidden.x, with_masks[0].x)


@pytest.mark.parametrize("scale", [0.001, 0.02, 3.0])
def test_what_is_applied_and_what_is_kept_are_all_changes(scale: float) -> None:
    """Also of changes that are far beyond the levels."""
    states, _ = exchange(changes(scale), 8, masked=True)
    applied = states[0].kept["change"]
    kept = np.mean([state.kept["rest"] for state in states], axis=0)
    assert applied + kept == pytest.approx(changes(scale).mean(axis=0), abs=1e-5 * scale)


@pytest.mark.parametrize("bits", [4, 8])
def test_message_says_nothing_of_the_change(bits: int) -> None:
    """The same change gives other codes each time. They are as frequent, and as like the change, as random ones."""
    change = changes()
    first, second = (exchange(change, bits, masked=True)[1][0].payload.values.codes for _ in range(2))
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first, change[0])[0, 1]) < 0.1
    plain = exchange(change, bits, masked=False)[1][0].payload.values.codes
    assert np.corrcoef(plain, change[0])[0, 1] > 0.7


def test_exchange_without_a_member_is_refused() -> None:
    own, state = MaskedSum(4, 8, None), started(changes()[0])
    sent = Sent(own.compress(state, COMPRESSOR, LAYOUT, RNG), np.ones(1), 0.7)
    with pytest.raises(LocalProtocolError, match="1 messages of 4 nodes: the masks do not cancel"):
        own.mix(state, sent, 0.25, ())


def test_tensor_that_stood_still_can_move() -> None:
    """Its last average is zero, and that of the other tensor is not."""
    own, state = MaskedSum(4, 8, None), started(changes()[0])
    state.kept["last"][: LAYOUT.sizes[0]] = 0.01
    payload = own.compress(state, COMPRESSOR, LAYOUT, RNG)
    assert (payload.values.scales > 0).all()  # type: ignore[operator]
    assert payload.values.codes[LAYOUT.sizes[0] :].any()


def test_wrong_settings_are_refused() -> None:
    for settings, reason in (
        ({"algorithm.values": "fitted2"}, 'algorithm.values "int8" or "int4"'),
        ({"run.nodes": 2}, "a run has 3 to 127 nodes, not 2"),
        ({"run.nodes": 8, "algorithm.values": "int4"}, "a run has 3 to 7 nodes, not 8"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Simulation(load(None, {**OF_A_RUN, **settings}, environ={}))
    with pytest.raises((ConfigError, GraphError), match="use complete"):
        Simulation(load(None, {**OF_A_RUN, "topology.graphs": ["halving"]}, environ={}))


@pytest.mark.slow
def test_simulation_with_masks_has_the_same_bits_and_resumes(tmp_path: Path) -> None:
    """A resumed simulation has other keys."""
    plain = load(None, {**OF_A_RUN, "algorithm.options": {"masks": False}}, environ={})
    Simulation(plain, tmp_path / "plain").run()
    hidden = load(None, {**OF_A_RUN, "run.checkpoint_every": 1}, environ={})
    interrupted(Simulation(hidden, tmp_path / "hidden"), at=1)
    Simulation(hidden, tmp_path / "hidden").run()
    assert models(tmp_path / "plain") == models(tmp_path / "hidden")
