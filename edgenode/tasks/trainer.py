"""The local step of one node: a vector in, the displacement of one SGD step out.

A step is a pure function of (settings, seed, shard, round, z, local state): which samples it takes, how they
are augmented and what dropout drops are drawn from (seed, shard, round) alone. So a run that was
interrupted goes on to the bit from its round number and `local_state`. Momentum and BatchNorm statistics
stay here and are never part of the vector. One thread at a time uses a Trainer: evaluation shares its buffer,
and torch's default generator is borrowed for a step.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from edgenode.errors import CheckpointError, ConfigError, EdgenodeError
from edgenode.tasks import augment, datasets, models
from edgenode.tasks.datasets import Dataset
from edgenode.tasks.flat_params import FlatModel, Vector
from edgenode.tasks.partition import dirichlet, partition
from edgenode.tasks.seeding import Stream, seeded, shuffler, torch_seed

STATISTICS_BATCHES = 50
EVALUATION_BATCH = 128  # what a layer makes of it fits a cache: a third less time than with 512

MOMENTUM = "momentum"
BUFFER_PREFIX = "buffer."


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """SGD as in section 8.2; at each of `milestones` (local epochs) the learning rate is times `decay`.

    For `warmup_epochs` it rises linearly, from its share for the first round (Goyal et al. 2017). With `precision`
    "bfloat16" layers compute in it, in training and evaluation; parameters and gradients stay float32 (Micikevicius
    et al. 2018, Mixed precision training).
    """

    batch_size: int = 32
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    warmup_epochs: int = 0
    augment: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(0 < self.decay <= 1, "decay", self.decay, "above 0 and at most 1")
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "at least 0")
        ascending = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        _require(ascending, "milestones", list(self.milestones), "ascending epochs, each above 0")


def _require(holds: bool, key: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{key} is {value}, but must be {allowed}")


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """What is trained on what. With `alpha` the data is cut by a Dirichlet distribution, else by `skew`."""

    dataset: str = "digits"
    data_dir: str | None = None
    model: str = "small-cnn"
    norm: str = "batch"
    skew: float = 0.0
    alpha: float | None = None
    train: TrainSettings = field(default_factory=TrainSettings)


@dataclass(frozen=True, slots=True)
class LocalStep:
    """`displacement`: parameters after the step minus before, float32 [size]; `loss`: mean over the batch."""

    local_update: Vector
    loss: float


def build_trainer(settings: TaskSettings, shard: int, shards: int, seed: int, device: str = "cpu") -> Trainer:
    """Return the trainer of node `shard` of `shards`; all nodes with one seed agree on the initial model."""
    if not 0 <= shard < shards:
        raise ConfigError(f"shard {shard} does not exist: there are {shards}, counted from 0")
    dataset = datasets.load(settings.dataset, settings.data_dir)
    cut = _cut(dataset, shards, settings.skew, settings.alpha, seed)

    def make_model() -> nn.Module:
        return models.build(settings.model, dataset.num_classes, dataset.channels, dataset.image_size, settings.norm)

    return Trainer(dataset, cut[shard], make_model, settings.train, seed=seed, shard=shard, device=device)


# The newest cut of each data set, so that the many trainers of a simulator make it once.
_cuts: weakref.WeakKeyDictionary[Dataset, tuple[object, list[Tensor]]] = weakref.WeakKeyDictionary()


def _cut(dataset: Dataset, shards: int, skew: float, alpha: float | None, seed: int) -> list[Tensor]:
    asked = shards, skew, alpha, seed
    known = _cuts.get(dataset)
    if known is None or known[0] != asked:
        labels = dataset.train_labels
        made = partition(labels, shards, skew, seed) if alpha is None else dirichlet(labels, shards, alpha, seed)
        known = _cuts[dataset] = asked, made
    return known[1]


class Trainer:
    """One node's model, shard and optimiser.

    `make_model` is called with torch's generator seeded by `seed`; `initial` calls it again, which is
    cheaper for a small device than to keep a second copy of the weights.
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
        if len(shard_indices) == 0:
            raise ConfigError(f"shard {shard} holds no training sample")
        self._device = _device(device)
        self._layers = _precision(settings.precision, self._device)
        self._settings, self._seed, self._shard = settings, seed, shard
        self._make_model = make_model
        self._flat = self._fresh_model()
        self._momentum = torch.zeros(self._flat.size if settings.momentum else 0, device=self._device)
        self._load_data(dataset, shard_indices)
        self._order: tuple[int, Tensor] | None = None
        self.size = self._flat.size
        self.layout = self._flat.layout
        self.rounds_per_epoch = math.ceil(len(shard_indices) / settings.batch_size)

    def _load_data(self, dataset: Dataset, indices: Tensor) -> None:
        self._indices = indices
        self._dataset = dataset  # kept, so that the next trainer of this process finds it loaded
        # On a CPU all trainers read the data set's own images; elsewhere each carries its shard over.
        if self._device.type == "cpu":
            self._rows = indices
            self._train = dataset.train_images, dataset.train_labels
        else:
            self._rows = torch.arange(len(indices))
            chosen = dataset.train_images[indices], dataset.train_labels[indices]
            self._train = chosen[0].to(self._device), chosen[1].to(self._device)
        self._test = dataset.test_images.to(self._device), dataset.test_labels.to(self._device)
        shape = (1, dataset.channels, 1, 1)
        self._mean = torch.tensor(dataset.mean, device=self._device).view(shape)
        self._std = torch.tensor(dataset.std, device=self._device).view(shape)

    def _fresh_model(self) -> FlatModel:
        with seeded(torch_seed(self._seed, Stream.INITIAL)):
            return FlatModel(self._make_model(), self._device)

    # the vector ----------------------------------------------------------------------------------------

    def initial(self) -> Vector:
        """Return the vector every node starts from: a function of the seed and the model alone."""
        return self._fresh_model().read()

    def train(self, t: int, z: Vector) -> LocalStep:
        """Take the step of `round` from `z` [size] (Algorithm 1, lines 2-4).

        Raises EdgenodeError if the loss is not finite.
        """
        self._flat.load(z)
        value = torch_seed(self._seed, Stream.STEP, self._shard, t)
        with seeded(value, self._device), _deterministic(self._device):
            loss = self._differentiate(t, value)
        self._descend(self.learning_rate(t))
        return LocalStep(self._flat.minus(z), loss)

    def measure_statistics(self, z: Vector) -> None:
        """Measure the BatchNorm statistics of the model `z` [size] anew, on `STATISTICS_BATCHES` of this shard.

        The running ones are of the models that were trained here: they do not fit an average with others' models.
        """
        self._flat.load(z)
        rounds = range(min(STATISTICS_BATCHES, self.rounds_per_epoch))
        values = [torch_seed(self._seed, Stream.STEP, self._shard, t) for t in rounds]
        batches = (self._batch(t, value)[0] for t, value in zip(rounds, values, strict=True))
        with seeded(values[0], self._device), _deterministic(self._device), self._layers:  # for dropout
            update_bn(batches, self._flat.model)

    def evaluate(self, z: Vector) -> float:
        """Return the share of test images that the model `z` [size] names rightly; changes no local state."""
        return self._accuracy(z, self._test_batches())

    def _accuracy(self, z: Vector, batches: Iterable[tuple[Tensor, ...]]) -> float:
        self._flat.load(z)
        self._flat.model.eval()
        right = count = 0
        try:
            with torch.inference_mode():
                for images, labels in batches:
                    right += self._count_right(images, labels)
                    count += len(labels)
        finally:
            self._flat.model.train()
        return right / count

    def accuracy_on(self, other: Trainer, z: Vector) -> float:
        """Return the share of a sample of another trainer's shard that the model `z` [size] names rightly.

        The sample is every k-th of its images, `EVALUATION_BATCH` at most; buffers are those of this node.
        """
        rows = other._rows[:: math.ceil(len(other._rows) / EVALUATION_BATCH)]
        return self._accuracy(z, [tuple(part[rows] for part in other._train)])

    def learning_rate(self, t: int) -> float:
        epoch = t // self.rounds_per_epoch
        passed = sum(milestone <= epoch for milestone in self._settings.milestones)
        rate = self._settings.learning_rate * self._settings.decay**passed
        warm = self._settings.warmup_epochs * self.rounds_per_epoch
        return rate * (t + 1) / warm if t < warm else rate

    # one step ------------------------------------------------------------------------------------------

    def batch_indices(self, t: int) -> Tensor:
        """Return which training samples `round` uses, as indices into the whole training set.

        An epoch uses each once, in batches that differ by one sample at most: cutting full ones would leave a
        rest that may be a single image, a poor gradient that counts as much as any other.
        """
        return self._indices[self._places(t)]

    def _places(self, t: int) -> Tensor:
        epoch, place = divmod(t, self.rounds_per_epoch)
        count = len(self._indices)
        first, last = (count * p // self.rounds_per_epoch for p in (place, place + 1))
        return self._epoch_order(epoch)[first:last]

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            random = shuffler(self._seed, Stream.ORDER, self._shard, epoch)
            self._order = epoch, torch.from_numpy(random.permutation(len(self._indices)))
        return self._order[1]

    def _differentiate(self, t: int, value: int) -> float:
        """Leave the gradient of the mini-batch of `round` in the flat buffer and return the loss."""
        images, labels = self._batch(t, value)
        self._flat.gradients.zero_()
        loss = functional.cross_entropy(self._scores(images), labels)
        number = float(loss.detach())
        if not math.isfinite(number):
            rate = self.learning_rate(t)
            raise EdgenodeError(
                f"training diverged at round {t} on shard {self._shard}: the loss is {number}; "
                f"lower learning_rate (now {rate:g}) or averaging_rate"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        return number

    def _scores(self, images: Tensor) -> Tensor:
        with self._layers:
            scores: Tensor = self._flat.model(images)
        return scores.float()

    def _batch(self, t: int, value: int) -> tuple[Tensor, Tensor]:
        chosen = self._rows[self._places(t)].to(self._device)
        images = self._train[0][chosen]
        if self._settings.augment:
            # Before normalisation, as torchvision's transforms: the border is black.
            images = augment.apply(images, augment.draw(len(images), torch.Generator().manual_seed(value)))
        return self._normalised(images), self._train[1][chosen]

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() - self._mean) / self._std

    def _descend(self, learning_rate: float) -> None:
        """Do one torch.optim.SGD step on the flat vector.

        The class itself is not used: building one imports torch's compiler, a second and 70 MB on a desktop. A
        test holds these lines to it, bit by bit.
        """
        values, gradient = self._flat.values, self._flat.gradients
        with torch.no_grad():
            if self._settings.weight_decay:
                gradient.add_(values, alpha=self._settings.weight_decay)
            if self._settings.momentum:
                gradient = self._momentum.mul_(self._settings.momentum).add_(gradient)
            values.add_(gradient, alpha=-learning_rate)

    # evaluation ----------------------------------------------------------------------------------------

    def _test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*(torch.split(part, EVALUATION_BATCH) for part in self._test), strict=True)

    def _count_right(self, images: Tensor, labels: Tensor) -> int:
        return int((self._scores(self._normalised(images)).argmax(dim=1) == labels).sum())

    # what a checkpoint needs ---------------------------------------------------------------------------

    def local_state(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of what the vector does not hold: "momentum" [size or 0] and "buffer.NAME" each."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._local_tensors().items()}

    def load_local_state(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `local_state` returned; CheckpointError if it is of another model."""
        tensors = self._local_tensors()
        strange = sorted(tensors.keys() ^ state.keys())
        if strange:
            raise CheckpointError(f"local state of another model: {strange[0]!r} is on one side only")
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
    """A context, to be entered for each pass, in which layers compute in this precision."""
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


def rounds_per_epoch(settings: TaskSettings, shards: int) -> int:
    """Rounds of an even share of the training data: the epoch that all nodes mean, whatever their shards."""
    samples = len(datasets.load(settings.dataset, settings.data_dir).train_labels)
    return math.ceil(math.ceil(samples / shards) / settings.train.batch_size)
