"""The user's model and optimiser as the trainer of a node, without the node."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from edgenode.core.algorithm.partial_sums import PhaseResult
from edgenode.core.algorithm.trained_model import LazyModel
from edgenode.errors import Diverged
from edgenode.mesh.mesh_trainer import MeshTrainer
from edgenode.mesh.passes import Passes
from edgenode.node.average import refusal_of


class OwnSgd(SGD):
    """An optimiser of the user's own, which may change its state at any time."""


def stepped(make: Callable[..., Optimizer]) -> tuple[MeshTrainer, Optimizer, Callable[[], None]]:
    """A trainer, its optimiser, which has taken a step, and what takes the next."""
    model = nn.Linear(3, 2)
    optimizer = make(model.parameters(), lr=0.1)

    def step() -> None:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()

    trainer = MeshTrainer(model, [optimizer], Passes([None]), 1, {}, lambda: None)
    step()
    return trainer, optimizer, step


def moments(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if name.startswith("object.0.state.") and array.size > 1}


def momentum_sgd(*args: object, **named: float) -> Optimizer:
    return OwnSgd(*args, momentum=0.9, **named)  # type: ignore[arg-type]


def test_checkpoint_reads_the_tensors_of_the_optimiser() -> None:
    trainer, optimizer, _ = stepped(Adam)
    addresses = {v.data_ptr() for state in optimizer.state.values() for v in state.values() if v.numel() > 1}
    shared = moments(trainer.local_state(Event()))
    assert len(shared) == 4 and {array.ctypes.data for array in shared.values()} == addresses
    copied = moments(trainer.local_state())
    assert len(copied) == 4 and not {array.ctypes.data for array in copied.values()} & addresses


def test_step_waits_until_the_checkpoint_has_read_the_optimiser() -> None:
    trainer, _, step = stepped(Adam)
    read = Event()
    state = trainer.local_state(read)
    before = {name: array.copy() for name, array in state.items()}
    stepping = Thread(target=step)
    stepping.start()
    stepping.join(0.2)
    assert stepping.is_alive()
    assert all(np.array_equal(state[name], array) for name, array in before.items())
    read.set()
    stepping.join(10)
    assert not stepping.is_alive()
    assert not all(np.array_equal(array, before[name]) for name, array in moments(state).items())


def test_user_trains_when_the_checkpoint_has_read_x() -> None:
    """x lies in the parameters, which a loop may change without an optimiser."""
    trainer, _, _ = stepped(Adam)
    read = Event()
    trainer.local_state(read)
    beginning = Thread(target=lambda: trainer.hand_over(1, LazyModel(lambda out: trainer.staging)))
    beginning.start()
    beginning.join(0.2)
    assert beginning.is_alive()
    read.set()
    beginning.join(10)
    assert not beginning.is_alive()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_parameter_that_is_not_finite_ends_training(number: float) -> None:
    trainer, _, _ = stepped(Adam)
    trainer.staging[1] = 1e30  # its square is too large for a float32, and allowed
    trainer.train(0, trainer.staging)
    trainer.staging[2] = number
    with pytest.raises(Diverged, match="a parameter is NaN or infinite"):
        trainer.train(0, trainer.staging)


def test_average_is_tested_in_the_place_of_the_model() -> None:
    """x lies in the parameters, and stays what it is, whatever a test finds."""
    model = nn.Linear(3, 2)
    tested: list[float] = []

    def test() -> float:
        tested.append(float(model.bias.detach()[1]))
        return 1.0 if len(tested) == 1 else 0.0

    trainer = MeshTrainer(model, [], Passes([None]), 1, {}, lambda: test)
    before, average = trainer.initial(), np.full(8, 5.0, np.float32)
    result = PhaseResult(trainer.staging, average, [], 2)
    assert refusal_of(result, trainer) is not None
    assert tested == [before[-1], 5.0]
    assert np.array_equal(trainer.staging, before) and (average == 5).all()
    assert np.array_equal(trainer.initial(), before)


def test_optimiser_steps_when_the_node_of_a_checkpoint_has_ended() -> None:
    trainer, _, step = stepped(Adam)
    trainer.local_state(Event())  # nobody reads it
    trainer.go_on()
    stepping = Thread(target=step, daemon=True)
    stepping.start()
    stepping.join(10)
    assert not stepping.is_alive()


def test_state_of_an_optimiser_of_ones_own_is_copied() -> None:
    trainer, optimizer, _ = stepped(momentum_sgd)
    addresses = {state["momentum_buffer"].data_ptr() for state in optimizer.state.values()}
    copied = moments(trainer.local_state(Event()))
    assert len(copied) == 2 and not {array.ctypes.data for array in copied.values()} & addresses


def test_update_waits_until_the_checkpoint_has_read_x() -> None:
    """x may lie where the parameters are gathered."""
    trainer, _, _ = stepped(Adam)
    read = Event()
    trainer.local_state(read)
    updating = Thread(target=lambda: trainer.train(0, trainer.staging))
    updating.start()
    updating.join(0.2)
    assert updating.is_alive()
    read.set()
    updating.join(10)
    assert not updating.is_alive()
