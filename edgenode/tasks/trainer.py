"""The local steps of one node: a vector before a round's steps in, the vector after them out.

A round is a pure function of (task, settings, seed, shard, round, z, local state): samples, augmentation and dropout
are drawn from (seed, shard, batch) only. A run therefore resumes bit-identically from its round number and
`local_state`. The optimiser's state and BatchNorm statistics stay here, and are never part of the vector.

A trainer is not thread-safe: evaluation loads the same buffer, and a step borrows the global random generators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgenode.errors import CheckpointError, Diverged
from edgenode.evaluation import NOT_TESTED, Evaluation, Evaluations
from edgenode.tasks.averaged_buffers import AveragedBuffers
from edgenode.tasks.batch_statistics import cumulative_statistics
from edgenode.tasks.batches import Batches, all_batches
from edgenode.tasks.devices import channels_last, deterministic, find_device, precision
from edgenode.tasks.flat_params import FlatModel, FlatParameters, Vector
from edgenode.tasks.growth import PREFIX as GROWTH_PREFIX
from edgenode.tasks.growth import Growth
from edgenode.tasks.local_data import LocalData
from edgenode.tasks.local_steps import STEPS, MeasuredSteps, Steps
from edgenode.tasks.logit_adjustment import LogitAdjustment
from edgenode.tasks.noisy_steps import PREFIX as PRIVACY_PREFIX
from edgenode.tasks.noisy_steps import Privacy, coarse
from edgenode.tasks.optimizers import build_descent
from edgenode.tasks.plain_names import class_name, plain_state_dict
from edgenode.tasks.private_steps import PrivateSteps
from edgenode.tasks.seeding import Stream, seeded, torch_seed
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.shared_part import OWN_PREFIX
from edgenode.tasks.task import Batch, NodeInfo, RunLength, Task, new_model

STATISTICS_BATCHES = 50

BUFFER_PREFIX = "buffer."
_ANY_NODE = NodeInfo("")


@dataclass(frozen=True, slots=True)
class LocalStep:
    """The result of a round's steps.

    Attributes:
        vector: the parameters after the steps, float32 [size]. It may be the trainer's own, so it is read before the
            next call.
        loss: mean over the steps, if known.
        is_difference: `vector` is the parameters after the steps minus those before.
    """

    vector: Vector
    loss: float | None
    is_difference: bool = False


class TaskTrainer:
    """One node's model, data and optimiser.

    Args:
        run: its length, from which learning rates follow.
        seed: the seed of the run. All nodes with one seed start from the same model.
        node: the node that the model's own part is for.
        privacy: makes the steps differentially private.

    Attributes:
        remedy: the key to lower if training diverges.
        tests_alike: its test decides. All nodes test with the same data, or a part of the model is for its data alone.

    Raises:
        ConfigError: the task cannot be trained.
    """

    def __init__(
        self,
        task: Task,
        data: LocalData,
        settings: TrainSettings,
        run: RunLength,
        *,
        seed: int,
        device: str = "cpu",
        node: NodeInfo = _ANY_NODE,
        privacy: Privacy | None = None,
    ) -> None:
        self._task, self._data, self._settings, self._run, self._node = task, data, settings, run, node
        self._seed, self._shard, self._device = seed, data.shard, find_device(device)
        self._layers = precision(settings.precision, self._device)
        self.batches = Batches(
            data.train, data.indices, settings.batch_size, task.collate,
            seed=seed, shard=data.shard, device=self._device,
        )  # fmt: skip
        # Samples that are added during a run would change the chance of each sample to be in a step.
        self._growth = Growth(data if privacy is None else replace(data, own=False), self.batches)
        self._adjustment = LogitAdjustment(data.train, self.batches) if settings.loss == "balanced" else None
        self._flat = self._fresh_model()
        self._descent = build_descent(task, self._flat, settings, run)
        self.remedy = self._descent.remedy
        self._read = Event()  # not set while a checkpoint reads what a step changes
        self._read.set()
        count = settings.local_steps
        self._steps = MeasuredSteps() if count == "auto" else Steps(count)
        self._evaluations = Evaluations()
        self._private = (
            None
            if privacy is None
            else PrivateSteps(self._flat, privacy, settings, len(self.batches), run.rounds, seed=(seed, data.shard))
        )
        self._averaged = AveragedBuffers(self._flat if settings.buffers == "average" else None)
        self.size = self._flat.size + self._averaged.size
        self.layout = (*self._flat.layout, *self._averaged.layout)
        self.rounds_per_epoch = run.rounds_per_epoch
        self.parameter_counts = self._flat.size, self._flat.own_size
        self.tests_alike = data.test is not None and (not data.own or self._flat.own_size > 0)

    @property
    def staging(self) -> Vector | None:
        """The vector z [size] that `train` need not copy. None if z has more than the parameters: averaged buffers."""
        return None if self._averaged.size else self._flat.staging

    @property
    def samples(self) -> int:
        """The number of training samples of this node at its first round, to a power of two if it is private."""
        return self._growth.samples if self._private is None else coarse(self._growth.samples)

    @property
    def metadata(self) -> dict[str, str]:
        """The description of the model for a reader of its tensors."""
        return {"model": class_name(self._flat.model), **self._task.metadata()}

    def _fresh_model(self) -> FlatParameters:
        with seeded(torch_seed(self._seed, Stream.INITIAL)):
            model = new_model(self._task, self._node)
        model = model.to(self._device)
        if self._settings.memory_format == "channels_last":
            model.register_forward_pre_hook(channels_last)
        shared = self._settings.shared or None
        if any(parameter.dtype != torch.float32 for parameter in model.parameters() if parameter.requires_grad):
            return FlatParameters(model, shared)
        return FlatModel(model, self._device, shared)

    def initial(self) -> Vector:
        """Return the vector that every node starts from: a function of the seed and the model.

        It builds the model again: on a small device that is cheaper than to keep a second copy of the weights.
        """
        fresh = self._fresh_model()
        return np.concatenate([fresh.read(), self._averaged.read(fresh)]) if self._averaged.size else fresh.read()

    untrained = initial

    # one round -----------------------------------------------------------------------------------------

    def train_until(self, t: int) -> None:
        """Let training end before round t. Learning rates that depend on it follow from the next round on."""
        self._run = replace(self._run, rounds=t)
        self._descent.run = self._run

    def train(self, t: int, z: Vector) -> LocalStep:
        """Take the steps of round t from `z` [size] (Algorithm 1, lines 2-4), which may be overwritten.

        Raises Diverged if a loss is not finite.
        """
        self._load(z)
        self._descent.begin_round(t)
        losses = [self._step(step) for step in self._steps.begin_round(t)]
        self._descent.end_round()
        self._steps.end_round()
        vector, is_difference = self._flat.after_steps()
        if self._averaged.size:
            vector, is_difference = self._with_buffers(t, z, vector, is_difference), True
        loss = None if self._private else sum(losses) / len(losses)  # a private node's would tell of samples
        return LocalStep(vector, loss, is_difference)

    def _load(self, z: Vector) -> None:
        self._flat.load(z[: self._flat.size] if self._averaged.size else z)

    def _with_buffers(self, t: int, z: Vector, parameters: Vector, is_difference: bool) -> Vector:
        """Turn z into what the steps changed in the parameters and the averaged buffers, in place."""
        head, tail = z[: self._flat.size], z[self._flat.size :]
        head[:] = parameters if is_difference else parameters - head
        # Once is enough: the gossip that follows the last local step averages whole vectors.
        last = t == self._run.rounds - 1
        tail[:] = self._averaged.read(self._flat) - tail if last else 0
        return z

    def _step(self, step: int) -> float:
        """Take one step, and return its mean loss, or 0 if the node is private."""
        if self._private is not None:
            return self._private_step(self._private, step)
        count = self._settings.accumulate
        self._flat.clear_gradients()
        losses = [self._differentiate(number) for number in range(step * count, (step + 1) * count)]
        loss = sum(losses) / count
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}")
        self._descend()
        return loss

    def _descend(self) -> None:
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._flat.model.parameters(), self._settings.clip_norm)
        self._read.wait()
        self._descent.step()

    def _private_step(self, private: PrivateSteps, step: int) -> float:
        if (chosen := private.begin_step(step)) is not None:
            with self._drawing(step):
                private.differentiate(chosen, lambda places: self._loss(self.batches.at(places)))
            self._descend()
        return 0.0

    def _differentiate(self, number: int) -> float:
        """Add the gradient of a batch to the step's gradients, and return its loss."""
        count = self._settings.accumulate
        self._growth.begin_batch(number)
        with self._drawing(number):
            loss = self._loss(self.batches.batch(number))
            (loss if count == 1 else loss / count).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        model = self._flat.model
        with self._layers, nullcontext() if self._adjustment is None else self._adjustment.applied(model):
            return self._task.loss(model, batch)

    @contextmanager
    def _drawing(self, number: int) -> Iterator[None]:
        """Seed all random generators for a batch."""
        value = torch_seed(self._seed, Stream.STEP, self._shard, number)
        with seeded(value, self._device, torch_alone=self._task.draws_from_torch_alone), deterministic(self._device):
            yield

    # evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, z: Vector) -> Evaluation:
        """Return what the task measures of the model `z` [size] with its test data. Changes no local state.

        Raises EdgenodeError if it is not what an evaluation can be.
        """
        found = self._measure(z, self._test_batches())
        return found if self._private is None else found.with_metric("epsilon", self._private.budget.epsilon)

    def _test_batches(self) -> Iterable[Batch]:
        test = self._data.test
        return [] if test is None else all_batches(test, self._growth.tested, self._task.collate, self._device)

    def accuracy_on(self, other: TaskTrainer, z: Vector) -> float | None:
        """Return the measure of the model `z` [size], with this node's buffers, on a sample of another's data."""
        return self._measure(z, [other.batches.sample()]).accuracy

    def _measure(self, z: Vector, batches: Iterable[Batch]) -> Evaluation:
        self._load(z)
        self._flat.model.eval()
        try:
            with torch.inference_mode(), self._layers:
                measured = self._task.evaluate(self._flat.model, batches)
        finally:
            self._flat.model.train()
        source = f"{type(self._task).__name__}.evaluate"
        return NOT_TESTED if measured is None else self._evaluations.read(measured, source)

    def loss(self, z: Vector) -> float | None:
        """Return the share of test samples that `z` [size] gets wrong, or its loss: that of the test if it is the first
        metric, or the mean on a sample of this shard. A private node tells nothing without a test.
        """
        buffers = [(tensor, tensor.clone()) for tensor in self._flat.model.buffers()]
        self.measure_statistics(z)
        tested = self.evaluate(z)
        loss = tested.loss if tested.accuracy is None else 1.0 - tested.accuracy
        if loss is None and self._private is None:
            with torch.no_grad(), self._drawing(0):
                loss = float(self._loss(self.batches.sample()))
        for tensor, before in buffers:
            tensor.copy_(before)
        return loss

    def measure_statistics(self, z: Vector) -> None:
        """Replace the BatchNorm statistics by those of the model `z` [size] on `STATISTICS_BATCHES` of this shard, or
        by the average that is part of `z`.

        The running statistics belong to the models trained here. They do not fit an average with other nodes' models.
        """
        self._load(z)
        if self._averaged.size:
            self._averaged.load(self._flat, z[self._flat.size :])
            return
        with cumulative_statistics(self._flat.model) as any_layers, torch.no_grad():
            first, _ = self.batches.began
            count = min(STATISTICS_BATCHES, self.batches.per_pass) if any_layers else 0
            for number in range(first, first + count):
                with self._drawing(number):
                    self._loss(self.batches.batch(number))

    # checkpoints and export ----------------------------------------------------------------------------

    def local_state(self, read: Event | None = None) -> dict[str, NDArray[Any]]:
        """Return the state outside the vector: the optimiser's, the schedule's, each "buffer.NAME", and the own part.

        The arrays are copies, or those of the optimiser if `read` is given. Its next step then waits for `read`.
        """
        self._read = read or self._read
        return (
            self._descent.state(copy=read is None)
            | self._steps.state()
            | self._growth.state()
            | ({} if self._private is None else self._private.state())
            | {name: t.cpu().numpy().copy() for name, t in self._buffers().items()}
            | self._flat.part.own_state()
        )

    def load_local_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `local_state` returned. Raises CheckpointError if it belongs to another model."""
        buffers = self._buffers()
        saved = {name: value for name, value in state.items() if name.startswith(BUFFER_PREFIX)}
        if unmatched := sorted(buffers.keys() ^ saved.keys()):
            raise CheckpointError(f"local state of another model: {unmatched[0]!r} is on one side only")
        for name, tensor in buffers.items():
            if saved[name].shape != tuple(tensor.shape):
                raise CheckpointError(f"{name!r} has shape {saved[name].shape}, not {tuple(tensor.shape)}")
        self._flat.part.load_own_state(state)
        self._growth.load(state)
        others = (GROWTH_PREFIX, OWN_PREFIX, PRIVACY_PREFIX)
        rest = {name: value for name, value in state.items() if name not in saved and not name.startswith(others)}
        if self._private is not None:
            self._private.load_state(state)
        self._steps.load_state(rest)
        self._descent.load_state({name: value for name, value in rest.items() if name != STEPS})
        for name, tensor in buffers.items():
            tensor.copy_(torch.from_numpy(np.array(saved[name])))

    def _buffers(self) -> dict[str, Tensor]:
        return {BUFFER_PREFIX + name: tensor for name, tensor in self._flat.buffers().items()}

    def named_tensors(self, z: Vector) -> dict[str, Tensor]:
        """Return the state dict of the model `z` [size] with this node's buffers, on the CPU. It is the model's own."""
        self._load(z)
        return {name: value.detach().cpu() for name, value in plain_state_dict(self._flat.model).items()}
