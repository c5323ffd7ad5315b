"""A `Task` gives the model, the data and the loss, and edgenode runs the loop around them.

A user's task is a subclass that defines `model` and `train_data`. Everything else has a default. The data sets that
edgenode knows by name are a task, too (`image_task`).

edgenode draws the samples of every batch, runs each step with seeded random generators, and keeps the state of
optimiser and scheduler in the checkpoints. A resumed run therefore has bit-identical results, and so has a simulation,
as long as a task depends on nothing but its arguments and the generators of torch, numpy and `random`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate

from edgenode.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Batch = Any
"""A batch from `Task.collate`: tensors, in tuples, lists and dicts of any depth."""


class Samples(Protocol):
    """A map-style data set, as torch.utils.data has it.

    If it has ``__getitems__``, which takes a list of indices, whole batches are read with it. If it has ``targets``,
    the class of every sample, data that all nodes share can be cut with ``task.skew`` or ``task.alpha``.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """The node that a task loads data for.

    Attributes:
        name: its node id.
        data_dir: ``task.data_dir`` of its run.toml, with {node} replaced by its name. None if it is not set.
        seed: ``run.seed``, equal on all nodes.
        nodes: ``run.nodes``, the number of nodes that the run starts with.

    Examples:
        >>> def train_data(self, node: edgenode.NodeInfo) -> ImageFolder:
        ...     return ImageFolder(node.data_dir / "train", PREPARED)
    """

    name: str
    data_dir: Path | None = None
    seed: int = 0
    nodes: int = 1

    @property
    def number(self) -> int | None:
        """N of a name that ends in ``-N``, as ``simulate``, ``demo`` and ``launch`` number nodes from 0. Else None.

        Data is loaded before a node knows the others. So its number has to be in its name.
        """
        _, dash, last = self.name.rpartition("-")
        return int(last) if dash and last.isdecimal() and last.isascii() else None


@dataclass(frozen=True, slots=True)
class RunLength:
    """The length of a run: equal on all nodes, whatever data each of them has.

    Attributes:
        rounds: rounds with a local step.
        rounds_per_epoch: rounds in which the mean node passes once through its data.

    Examples:
        >>> def scheduler(self, optimizer: Optimizer, run: edgenode.RunLength) -> LRScheduler:
        ...     return CosineAnnealingLR(optimizer, run.rounds)
    """

    rounds: int
    rounds_per_epoch: int


class Task:
    """One model and one node's data. Subclasses define `model` and `train_data`, and override what else they need.

    ``task.entry`` of run.toml names the class, and ``[task.options]`` has the arguments of its constructor. A node
    reports what is missing or does not fit as a `ConfigError` of one line.

    Examples:
        >>> class Birds(edgenode.Task):
        ...     def model(self) -> nn.Module:
        ...         return nn.Linear(64, 10)
        ...     def train_data(self, node: edgenode.NodeInfo) -> TensorDataset:
        ...         songs, names = torch.load(node.data_dir / "songs.pt")  # [N, 64] float32, [N] int64
        ...         return TensorDataset(songs, names)
    """

    draws_from_torch_alone: ClassVar[bool] = False
    """True if data set and model draw random numbers from torch's generator only. edgenode then seeds no other,
    which saves 0.07 ms a step."""

    def model(self) -> nn.Module:
        """Return a new model. torch's generator is seeded equally on all nodes, so they start from one model."""
        raise NotImplementedError

    def own_part(self, model: nn.Module, node: NodeInfo) -> None:
        """Change what ``task.shared`` does not name in a new model, such as the size of a node's head.

        torch's generator goes on as `model` has left it. By default nothing is changed.
        """

    def train_data(self, node: NodeInfo) -> Samples:
        """Return the training data of a node. With ``task.data = "cut"``, the data that all nodes share."""
        raise NotImplementedError

    def test_data(self, node: NodeInfo) -> Samples | None:
        """Return the test data of a node, or None to test nothing."""
        return None

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Return a batch of samples. By default torch's default_collate, which stacks tensors."""
        return default_collate(list(samples))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, to be differentiated. By default the cross-entropy of (inputs, classes)."""
        inputs, targets = batch
        return functional.cross_entropy(model(inputs).float(), targets)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> float | dict[str, float] | None:
        """Return a score of the model, 0 to 1: by default its accuracy on (inputs, classes). None if there is no data.

        Or return a dict of up to 16 metrics, with the same names each time. The first one is such a score, or it is the
        ``"loss"``, where less is better.

        If samples have several classes, as the characters of a text, each counts. The model is in evaluation mode,
        and no gradients are recorded.
        """
        right = count = 0
        for inputs, targets in batches:
            right += int((model(inputs).argmax(dim=1) == targets).sum())
            count += targets.numel()
        return right / count if count else None

    def metadata(self) -> dict[str, str]:
        """Return metadata for programs that use the trained model, such as the names of classes.

        It is in the metadata of model.safetensors. By default nothing.
        """
        return {}

    def optimizer(self, model: nn.Module) -> Optimizer | None:
        """Return the optimiser of the model's parameters, or None for the one that the keys of [task] describe."""
        return None

    def scheduler(self, optimizer: Optimizer, run: RunLength) -> LRScheduler | None:
        """Return a scheduler, which is stepped once a round, or None for the schedule of the keys of [task]."""
        return None


def new_model(task: Task, node: NodeInfo) -> nn.Module:
    """Return a new model of a task, with the part that is this node's own.

    Raises:
        ConfigError: the task returns something else.
    """
    model: object = task.model()
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{type(task).__name__}.model returns {model!r}, but it must be a torch.nn.Module")
    task.own_part(model, node)
    return model
