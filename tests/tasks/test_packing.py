"""State dicts as named arrays, without pickle."""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import numpy as tensors
from torch import nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.packing import pack, unpack

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
KEYS = st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text(max_size=3))
STATES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=2).map(OrderedDict)
    ),
    max_leaves=12,
)


def through_a_file(state: object) -> Any:
    return unpack("state", tensors.load(tensors.save(pack("state", state))))


def same(a: Any, b: Any) -> bool:
    """Equal in type and to the bit. NaN equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.untyped_storage().tolist() == b.untyped_storage().tolist()
        )
    if isinstance(a, np.ndarray | np.generic):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@given(STATES)
def test_what_is_packed_comes_back_equal_in_type(state: object) -> None:
    assert same(through_a_file(state), state)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool,
     torch.uint8, torch.complex64],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_tensors_of_every_format_come_back_to_the_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape).to(dtype)
    assert same(through_a_file({"a": tensor, "b": [tensor]}), {"a": tensor, "b": [tensor]})


def test_views_are_packed_as_they_look() -> None:
    grid = torch.arange(6).view(2, 3)
    assert through_a_file(grid.T).tolist() == grid.T.tolist()


def test_generator_states_and_numpy_values_come_back() -> None:
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "generator": np.random.default_rng(0).bit_generator.state,
        "scalar": np.float64(0.1),
    }
    assert same(through_a_file(state), state)


def test_names_that_collide_are_kept_apart() -> None:
    state = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}, "": torch.full((1,), 2.0)}
    assert same(through_a_file(state), state)
    assert len(pack("state", state)) == 4


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.AdamW(p, amsgrad=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)]
)
def test_optimiser_and_schedule_continue_to_the_bit(make: Any) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, t: int) -> None:
        optimizer.zero_grad()
        model(torch.full((1, 3), float(t))).sum().backward()
        optimizer.step()
        schedule.step()

    def parts() -> tuple[Any, Any, Any]:
        torch.manual_seed(0)
        model = nn.Linear(3, 3)
        optimizer = make(model.parameters())
        return model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 4])

    one, two = parts(), parts()
    for t in range(3):
        step(*one, t)
    for ours, theirs in zip(two, one, strict=True):
        ours.load_state_dict(through_a_file(theirs.state_dict()))
    for t in range(3, 6):
        step(*one, t)
        step(*two, t)
    assert same(two[0].state_dict(), one[0].state_dict())
    assert isinstance(two[2].milestones, Counter)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"a": [len]}, r"state\.a\.0 cannot be kept in a checkpoint: builtin_function_or_method is not a tensor"),
        ({"a": np.array([None])}, r"state\.a cannot be kept in a checkpoint: an array of object does not hold numbers"),
        (
            {"a": torch.eye(2).to_sparse()},
            r"state\.a cannot be kept in a checkpoint: a tensor in torch\.sparse_coo is not dense",
        ),
    ],
)
def test_code_and_objects_are_refused_with_their_place(state: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        pack("state", state)


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", '{"tensor": "none", "dtype": "float32"}', '{"tensor": "t", "dtype": "load"}', '{"dict": [1]}',
     '{"dict": [[[1], 2]]}', '{"eval": [1]}', '{"bytes": "*"}', "[" * 100_000, '{"tensor": "t", "dtype": "int64"}'],
)  # fmt: skip
def test_damaged_text_is_refused(text: str) -> None:
    arrays = {"state.json": np.frombuffer(text.encode(), np.uint8), "t": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match="'state' cannot be restored"):
        unpack("state", arrays)


def test_absent_state_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'state' cannot be restored: the checkpoint does not have it"):
        unpack("state", {})


def test_packed_state_does_not_change_with_the_original() -> None:
    weight, array = torch.ones(2), np.ones(2)
    arrays = pack("s", {"w": weight, "a": array})
    weight.zero_()
    array[:] = 0
    assert same(unpack("s", arrays), {"w": torch.ones(2), "a": np.ones(2)})


def test_names_begin_with_that_of_the_state() -> None:
    for state in ({"json": torch.ones(1)}, torch.ones(1), 3):
        arrays = pack("optimizer", state)
        assert all(name == "optimizer" or name.startswith("optimizer.") for name in arrays)
        assert same(unpack("optimizer", arrays), state)
