"""The masks of processes: they cancel, look like noise, and hide one message each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode import factory
from edgenode.config.load import load
from edgenode.core.algorithm.compression import CHUNK, Ints, Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.core.protocol.plan.record import Member
from edgenode.errors import LocalProtocolError, SecurityError
from edgenode.node.mask_key import MaskKey

NAMES = ("a", "b", "c", "d")
SPEC = factory.algorithm_spec(
    load(None, {"run.nodes": 4, "topology.graphs": "complete", "algorithm.name": "masked-diloco"}, environ={})
)


def members(keys: dict[str, MaskKey]) -> list[Member]:
    return [Member(name, mask_key=key.public) for name, key in keys.items()]


def masks(keys: dict[str, MaskKey], t: int, size: int, modulus: int) -> list[Ints]:
    """The masks of all nodes."""
    public = {name: key.public for name, key in keys.items()}
    return [key.masks(name, public)(t, size, modulus) for name, key in keys.items()]


def new_keys(names: tuple[str, ...] = NAMES) -> dict[str, MaskKey]:
    return {name: MaskKey() for name in names}


@given(st.integers(3, 9), st.sampled_from([15, 255]), st.integers(0, 1 << 53), st.sampled_from([1, 9, CHUNK + 1]))
def test_masks_of_all_nodes_add_up_to_0(nodes: int, modulus: int, t: int, size: int) -> None:
    """In whatever order their names are."""
    keys = new_keys(tuple(f"node-{i}" for i in range(nodes, 0, -1)))
    drawn = masks(keys, t, size, modulus)
    assert all((mask >= 0).all() and (mask < modulus).all() for mask in drawn)
    assert not (np.sum(drawn, axis=0) % modulus).any()


def is_noise(numbers: Ints, modulus: int) -> bool:
    """Return whether all values are about equally frequent: chi-square within 6 deviations of its mean."""
    counts, expected = np.bincount(numbers % modulus, minlength=modulus), len(numbers) / modulus
    chi = float(((counts - expected) ** 2 / expected).sum())
    return abs(chi - (modulus - 1)) < 6 * (2 * (modulus - 1)) ** 0.5


@pytest.mark.parametrize("modulus", [15, 255])
def test_each_mask_is_noise_and_so_is_its_difference_to_any_other(modulus: int) -> None:
    """Of other nodes, of another exchange, and of the same exchange among the processes that resume."""
    keys = new_keys()
    drawn = [mask for t in (0, 1) for mask in masks(keys, t, 50_000, modulus)]
    drawn += masks(new_keys(), 0, 50_000, modulus)
    for i, mask in enumerate(drawn):
        assert is_noise(mask, modulus)
        assert all(is_noise(mask - other, modulus) for other in drawn[:i])


def test_node_lacks_the_mask_of_a_pair_that_it_is_not_in() -> None:
    """What c and d know of a's mask, without the secret of a and b, leaves noise."""
    keys = new_keys()
    public = {name: key.public for name, key in keys.items()}
    of_a = keys["a"].masks("a", public)(0, 50_000, 255)
    known = sum(keys[name].masks(name, {n: public[n] for n in ("a", name)})(0, 50_000, 255) for name in ("c", "d"))
    assert is_noise(of_a + known, 255)


def test_mask_hides_one_message_only() -> None:
    keys = new_keys()
    draw = keys["a"].masks("a", {name: key.public for name, key in keys.items()})
    draw(5, 3, 255)
    for t in (5, 4):
        with pytest.raises(LocalProtocolError, match=f"exchange {t} after 5: a mask hides one message only"):
            draw(t, 3, 255)
    draw(6, 3, 255)


def test_process_takes_part_once_under_a_plan_and_another_plan_gives_no_second_mask() -> None:
    keys = new_keys()
    for _ in range(2):
        draw = keys["a"].masks("a", {name: key.public for name, key in {**keys, "d": MaskKey()}.items()})
    draw(3, 3, 255)
    with pytest.raises(LocalProtocolError, match="a mask hides one message only"):
        keys["a"].masks("a", {name: key.public for name, key in keys.items()})(3, 3, 255)


@pytest.mark.parametrize("wrong", ["00" * 32, "ab", "", "no hex", "01" + "00" * 31])
def test_key_of_another_node_that_is_none_is_refused(wrong: str) -> None:
    """Keys of low order included: with one, everybody would know the secret."""
    keys = new_keys()
    plan = [replace(member, mask_key=wrong) if member.node == "c" else member for member in members(keys)]
    with pytest.raises(SecurityError, match="the plan has no valid key for the masks of c: "):
        keys["a"].hide(SPEC, "a", plan)


def test_plan_with_another_key_for_this_node_is_refused() -> None:
    keys = new_keys()
    plan = [replace(member, mask_key=MaskKey().public) if member.node == "a" else member for member in members(keys)]
    with pytest.raises(SecurityError, match="the plan has another key for the masks of a than that of its process"):
        keys["a"].hide(SPEC, "a", plan)


@pytest.mark.parametrize("nodes", [2, 127])
def test_plan_in_which_the_sum_hides_nobody_is_refused(nodes: int) -> None:
    """Whatever the controller says."""
    keys = new_keys(tuple(f"node-{i}" for i in range(nodes)))
    with pytest.raises(SecurityError, match=f"the plan has {nodes} members: masked messages need 3 to 126"):
        keys["node-0"].hide(SPEC, "node-0", members(keys))


@pytest.mark.parametrize("nodes", [3, 5])
def test_learners_exchange_bytes_that_are_noise_and_end_with_one_model(nodes: int) -> None:
    """Through the codec, as daemons do."""
    layout, names = Layout((20_000, 7)), tuple(f"node-{i}" for i in range(nodes))
    keys, model = new_keys(names), np.linspace(-1, 1, 20_007, dtype=np.float32)
    learners = {}
    for name, key in keys.items():
        spec = key.hide(SPEC, name, members(keys))
        learners[name] = VectorLearner(spec, layout, spec.initial(model), 0, name)
    for t in range(3):
        pushed = {}
        for i, (name, learner) in enumerate(learners.items()):
            step = np.random.default_rng([t, i]).normal(scale=0.02, size=layout.size).astype(np.float32)
            pushed[name] = learner.compress_update(t, LocalUpdate(step, is_difference=True))
            codes = learner.own_push.payload.values.codes.astype(np.int64)
            assert is_noise(codes, 255)
            assert abs(np.corrcoef(codes, step)[0, 1]) < 0.04
        for name, learner in learners.items():
            others = [learner.read(t, 1 / nodes, u, data) for other, (data, u) in pushed.items() if other != name]
            learner.mix_round(1 / nodes, others)
        assert len({learner.model().tobytes() for learner in learners.values()}) == 1
    assert not np.array_equal(learners["node-0"].model(), model)
