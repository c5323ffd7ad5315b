"""State dicts survive a checkpoint, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import numpy as tensors
from torch import nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.packing import pack, unpack


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999), "params": [0, 1]}]},
        {"a": torch.arange(6).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(True)},
        {"tensor": "not a tensor", 1: None, "nested": [(), [], {"x": float("inf")}]},
        (np.arange(3, dtype=np.uint32), "MT19937", 1 << 70),
    ],
)
def test_packed_state_is_restored_with_its_types(state: object) -> None:
    arrays = tensors.load(tensors.save(pack("optimizer", state)))  # as in a checkpoint
    assert all(name.startswith("optimizer.") or name == "optimizer" for name in arrays)
    assert same(unpack("optimizer", arrays), state)


def test_packed_state_does_not_change_with_the_original() -> None:
    weight = torch.ones(2)
    arrays = pack("s", {"w": weight})
    weight.zero_()
    assert torch.equal(unpack("s", arrays)["w"], torch.ones(2))


def test_restored_optimiser_steps_as_the_original() -> None:
    def made() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        parameter = nn.Parameter(torch.ones(4))
        return parameter, torch.optim.AdamW([parameter], lr=0.1)

    def step(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        parameter.grad = parameter.detach().sin()
        optimizer.step()

    one, first = made()
    for _ in range(3):
        step(one, first)
    other, second = made()
    other.data.copy_(one.data)
    second.load_state_dict(unpack("o", pack("o", first.state_dict())))
    for _ in range(3):
        step(one, first)
        step(other, second)
    assert torch.equal(one, other)


def test_objects_that_need_pickle_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.lr_lambdas\.0 cannot be kept in a checkpoint: function"):
        pack("schedule", {"lr_lambdas": [lambda t: t]})


def test_absent_or_torn_state_is_a_checkpoint_error() -> None:
    arrays = pack("optimizer", {"w": torch.ones(2)})
    with pytest.raises(CheckpointError, match="'schedule' cannot be restored"):
        unpack("schedule", arrays)
    del arrays["optimizer.w"]
    with pytest.raises(CheckpointError, match="'optimizer' cannot be restored"):
        unpack("optimizer", arrays)
