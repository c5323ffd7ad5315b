"""The local step of one node: a vector in, the local update of one SGD step out.

A step is a pure function of (settings, seed, shard, round, z, local state): samples, augmentation and dropout are drawn
from (seed, shard, round) alone. A run therefore resumes bit-identically from its round number and `local_state`.
Momentum and BatchNorm statistics stay here, and are never part of the vector.

A Trainer is not thread-safe: evaluation loads the same buffer, and a step borrows torch's default generator.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from edgenode.errors import CheckpointError, ConfigError, Diverged
from edgenode.tasks import datasets, models
from edgenode.tasks.batches import Batch, Batches
from edgenode.tasks.datasets import Dataset
from edgenode.tasks.flat_params import FlatModel, Vector
from edgenode.tasks.partition import dirichlet, partition
from edgenode.tasks.seeding import Stream, seeded, torch_seed
from edgenode.tasks.settings import TaskSettings, TrainSettings

STATISTICS_BATCHES = 50

MOMENTUM = "momentum"
BUFFER_PREFIX = "buffer."


@dataclass(frozen=True, slots=True)
class LocalStep:
    """`local_update`: parameters after the step minus before, float32 [size]. `loss`: mean over the batch, if known."""

    local_update: Vector
    loss: float | None


def build_trainer(settings: TaskSettings, shard: int, shards: int, seed: int, device: str = "cpu") -> Trainer:
    """Return the trainer of node `shard` of `shards`. All nodes with one seed agree on the initial model.

    Raises ConfigError for settings that cannot be trained.
    """
    if not 0 <= shard < shards:
        raise ConfigError(f"shard {shard} does not exist: there are {shards}, counted from 0")
    dataset = datasets.load(settings.dataset, settings.data_dir)
    all_shards = _shards(dataset, shards, settings.skew, settings.alpha, seed)

    def make_model() -> nn.Module:
        return models.build(settings.model, dataset.num_classes, dataset.channels, dataset.image_size, settings.norm)

    return Trainer(dataset, all_shards[shard], make_model, settings.train, seed=seed, shard=shard, device=device)


# The latest partition of each data set. The many trainers of a simulation share it.
_partitions: weakref.WeakKeyDictionary[Dataset, tuple[object, list[Tensor]]] = weakref.WeakKeyDictionary()


def _shards(dataset: Dataset, shards: int, skew: float, alpha: float | None, seed: int) -> list[Tensor]:
    key = shards, skew, alpha, seed
    known = _partitions.get(dataset)
    if known is None or known[0] != key:
        labels = dataset.train_labels
        made = partition(labels, shards, skew, seed) if alpha is None else dirichlet(labels, shards, alpha, seed)
        known = _partitions[dataset] = key, made
    return known[1]


class Trainer:
    """One node's model, shard and optimiser.

    `make_model` is called with torch's generator seeded by `seed`. `initial` calls it again: on a small device that is
    cheaper than to keep a second copy of the weights.
    """

    def __init__(
        self,
        dataset: Dataset,
        shard_indices: Tensor,
        make_model: Callable[[], nn.Module],
        settings: TrainSettings,
        *,
        seed: int,
        shard: int,
        device: str = "cpu",
    ) -> None:
        self._device = _device(device)
        self._layers = _precision(settings.precision, self._device)
        self.batches = Batches(
            dataset, shard_indices, settings.batch_size, settings.augment, seed=seed, shard=shard, device=self._device
        )
        self._settings, self._seed, self._shard = settings, seed, shard
        self._make_model = make_model
        self._flat = self._fresh_model()
        self._momentum = torch.zeros(self._flat.size if settings.momentum else 0, device=self._device)
        self.size = self._flat.size
        self.layout = self._flat.layout
        self.rounds_per_epoch = self.batches.rounds_per_epoch

    def _fresh_model(self) -> FlatModel:
        with seeded(torch_seed(self._seed, Stream.INITIAL)):
            return FlatModel(self._make_model(), self._device)

    def initial(self) -> Vector:
        """Return the vector every node starts from: a function of the seed and the model alone."""
        return self._fresh_model().read()

    # one step ------------------------------------------------------------------------------------------

    def train(self, t: int, z: Vector) -> LocalStep:
        """Take the step of round t from `z` [size] (Algorithm 1, lines 2-4).

        Raises Diverged if the loss is not finite.
        """
        self._flat.load(z)
        step_seed = self._step_seed(t)
        with seeded(step_seed, self._device), _deterministic(self._device):
            loss = self._differentiate(t, step_seed)
        self._descend(self.learning_rate(t))
        return LocalStep(self._flat.minus(z), loss)

    @property
    def remedy(self) -> str:
        """What to lower if training diverges."""
        return f"task.learning_rate = {self._settings.learning_rate:g}"

    def learning_rate(self, t: int) -> float:
        return self._settings.learning_rate_at(t, self.rounds_per_epoch)

    def _step_seed(self, t: int) -> int:
        return torch_seed(self._seed, Stream.STEP, self._shard, t)

    def _differentiate(self, t: int, step_seed: int) -> float:
        """Leave the gradient of round t's mini-batch in the flat buffer and return the loss."""
        images, labels = self.batches.batch(t, step_seed)
        self._flat.gradients.zero_()
        loss = functional.cross_entropy(self._scores(images), labels)
        number = float(loss.detach())
        if not math.isfinite(number):
            raise Diverged(f"the loss is {number}")
        loss.backward()  # type: ignore[no-untyped-call]
        return number

    def _scores(self, images: Tensor) -> Tensor:
        with self._layers:
            scores: Tensor = self._flat.model(images)
        return scores.float()

    def _descend(self, learning_rate: float) -> None:
        """Take one torch.optim.SGD step on the flat vector.

        The class itself is not used: it imports torch's compiler, which takes a second and 70 MB on a desktop. A test
        checks that these lines agree with it to the bit.
        """
        values, gradient = self._flat.values, self._flat.gradients
        with torch.no_grad():
            if self._settings.weight_decay:
                gradient.add_(values, alpha=self._settings.weight_decay)
            if self._settings.momentum:
                gradient = self._momentum.mul_(self._settings.momentum).add_(gradient)
            values.add_(gradient, alpha=-learning_rate)

    # evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, z: Vector) -> float:
        """Return the test accuracy of the model `z` [size], 0 to 1. Changes no local state."""
        return self._accuracy(z, self.batches.test())

    def accuracy_on(self, other: Trainer, z: Vector) -> float:
        """Return the accuracy of the model `z` [size], with this node's buffers, on a sample of another's shard."""
        return self._accuracy(z, [other.batches.training_sample()])

    def _accuracy(self, z: Vector, batches: Iterable[Batch]) -> float:
        self._flat.load(z)
        self._flat.model.eval()
        right = count = 0
        try:
            with torch.inference_mode():
                for images, labels in batches:
                    right += int((self._scores(images).argmax(dim=1) == labels).sum())
                    count += len(labels)
        finally:
            self._flat.model.train()
        return right / count

    def measure_statistics(self, z: Vector) -> None:
        """Replace the BatchNorm statistics by those of the model `z` [size] on `STATISTICS_BATCHES` of this shard.

        The running statistics belong to the models trained here. They do not fit an average with other nodes' models.
        """
        self._flat.load(z)
        rounds = range(min(STATISTICS_BATCHES, self.rounds_per_epoch))
        step_seeds = [self._step_seed(t) for t in rounds]
        batches = (self.batches.batch(t, step_seed)[0] for t, step_seed in zip(rounds, step_seeds, strict=True))
        with seeded(step_seeds[0], self._device), _deterministic(self._device), self._layers:  # for dropout
            update_bn(batches, self._flat.model)

    # checkpoints and export ----------------------------------------------------------------------------

    def local_state(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of the state outside the vector: "momentum" [size or 0] and each "buffer.NAME"."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._local_tensors().items()}

    def load_local_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Restore what `local_state` returned. Raises CheckpointError if it belongs to another model."""
        tensors = self._local_tensors()
        unmatched = sorted(tensors.keys() ^ state.keys())
        if unmatched:
            raise CheckpointError(f"local state of another model: {unmatched[0]!r} is on one side only")
        for name, tensor in tensors.items():
            if state[name].shape != tuple(tensor.shape):
                raise CheckpointError(f"{name!r} has shape {state[name].shape}, not {tuple(tensor.shape)}")
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.array(state[name])))

    def _local_tensors(self) -> dict[str, Tensor]:
        buffers = self._flat.buffers()
        return {MOMENTUM: self._momentum} | {BUFFER_PREFIX + name: tensor for name, tensor in buffers.items()}

    def named_tensors(self, z: Vector) -> dict[str, Tensor]:
        """Return the state dict of the model `z` [size] with this node's buffers, as copies on the CPU."""
        self._flat.load(z)
        return {name: value.detach().cpu().clone() for name, value in self._flat.model.state_dict().items()}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise ConfigError(f"device {name!r} is unknown to torch: try cpu, cuda or mps") from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch finds no CUDA device")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {name!r} was asked for, but torch finds no Apple GPU")
    return device


def _precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """A context manager in which layers compute in this precision. It is entered once for each pass."""
    if name == "float32":
        return nullcontext()
    try:
        return torch.autocast(device.type, torch.bfloat16)
    except RuntimeError as exc:
        raise ConfigError(f"precision {name!r} was asked for, but device {device.type!r} does not have it") from exc


def _deterministic(device: torch.device) -> AbstractContextManager[None]:
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
