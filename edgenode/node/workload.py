"""The workload of a node process: the seam between a run and everything that can be trained.

A `NodeProcess` asks a `Workload` for a `Trainer`, and its `Replica` asks the trainer for local steps. Neither knows
what a model, a data set or an optimiser is. `TaskWorkload` (task_workload) is the task that run.toml names, and a
`Mesh` is a loop of the user's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from edgenode import factory
from edgenode.config.fixed_members import checkpoint_every
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.core.canonical import canonical, digest
from edgenode.core.topology.period import DataSize, Epoch
from edgenode.evaluation import Evaluation
from edgenode.node.background import Worker
from edgenode.storage.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from torch import Tensor

    from edgenode.tasks.trainer import LocalStep

SHARED_STATE = ("buffer.", "schedule.")
"""The first parts of names in a trainer's local state that a newcomer takes over from its sponsor."""

OWN_STATE = "own."
"""The first part of names in a trainer's local state of what belongs to the model, but to this node alone."""


@dataclass(frozen=True)
class ModelSize:
    """The size of a node's model.

    Attributes:
        shared: the number of parameters that all nodes share.
        own: the number of parameters that are the node's own, and are trained.
        most_bytes: an upper bound of what a sponsor sends.
    """

    shared: int
    own: int
    most_bytes: int


class Trainer(Protocol):
    """The training of one node. All its methods are called in one thread, the worker's.

    Attributes:
        layout: name and number of entries of every trained parameter, in the order of the vector [d].
        size: d.
        parameter_counts: the numbers of trained parameters that all nodes share, and that are this node's own.
        staging: a vector [d] of the trainer's own. A z that is in it need not be copied. While x is z, the node keeps x
            there, so only `train` changes it, and methods that are given another z. None has no such vector.
        rounds_per_epoch: rounds of one epoch of the run.
        remedy: the key to lower if training diverges.
        samples: training samples of this node.
        metadata: the description of the model for a reader of its tensors.
        tests_alike: a model that is worse in the node's test is worse. All nodes test with the same data, or a part of
            the model is for this node's data alone.
    """

    @property
    def layout(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def size(self) -> int: ...
    @property
    def parameter_counts(self) -> tuple[int, int]: ...
    @property
    def staging(self) -> Floats | None: ...
    @property
    def rounds_per_epoch(self) -> int: ...
    @property
    def remedy(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def tests_alike(self) -> bool: ...

    def initial(self) -> Floats:
        """The vector [d] that every node of the run starts from."""
        ...

    def untrained(self) -> Floats | None:
        """``initial``, at any time. None if it is not known any more."""
        ...

    def train_until(self, t: int) -> None:
        """Training ends before round t, as ``train`` counts rounds. It holds for the steps from now on."""
        ...

    def train(self, t: int, z: Floats) -> LocalStep:
        """Take the local step of round t from z [d], which may be overwritten.

        The result may be a vector that the trainer goes on to use. It is read before the next call.

        Raises:
            Diverged: the loss is not finite.
        """
        ...

    def evaluate(self, z: Floats) -> Evaluation:
        """What a test says of z [d]. `NOT_TESTED` if there is nothing to test with."""
        ...

    def loss(self, z: Floats) -> float | None:
        """The share of the test samples that z [d] gets wrong. Without a test the mean loss on some training data, or
        None if that is unknown. Changes no local state.
        """
        ...

    def measure_statistics(self, z: Floats) -> None:
        """Replace the BatchNorm statistics by those of z [d], which is an average with other nodes' models."""
        ...

    def local_state(self, read: Event | None = None) -> dict[str, NDArray[Any]]:
        """The state outside the vector. A newcomer takes over what begins with one of ``SHARED_STATE``.

        Args:
            read: set by the caller when it has read the arrays. Until then ``train`` changes neither them nor
                ``staging``, so they need not be copies. Without it, they are.
        """
        ...

    def load_local_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what ``local_state`` returned.

        Raises:
            CheckpointError: it belongs to another model.
        """
        ...

    def named_tensors(self, z: Floats) -> dict[str, Tensor]:
        """The state dict of the model z [d], on the CPU. The next call may change its tensors."""
        ...


class Training(Protocol):
    """What a node trains, in a node process or in a simulation."""

    def identity(self) -> Mapping[str, str]:
        """Return the facts, by name, that must be equal on every node in addition to run.toml."""
        ...

    @property
    def makes_own_model(self) -> bool:
        """True if the initial models of two nodes may differ. The nodes then begin with the first member's model."""
        ...

    def prepare(self) -> DataSize:
        """Load the data. Return how much it is. Called in the worker.

        Raises:
            ConfigError: the task is not possible.
        """
        ...

    def trainer(self, name: str, initial_members: Sequence[str], epoch: Epoch) -> Trainer:
        """The trainer of the node of this name. Called in the worker, after ``prepare``.

        Raises:
            ConfigError: the task is not possible.
        """
        ...


class Workload(Training, Protocol):
    """The model and data of a node process. It outlives the process: an evicted node rejoins with it."""

    def model_size(self) -> ModelSize:
        """Return the size of the model. Called in the worker, after ``prepare``."""
        ...

    def worker(self) -> Worker:
        """A worker for one node process, which closes it."""
        ...


def checkpoint_store(state_dir: Path, config: Config, training: Training) -> CheckpointStore:
    """The checkpoints of a node: of one run.toml, and of what it trains."""
    text = config.shared()
    if identity := training.identity():
        text = canonical({**json.loads(text), **identity})
    every = checkpoint_every(config.run, factory.exchange_rounds(config))
    return CheckpointStore(state_dir, digest(text), config=text, every=every)
