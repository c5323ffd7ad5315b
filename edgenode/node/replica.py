"""One member of a run without its network: its state machine, model, trainer, counters and checkpoints.

The node process moves its events over the network, the simulator in memory. Everything that determines the models is
here, once. Nothing here waits or reads a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

from edgenode import factory
from edgenode.config.fixed_members import checkpoint_every
from edgenode.config.schema import Config
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec
from edgenode.core.algorithm.compression import Floats, Layout
from edgenode.core.algorithm.learner import VectorLearner
from edgenode.core.algorithm.sparse_push import LocalUpdate
from edgenode.core.protocol.events import (
    Answered,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    Publish,
    Received,
    Save,
    Train,
    Trained,
)
from edgenode.core.protocol.member.member_state import Stage
from edgenode.core.protocol.member.node import Node
from edgenode.core.protocol.orders import Abort
from edgenode.core.protocol.plan.last_phase import transfer
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.protocol.plan.signatures import UNSIGNED, Verifier
from edgenode.errors import Diverged, EdgenodeError, RemoteProtocolError, SpoiledSum
from edgenode.evaluation import by_name
from edgenode.net.model_sender import Model
from edgenode.node.alarms import Alarms
from edgenode.node.common_copy import copied
from edgenode.node.first_state import StartPoint, first_state
from edgenode.node.model_server import packed
from edgenode.node.stats import NodeStats
from edgenode.node.workload import Trainer
from edgenode.observability.model_sketch import Sketch
from edgenode.storage import model_file
from edgenode.storage.checkpoints import Checkpoint, CheckpointStore
from edgenode.storage.result_file import SENT, NodeResult

_SMALL = 50_000  # parameters: of fewer, a message is decoded and mixed in some 0.1 ms


class Replica:
    """One member, from the round it starts at.

    Args:
        algorithm_spec: the algorithm of the configuration.
        store: the store of checkpoints. None keeps none.
        window: the number of pushes to a peer that may be unanswered.
        publish_to: the file of the published model. None publishes nothing.
        verifier: verifies the records that change the plan.
        evaluate_every: rounds between two evaluations. None for those of the configuration.

    Raises:
        CheckpointError: the checkpoint of the first round is damaged or missing.
        RemoteProtocolError: what was fetched does not fit this model.
    """

    def __init__(
        self,
        config: Config,
        algorithm_spec: AlgorithmSpec,
        name: str,
        trainer: Trainer,
        start: StartPoint,
        store: CheckpointStore | None,
        window: int,
        publish_to: Path | None,
        verifier: Verifier = UNSIGNED,
        evaluate_every: int | None = None,
    ) -> None:
        self.name, self.trainer, self.stats = name, trainer, NodeStats()
        self._config, self._store, self._model_file = config, store, publish_to
        self._sketch: Sketch | None = None
        self._losses: deque[tuple[int, float]] = deque(maxlen=2)  # the last ones, with their rounds
        self.layout = Layout(tuple(size for _, size in trainer.layout))
        self._exchange_rounds = algorithm_spec.exchange_rounds
        self._follow_length(start.plan, start.round)
        first, counts = first_state(algorithm_spec, name, trainer, store, start)  # restores how many samples there were
        self.stats.restore(counts, float(first.u.mean()))
        weight = start.plan.latest.epoch.weight(trainer.samples) if config.task.objective == "samples" else 1.0
        self.learner = VectorLearner(algorithm_spec, self.layout, first, config.run.seed, name, weight)
        self._sponsored = start.fetched is not None and start.round > 0  # a run begins with the model of a member
        self.resumed = start.fetched is None and start.round > 0  # from its own checkpoint
        self.alarms = Alarms(config, self.learner, self.stats, newcomer=start.fetched is not None)
        self._read = Event()  # not set while a checkpoint reads the state
        self._read.set()
        self.node = Node(
            name,
            start.plan,
            self.learner,
            start=start.round,
            window=window,
            evaluate_every=config.run.evaluate_every if evaluate_every is None else evaluate_every,
            checkpoint_every=checkpoint_every(config.run, self._exchange_rounds),
            publish_every=config.run.publish_every,
            verifier=verifier,
            alarm=self.alarms.of_messages,
            lag=factory.lag(config),
        )

    def _follow_length(self, plan: Plan, t: int) -> None:
        """Let the trainer know how long the run is, as of round t."""
        if (rounds := plan.at(t).rounds) is not None:
            self.trainer.train_until(rounds // self._exchange_rounds)

    def model(self) -> bytes:
        """z and the shared state, for a newcomer."""
        return packed(self.trainer, self.learner.model())

    @property
    def admits(self) -> bool:
        """Return whether nodes join when an exchange begins, with what all members have alike then."""
        return self.learner.algorithm_spec.rule.common is not None

    def common_copy(self, t: int) -> Model:
        """What all members have alike at the beginning of an exchange, for nodes that join in its first round, t."""
        return copied(self.learner.algorithm_spec.rule, self.learner.state, self.trainer, t)

    # --- actions of the node ------------------------------------------------------------------------

    def handle(self, event: NodeEvent) -> list[NodeAction]:
        """Let the node handle an event. If what it would push has diverged, it aborts the run.

        Raises:
            EdgenodeError: as ``Node.handle``.
        """
        try:
            return self.node.handle(event)
        except Diverged as exc:
            return self.node.handle(self._abort(exc))

    def handle_all(self, events: Sequence[NodeEvent]) -> list[list[NodeAction] | EdgenodeError]:
        """Let the node handle events in their order: what each led to. An error that ends the run is the last."""
        outcomes: list[list[NodeAction] | EdgenodeError] = []
        for event in events:
            try:
                outcomes.append(self.handle(event))
            except RemoteProtocolError as exc:
                outcomes.append(exc)
            except EdgenodeError as exc:
                return [*outcomes, exc]
        return outcomes

    def is_quick(self, event: NodeEvent) -> bool:
        """Return whether an event takes less time than a hop to another thread. The node must be at rest.

        A push or an answer is, if the model is small. An answer is anyway, as long as no round can begin by it.
        """
        match event:
            case Received(message):
                return self.layout.size <= _SMALL and not message.records
            case Answered(_, ack):
                frees = self.node.state.stage is Stage.READY and self.layout.size > _SMALL
                return not frees and not ack.records
        return False

    @property
    def rounds_per_epoch(self) -> int:
        """Rounds in which the mean node passes once through its data, those in which it does not train included."""
        return self.trainer.rounds_per_epoch * self._exchange_rounds

    def step(self, action: Train) -> list[NodeAction]:
        """Take one local step, and let the node handle what it led to, once the last checkpoint has read its state."""
        trained = self.train(action)
        self._read.wait()
        return self.handle(trained)

    def train(self, action: Train) -> Trained | Abort:
        """Take one local step, and count its loss."""
        exchange = action.round // self._exchange_rounds
        self._follow_length(self.node.state.plan, action.round)
        try:
            step = self.trainer.train(exchange, action.z.read(self.trainer.staging))
        except Diverged as exc:
            return self._abort(exc)
        self.stats.loss = step.loss
        self.alarms.trained(step.loss)
        if step.loss is not None:  # a workload need not know one
            self._losses.append((action.round, step.loss))
        return Trained(action.round, LocalUpdate(step.vector, step.is_difference))

    def _abort(self, error: Diverged) -> Abort:
        """Return the report that training diverged here, with the loss before it, and what to lower.

        Raises:
            RemoteProtocolError: it is the first step on a sponsor's model. So that model is at fault, and not the run.
        """
        config, t = self._config, self.node.state.next_round
        if self._sponsored and t == self.node.state.since:
            raise RemoteProtocolError(f"the first step on the sponsor's model diverged in round {t}: {error}")
        if isinstance(error, SpoiledSum):
            return Abort(f"{self.name} takes no step in round {self.node.state.round}: {error}")
        before = [f", and the loss was {loss:.4g} in round {r}" for r, loss in self._losses if r < t]
        lower = [self.trainer.remedy]
        if 0 < config.algorithm.kept_share < 1 or config.algorithm.name == "d2":
            lower.append(f"algorithm.averaging_rate = {factory.averaging_rate(config):g}")
        what = "".join([str(error), *before[-1:]])
        return Abort(f"training diverged at {self.name} in round {t}: {what}; lower {' or '.join(lower)}")

    def evaluate(self, z: Floats) -> float | None:
        """The test accuracy of z [d], 0 to 1, if there is one. The stats keep the whole evaluation."""
        self.stats.evaluation = self.trainer.evaluate(z)
        return self.stats.accuracy

    def final(self, finish: Finish, out: Floats | None = None) -> Floats:
        """The final z: a new vector, or ``out`` [d]. It is the own model if the node refused the average."""
        z: Floats = finish.z.read(out)
        return z

    def conclude(self, z: Floats) -> float | None:
        """The test accuracy of the final z. For an average, BatchNorm statistics are measured."""
        if self.learner.algorithm_spec.gossips(self.node.state.round - 1):
            self.stats.before_average = self.stats.accuracy
            if not self.alarms.refusal:
                self.trainer.measure_statistics(z)
        return self.evaluate(z)

    def good_checkpoints(self) -> list[int]:
        """The rounds of the checkpoints from before something went wrong, if something did."""
        until = self.alarms.good_until
        return sorted(t for t in self._store.rounds() if until is not None and t <= until) if self._store else []

    def sketch(self, t: int, z: Floats) -> None:
        """Keep the sketch of z after ``t`` rounds, for reports."""
        self._sketch = self._sketch or Sketch(self.layout.size, self._config.run.seed)
        self.stats.sketch_round, self.stats.sketch = t, self._sketch.of(z)

    def count(self, mixed: Mixed) -> None:
        """Add a closed round to the counters."""
        parts = transfer(self.node.state.plan, mixed.round, self.name)
        share = parts.count / parts.parts if parts else float(self.learner.vectors)  # models in one message
        self.stats.count(
            messages=mixed.messages,
            payload_bytes=mixed.payload_bytes,
            gossip_bytes=mixed.payload_bytes if self.learner.algorithm_spec.gossips(mixed.round) else 0,
            dense_bytes=mixed.messages * round(4 * self.layout.size * share),
        )
        self.stats.u = mixed.u

    def save(self, action: Save) -> None:
        """Write a checkpoint.

        Raises:
            CheckpointError: it cannot be written.
        """
        self.write(self.checkpoint(action))

    def checkpoint(self, action: Save) -> Checkpoint:
        """Return the checkpoint for ``write``. It has the node's own arrays, which do not change until they are read.

        Until then, the node may begin a local step, but no event may be handled. The first checkpoint after an
        allreduce judges the average, so it has the model that the node keeps.
        """
        refuses = self.alarms.refuse_average(self.trainer)
        state = self.learner.snapshot(action.round) if refuses else action.state
        counts = dict(self.stats.counts) | ({"refused": 1} if self.stats.refused else {})
        if (good_until := self.alarms.good_until) is not None:
            counts["good_until"] = good_until
        read = self._read = Event()
        return Checkpoint(action.round, state, action.plan, self.trainer.local_state(read), counts, read)

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, in any thread.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._store is None:
            checkpoint.read.set()
        else:
            self._store.save(checkpoint, checkpoint.counts.get("good_until"))

    # --- the end ------------------------------------------------------------------------------------

    def result(self, rounds: int, test_accuracy: float | None) -> NodeResult:
        """This node's row of result.json."""
        kept: dict[str, Any] = {name: self.stats.counts[name] for name in SENT}
        kept["metrics"] = by_name(self.stats.evaluation.metrics)
        refusal = self.alarms.refusal.reason if self.alarms.refusal else None
        return NodeResult(
            node=self.name, test_accuracy=test_accuracy, u=self.stats.u, rounds=rounds, refusal=refusal, **kept
        )

    # --- the model for others -----------------------------------------------------------------------

    def publish(self, action: Publish) -> None:
        """Replace model.safetensors: z and the BatchNorm buffers, with what describes them and the run.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self._model_file is None:
            return
        name, cluster, digest = self.name, self._config.run.cluster, self._config.digest()
        run = {"round": str(action.round), "run_digest": digest, "cluster": cluster, "node": name}
        model_file.write(self._model_file, self.trainer.named_tensors(action.z), {**self.trainer.metadata, **run})
