"""One member of a run without its network: its state machine, its numbers, its trainer, its counts and its disk.

The daemon moves its events over a network, the simulator hands them over in memory; all that decides what the
models become is here, once. Nothing here waits, and nothing here knows the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import save

from edgenode.config.schema import Config
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Floats, Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import State
from edgenode.core.protocol.events import Mixed, Save, Train, Trained
from edgenode.core.protocol.node import Node
from edgenode.core.protocol.plan import Plan
from edgenode.errors import CheckpointError
from edgenode.observability.model_sketch import Sketch
from edgenode.storage.checkpoints import Arrays, Checkpoint, CheckpointStore
from edgenode.storage.result_file import NodeResult

if TYPE_CHECKING:
    from edgenode.tasks.trainer import Trainer

_Z = "z"  # beside the buffers in what a sponsor sends


@dataclass
class NodeStats:
    """What this node did so far, for reports and for result.json; the counts go on over a resume."""

    messages: int = 0
    payload_bytes: int = 0
    dense_bytes: int = 0
    wire_bytes: int = 0
    gossip_bytes: int = 0
    received_bytes: int = 0
    loss: float | None = None
    accuracy: float | None = None
    before_average: float | None = None  # the accuracy that was measured last before a last phase of averages
    u: float = 1.0
    sketch_round: int = 0
    sketch: list[float] = field(default_factory=list)


class Replica:
    """One member, from the round it starts at.

    Args:
        recipe: of the configuration.
        store: where checkpoints are kept; None keeps none.
        fetched: z and the BatchNorm buffers of a sponsor, for one who joins a running run.

    Raises:
        CheckpointError: there is no intact checkpoint of the round to start at.
    """

    def __init__(
        self,
        config: Config,
        algorithm_spec: AlgorithmSpec,
        name: str,
        trainer: Trainer,
        plan: Plan,
        start: int,
        store: CheckpointStore | None,
        window: int,
        fetched: Arrays | None = None,
    ) -> None:
        self.name, self.trainer, self.stats = name, trainer, NodeStats()
        self._config, self._store = config, store
        self._sketch: Sketch | None = None
        self.layout = Layout(tuple(size for _, size in trainer.layout))
        state = self._state(algorithm_spec, start) if fetched is None else self._newborn(algorithm_spec, fetched)
        self.learner = VectorLearner(algorithm_spec, self.layout, state, config.run.seed, name)
        self.node = Node(
            name,
            plan,
            self.learner,
            start=start,
            window=window,
            evaluate_every=config.run.evaluate_every,
            checkpoint_every=config.run.checkpoint_every,
        )

    def _state(self, algorithm_spec: AlgorithmSpec, start: int) -> State:
        """The state to begin with: the common initial model, or the checkpoint of the round all agreed on."""
        if self._store is not None:
            self._store.rewind(start)
        if start == 0 or self._store is None:
            return algorithm_spec.initial(self.trainer.initial())
        checkpoint = self._store.load(start)
        self.trainer.load_local_state(checkpoint.local)
        for name, count in checkpoint.counts.items():
            setattr(self.stats, name, count)
        self.stats.u = float(checkpoint.state.u.mean())
        return checkpoint.state

    def _newborn(self, algorithm_spec: AlgorithmSpec, fetched: Arrays) -> State:
        """A newcomer's state: its sponsor's z and buffers, u = 1, no error, no momentum; what it was before is gone."""
        if self._store is not None:
            self._store.rewind(-1)
        buffers = {name: value for name, value in fetched.items() if name != _Z}
        self.trainer.load_local_state({**self.trainer.local_state(), **buffers})
        return algorithm_spec.initial(fetched[_Z])

    def model(self) -> bytes:
        """z and the buffers, for a newcomer."""
        buffers = {n: v for n, v in self.trainer.local_state().items() if n.startswith("buffer.")}
        return save({_Z: self.learner.model(), **buffers})

    # --- what the node asks for ---------------------------------------------------------------------

    def train(self, action: Train) -> Trained:
        """One local step; the loss goes into the tally.

        Raises:
            EdgenodeError: the loss is not finite.
        """
        step = self.trainer.train(action.round, action.z)
        self.stats.loss = step.loss
        return Trained(action.round, step.local_update)

    def evaluate(self, z: Floats) -> float:
        """The test accuracy of z, 0 to 1; it goes into the tally."""
        self.stats.accuracy = accuracy = self.trainer.evaluate(z)
        return accuracy

    def conclude(self, z: Floats) -> float:
        """The test accuracy of the final z, 0 to 1; after a last phase, with BatchNorm statistics of it."""
        if not self.learner.trains(self.node.round - 1):
            self.stats.before_average = self.stats.accuracy
            self.trainer.measure_statistics(z)
        return self.evaluate(z)

    def sketch(self, t: int, z: Floats) -> None:
        """Take the sketch of z after ``round`` rounds into the tally."""
        self._sketch = self._sketch or Sketch(self.layout.size, self._config.run.seed)
        self.stats.sketch_round, self.stats.sketch = t, self._sketch.of(z)

    def accuracy_at(self, host: Replica) -> float:
        """How much of a sample of the training data at a node, here or elsewhere, this node's model names rightly."""
        return self.trainer.accuracy_on(host.trainer, self.learner.model())

    def count(self, mixed: Mixed) -> None:
        """Take a closed round into the tally."""
        stats = self.stats
        stats.messages += mixed.messages
        stats.payload_bytes += mixed.payload_bytes
        stats.gossip_bytes += 0 if self.learner.trains(mixed.round) else mixed.payload_bytes
        stats.dense_bytes += mixed.messages * 4 * self.layout.size
        stats.u = mixed.u

    def save(self, action: Save, wire_bytes: int = 0) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: the disk refuses it.
        """
        if self._store is None:
            return
        stats = self.stats
        counts = {
            "messages": stats.messages,
            "payload_bytes": stats.payload_bytes,
            "dense_bytes": stats.dense_bytes,
            "wire_bytes": wire_bytes,
            "gossip_bytes": stats.gossip_bytes,
            "received_bytes": stats.received_bytes,
        }
        self._store.save(Checkpoint(action.round, action.state, action.plan, self.trainer.local_state(), counts))

    # --- the end ------------------------------------------------------------------------------------

    def result(self, rounds: int, test_accuracy: float, wire_bytes: int = 0) -> NodeResult:
        """This node's row of result.json."""
        stats = self.stats
        return NodeResult(
            node=self.name,
            test_accuracy=test_accuracy,
            u=stats.u,
            rounds=rounds,
            messages=stats.messages,
            payload_bytes=stats.payload_bytes,
            wire_bytes=wire_bytes,
            dense_bytes=stats.dense_bytes,
        )

    def export(self, folder: Path, z: Floats) -> None:
        """Write model.safetensors: z and the BatchNorm buffers, with what is needed to use them.

        Raises:
            CheckpointError: the disk refuses it.
        """
        from safetensors.torch import save_file

        config = self._config
        metadata = {"model": config.task.model, "dataset": config.task.dataset, "run_digest": config.digest()}
        path = folder / "model.safetensors"
        try:
            save_file(self.trainer.named_tensors(z), path, metadata=metadata)
        except (OSError, SafetensorError) as exc:
            raise CheckpointError(f"{path} cannot be written: {exc}") from exc
