"""The user's model, optimiser and loop as the trainer of a node.

A round begins with `hand_over`, which loads z into the model. Then the user's loop trains, and `count` notes each of
its steps. `train` reads what came out. All of it happens in the user's thread.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from edgenode.core.algorithm.compression import Floats
from edgenode.core.algorithm.trained_model import LazyModel
from edgenode.core.topology.period import DataSize
from edgenode.core.wording import counted
from edgenode.errors import CheckpointError, Diverged, in_words
from edgenode.evaluation import NOT_TESTED, Evaluation, Evaluations, number
from edgenode.mesh import random_state
from edgenode.mesh.misuse import OptimiserWatch
from edgenode.mesh.passes import Passes
from edgenode.node.workload import ModelSize
from edgenode.tasks.flat_params import FlatParameters
from edgenode.tasks.packing import pack, unpack
from edgenode.tasks.plain_names import class_name, plain_state_dict
from edgenode.tasks.shared_part import Shared
from edgenode.tasks.trainer import BUFFER_PREFIX, LocalStep

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()

Arrays = dict[str, NDArray[Any]]
Measured = float | Mapping[str, float]
"""What a test of the user returns."""
OnRound = Callable[[int, dict[str, float]], object]
"""Takes the number of a round that was trained, and what to log."""

_SCHEDULE, _OBJECT, _POSITION, _EXTRA = "schedule", "object", "position", "extra"
_KEPT = re.compile(rf"({_OBJECT}|{_SCHEDULE})\.\d+\.json")


class Stateful(Protocol):
    """An object that checkpoints keep: an optimiser, a schedule, a gradient scaler, another model."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class MeshTrainer:
    """The trainer of a node whose loop is the user's.

    Args:
        passes: the loader of the loop.
        local_steps: steps of a round.
        extra: the user's own state, for checkpoints.
        test: returns what tests the model as it is, or None.
        shared: the parts of the model that all nodes share. None is all of it.
        on_round: called after the steps of each round.

    Attributes:
        round: the round that the user trains for.
        rounds_per_epoch: rounds of one epoch of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        kept: Sequence[Stateful],
        passes: Passes[Any],
        local_steps: int,
        extra: dict[str, Any],
        test: Callable[[], Callable[[], Measured] | None],
        shared: Shared = None,
        on_round: OnRound | None = None,
    ) -> None:
        self._flat = FlatParameters(model, shared, in_place=True)
        self._kept, self._passes, self._extra, self._test = kept, passes, extra, test
        self._watch = OptimiserWatch(self._flat.trained.values(), kept)
        self._local_steps = local_steps
        self._evaluations, self._tested, self._on_round = Evaluations(), NOT_TESTED, on_round
        self._losses: list[float] = []
        self._steps = 0
        self._read = Event()  # not set while a checkpoint reads the optimisers' state
        self._read.set()
        for optimizer in filter(_changes_in_steps, kept):
            optimizer.register_step_pre_hook(self._before_step)
        self.round = 0
        self.layout, self.size = self._flat.layout, self._flat.size
        self.rounds_per_epoch = 1  # until the run begins

    @property
    def model_size(self) -> ModelSize:
        return ModelSize(self._flat.size, self._flat.own_size, self._flat.most_bytes)

    @property
    def parameter_counts(self) -> tuple[int, int]:
        """The numbers of trained parameters that all nodes share, and that are this node's own."""
        return self._flat.size, self._flat.own_size

    @property
    def samples(self) -> int:
        """Samples of this node, as far as the loader knows them."""
        return self.data_size.samples

    @property
    def data_size(self) -> DataSize:
        """The samples of the loader, or its batches, where it knows them."""
        samples, of_a_batch = self._passes.size
        return DataSize(samples, of_a_batch * self._local_steps)

    @property
    def facts(self) -> dict[str, str]:
        """What must be equal on all nodes."""
        return self._flat.facts()

    @property
    def remedy(self) -> str:
        """The value to lower if training diverges."""
        return "the learning rate of your optimiser"

    def initial(self) -> Floats:
        return self._flat.read()

    # --- a round ------------------------------------------------------------------------------------

    @property
    def staging(self) -> Floats:
        """The vector z [d] that need not be copied."""
        return self._flat.staging

    def hand_over(self, t: int, z: LazyModel) -> None:
        """Begin round t: load z [d] into the model. The user may change it from then on, so no checkpoint reads it."""
        self._flat.load(z.read(self.staging))
        if self._flat.in_place:
            self._read.wait()
        self.round, self._steps, self._losses = t, 0, []

    def count(self, loss: Tensor | float | None) -> bool:
        """Note one step of the user. Return whether it was the last of the round.

        Raises:
            EdgenodeError: the loss is not one number.
        """
        if loss is not None and self._passes.noisy is None:  # it could tell of a sample
            self._losses.append(number(loss, "mesh.step: loss"))
        self._steps += 1
        self._watch.end_step()
        return self._steps >= self._local_steps

    def _before_step(self, *_: object) -> None:
        """Let a checkpoint read the state of the optimiser that is about to step."""
        self._read.wait()

    def go_on(self) -> None:
        """No checkpoint reads the state any more: the node that began one has ended."""
        self._read.set()

    def train_until(self, t: int) -> None:
        """The user's schedule is the user's."""

    def train(self, t: int, z: Floats) -> LocalStep:
        """Return the result of the user's steps on z, which `hand_over` has loaded."""
        loss = sum(self._losses) / len(self._losses) if self._losses else None
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}")
        self._read.wait()
        vector, is_difference = self._flat.after_steps()
        if not _is_finite(vector):
            raise Diverged("a parameter is NaN or infinite")
        if self._on_round is not None:
            self._on_round(t, {**({} if loss is None else {"loss": loss}), **self._tested.to_log()})
        return LocalStep(vector, loss, is_difference)

    # --- evaluation ---------------------------------------------------------------------------------

    def evaluate(self, z: Floats) -> Evaluation:
        """Return what the user's function measures of z [d], in evaluation mode and without gradients.

        It may draw random numbers, which has no effect on the training.

        Raises:
            EdgenodeError: it is not what an evaluation can be.
        """
        if (test := self._test()) is None:
            return NOT_TESTED
        self._flat.load(z)
        with _evaluating(self._flat.model), torch.no_grad(), random_state.preserved(self._passes.generators):
            name = getattr(test, "__name__", "the function")
            self._tested = self._evaluations.read(test(), f"mesh.evaluate: {name}")
        if (noisy := self._passes.noisy) is not None:
            self._tested = self._tested.with_metric("epsilon", noisy.budget.epsilon)
        return self._tested

    @property
    def tests_alike(self) -> bool:
        """Return whether the test of this node decides, as a part of the model is for its data alone."""
        return self._flat.own_size > 0

    def untrained(self) -> None:
        """A program that resumes makes another model."""

    def loss(self, z: Floats) -> float | None:
        accuracy = self.evaluate(z).accuracy
        return None if accuracy is None else 1.0 - accuracy

    def measure_statistics(self, z: Floats) -> None:
        """The user's batches are unknown here, so the statistics stay those of this node's own models."""
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self._flat.model.modules()):
            log.warning(
                "BatchNorm statistics are those from before the final gossip",
                hint="measure them in the function of mesh.evaluate, or use GroupNorm",
            )

    def named_tensors(self, z: Floats) -> dict[str, Tensor]:
        self._flat.load(z)
        return {name: value.detach().cpu() for name, value in plain_state_dict(self._flat.model).items()}

    @property
    def metadata(self) -> dict[str, str]:
        return {"model": class_name(self._flat.model)}

    # --- checkpoints --------------------------------------------------------------------------------

    def local_state(self, read: Event | None = None) -> Arrays:
        arrays: Arrays = {name: _plain(tensor).cpu().numpy().copy() for name, tensor in self._buffers().items()}
        for name, kept in self._named():
            state = _schedule_state(kept) if isinstance(kept, LRScheduler) else kept.state_dict()
            arrays |= pack(name, state, copy=read is None or not _changes_in_steps(kept))
        arrays |= self._flat.part.own_state()
        self._read = read or self._read
        arrays |= {} if self._passes.noisy is None else self._passes.noisy.state()
        return arrays | pack(_POSITION, self._passes.position()) | pack(_EXTRA, self._extra)

    def load_local_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        buffers = self._buffers()
        theirs = {name for name in state if name.startswith(BUFFER_PREFIX)}
        if unmatched := sorted(buffers.keys() ^ theirs):
            raise CheckpointError(f"local state of another model: {unmatched[0]!r} is on one side only")
        for name, tensor in buffers.items():
            if state[name].shape != tuple(_plain(tensor).shape):
                raise CheckpointError(f"{name!r} has shape {state[name].shape}, not {tuple(_plain(tensor).shape)}")
        self._flat.part.load_own_state(state)
        for name, tensor in buffers.items():
            loaded = torch.from_numpy(np.array(state[name]))
            tensor.copy_(torch.view_as_complex(loaded) if tensor.is_complex() else loaded)
        if self._passes.noisy is not None:
            self._passes.noisy.load_state(state)
        self._refuse_other_counts(state)
        for name, kept in self._named():
            _load(name, kept, unpack(name, state))
        here = pack(_POSITION, self._passes.position())
        if any(not np.array_equal(state.get(name, []), value) for name, value in here.items()):
            self._passes.go_to(unpack(_POSITION, state))
        self._extra.clear()
        self._extra.update(unpack(_EXTRA, state))

    def _refuse_other_counts(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Refuse the state of other kept objects. A sponsor may have schedules that this node does not have."""
        ours = Counter(name.partition(".")[0] for name, _ in self._named())
        theirs = Counter(found[1] for name in state if (found := _KEPT.fullmatch(name)))
        if theirs[_OBJECT] != ours[_OBJECT] or theirs[_SCHEDULE] < ours[_SCHEDULE]:
            given = ", ".join(type(kept).__name__ for kept in self._kept) or "none"
            raise CheckpointError(
                f"the checkpoint has the state of {counted(theirs[_OBJECT], 'object')} and "
                f"{counted(theirs[_SCHEDULE], 'schedule')}, but Mesh was given {ours[_OBJECT]} and {ours[_SCHEDULE]} "
                f"({given}): pass the same ones as before, or start with fresh=True"
            )

    def _buffers(self) -> dict[str, Tensor]:
        """The buffers that belong to the state dict. The others are computed from the model."""
        kept = plain_state_dict(self._flat.model).keys()
        return {BUFFER_PREFIX + name: tensor for name, tensor in self._flat.buffers().items() if name in kept}

    def _named(self) -> Iterable[tuple[str, Stateful]]:
        """Return the kept objects with their names. Schedules come last: they set what the optimisers use."""
        schedules = [kept for kept in self._kept if isinstance(kept, LRScheduler)]
        others = [kept for kept in self._kept if not isinstance(kept, LRScheduler)]
        yield from ((f"{_OBJECT}.{i}", kept) for i, kept in enumerate(others))
        yield from ((f"{_SCHEDULE}.{i}", kept) for i, kept in enumerate(schedules))


@np.errstate(over="ignore")
def _is_finite(vector: Floats) -> bool:
    """Return whether all numbers are. A sum of squares shows it in one pass, unless it is too large itself."""
    return math.isfinite(np.dot(vector, vector)) or bool(np.isfinite(vector).all())


def _changes_in_steps(kept: object) -> TypeGuard[Optimizer]:
    """Return whether tensors of an object's state change in its step only, before which it calls a hook."""
    return isinstance(kept, Optimizer) and type(kept).__module__.startswith("torch.optim.")


def _schedule_state(schedule: LRScheduler) -> dict[str, Any]:
    """A schedule, and what it has set in its optimiser: a newcomer takes over both."""
    groups = [{k: v for k, v in group.items() if k != "params"} for group in schedule.optimizer.param_groups]
    return {"schedule": schedule.state_dict(), "groups": groups}


def _load(name: str, kept: Stateful, state: Any) -> None:
    try:
        if not isinstance(kept, LRScheduler):
            kept.load_state_dict(state)
            if isinstance(kept, Optimizer) and any(kept.defaults.keys() - group.keys() for group in kept.param_groups):
                raise ValueError("it is another optimiser")
            return
        if state.keys() != {"schedule", "groups"} or state["schedule"].keys() != kept.state_dict().keys():
            raise ValueError("it is another schedule")
        kept.load_state_dict(state["schedule"])
        for group, theirs in zip(kept.optimizer.param_groups, state["groups"], strict=True):
            group.update({key: theirs[key] for key in group if key != "params"})
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as exc:
        raise CheckpointError(f"the state of {type(kept).__name__} ({name}) does not fit: {in_words(exc)}") from exc


def _plain(tensor: Tensor) -> Tensor:
    """The tensor in a format that numpy and safetensors have."""
    if tensor.is_complex():
        return torch.view_as_real(tensor.detach())
    if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float64):
        return tensor.detach().float()
    return tensor.detach()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode in the body. Afterwards every module has the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
