"""The trainer of a simulated node whose training script runs in another process.

The simulation asks through a pipe, and the script answers in the thread of its loop. A question is answered before the
next one, except that the nodes train at the same time: the simulation begins the round of each, and then takes what
came out. Both ends of the pipe are forks of one process, so they trust what they read.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from threading import Event
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.core.topology.period import DataSize
from edgenode.errors import EdgenodeError
from edgenode.evaluation import Evaluation

if TYPE_CHECKING:
    from torch import Tensor

    from edgenode.tasks.trainer import LocalStep


@dataclass(frozen=True)
class Description:
    """What a script trains. It is the script's first message, sent when its loop begins.

    Attributes:
        identity: as `Workload.identity`. The other attributes are those of its trainer.
    """

    config: Config
    identity: Mapping[str, str]
    data: DataSize
    layout: tuple[tuple[str, int], ...]
    parameter_counts: tuple[int, int]
    remedy: str
    metadata: dict[str, str]
    tests_alike: bool


@dataclass(frozen=True)
class Begin:
    """Train a round, from z [d]. The answer is a `LocalStep`."""

    round: int
    z: Floats


@dataclass(frozen=True)
class Call:
    """Call a method of the trainer. The answer is what it returns."""

    method: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class End:
    """The run has ended, with this result.json of the node. There is no answer."""

    result: dict[str, Any]


class ScriptEnded(EdgenodeError):
    """The process of a node ended in the middle of the run."""

    def __init__(self, node: str) -> None:
        super().__init__(f"the script of {node} ended before the run")
        self.node = node


def send(connection: Connection, message: object) -> None:
    """Send a message. torch would put the tensors of `Connection.send` into shared memory.

    Raises:
        OSError: nobody reads it.
    """
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def receive(connection: Connection) -> Any:
    """Wait for a message.

    Raises:
        EOFError: the other end is closed.
        OSError: the pipe is broken.
    """
    return pickle.loads(connection.recv_bytes())


class ScriptPipe:
    """The simulation's end of the pipe to the script of one node."""

    def __init__(self, node: str, connection: Connection) -> None:
        self.node, self.connection = node, connection

    def send(self, message: Begin | Call | End) -> None:
        """Send a message.

        Raises:
            ScriptEnded: nobody reads it.
        """
        try:
            send(self.connection, message)
        except OSError as exc:
            raise ScriptEnded(self.node) from exc

    def receive(self) -> Any:
        """Wait for an answer.

        Raises:
            ScriptEnded: there is none.
            EdgenodeError: the answer is an error.
        """
        try:
            answer = receive(self.connection)
        except (EOFError, OSError) as exc:
            raise ScriptEnded(self.node) from exc
        if isinstance(answer, EdgenodeError):
            raise answer
        return answer


class RemoteTrainer:
    """The trainer at the other end of a pipe.

    Args:
        rounds_per_epoch: rounds of one epoch of the run.
    """

    staging = None

    def __init__(self, pipe: ScriptPipe, description: Description, rounds_per_epoch: int) -> None:
        self._pipe = pipe
        self.layout = description.layout
        self.size = sum(size for _, size in self.layout)
        self.parameter_counts = description.parameter_counts
        self.samples = description.data.samples
        self.remedy, self.metadata = description.remedy, description.metadata
        self.tests_alike = description.tests_alike
        self.rounds_per_epoch = rounds_per_epoch

    def begin(self, t: int, z: Floats) -> None:
        """Let the script train round t, from z [d]. `train` takes what came out."""
        self._pipe.send(Begin(t, z))

    def train(self, t: int, z: Floats) -> LocalStep:
        step: LocalStep = self._pipe.receive()
        return step

    def train_until(self, t: int) -> None:
        """The script's schedule is its own."""

    def initial(self) -> Floats:
        vector: Floats = self._call("initial")
        return vector

    def untrained(self) -> Floats | None:
        vector: Floats | None = self._call("untrained")
        return vector

    def evaluate(self, z: Floats) -> Evaluation:
        evaluation: Evaluation = self._call("evaluate", z)
        return evaluation

    def loss(self, z: Floats) -> float | None:
        loss: float | None = self._call("loss", z)
        return loss

    def measure_statistics(self, z: Floats) -> None:
        self._call("measure_statistics", z)

    def local_state(self, read: Event | None = None) -> dict[str, NDArray[Any]]:
        state: dict[str, NDArray[Any]] = self._call("local_state")
        return state

    def load_local_state(self, state: Mapping[str, Any]) -> None:
        self._call("load_local_state", dict(state))

    def named_tensors(self, z: Floats) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = self._call("named_tensors", z)
        return tensors

    def _call(self, method: str, *args: Any) -> Any:
        self._pipe.send(Call(method, args))
        return self._pipe.receive()
