"""Runs all nodes of a run in one process, with the replicas of the node process and messages passed in memory.

There is no network, clock or controller. A node's actions are performed at once, and the events they cause wait in one
first-in-first-out queue. Therefore

1. a simulation is a pure function of its configuration, and its models are bit-identical to those of real nodes,
2. no node is more than one round ahead of another, and the overlap,
3. every checkpoint round is common to all nodes, so that an interrupted simulation can resume from it.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from edgenode import factory
from edgenode.config.schema import Config, as_toml
from edgenode.core.algorithm.compression import Floats
from edgenode.core.canonical import canonical, differences, digest
from edgenode.core.protocol.events import (
    Answer,
    Answered,
    Await,
    Evaluate,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Publish,
    Push,
    Received,
    Report,
    Save,
    Train,
)
from edgenode.core.protocol.orders import Abort, Accusation
from edgenode.core.protocol.plan.plan import Plan
from edgenode.core.topology.graph import Digraph
from edgenode.core.topology.period import Epoch
from edgenode.errors import ConfigError, LocalProtocolError, OtherRun
from edgenode.evaluation import Evaluation
from edgenode.node.agreed_plan import agreed_plan
from edgenode.node.replica import Replica, StartPoint
from edgenode.node.task_workload import TaskWorkload
from edgenode.node.workload import Workload, checkpoint_store
from edgenode.storage import result_file
from edgenode.storage.checkpoints import CheckpointStore
from edgenode.storage.model_file import MODEL_FILE
from edgenode.storage.result_file import NodeResult

# Acknowledgements take no time here. A window of one delays no node, and saves the memory of older rounds' messages.
_WINDOW = 1
_BEFORE_GOSSIP = "before-gossip.json"
_NO_CHECKPOINTS: tuple[frozenset[int], Plan | None] = frozenset(), None


class ShareSearch(Protocol):
    """Chooses the share that the compressor keeps, by measurements of models that are at rest."""

    def due(self, t: int) -> bool:
        """Return whether a round begins with a measurement."""

    def measure(self, t: int, graph: Digraph) -> None:
        """Measure, and choose the share from this round on. Every node has finished the round before.

        Raises:
            CheckpointError: the measurement cannot be written.
        """


class Simulation:
    """All nodes of a run, resumed from the newest round that every node has saved in ``out``.

    Args:
        out: folder of the checkpoints and results, with a folder per node. None writes nothing.

    Attributes:
        damage: one line for each damaged checkpoint that was skipped.
        warnings: one line for each valid but suspicious setting.
        alarms: the poison alarms so far that a node would report, each with the node's name.
        round: every node has mixed all rounds before it.
        rounds: the number of rounds of the whole run.
        epoch_rounds: rounds of one epoch of the run.

    Raises:
        ConfigError: the configuration is invalid, or ``out`` holds checkpoints of another run.
        CheckpointError: the disk cannot be written.
    """

    def __init__(self, config: Config, out: Path | None = None) -> None:
        self._config, self._out = config, out
        self.warnings: list[str] = []
        self.alarms: list[tuple[str, Accusation]] = []
        names = sorted(f"node-{i}" for i in range(config.run.nodes))
        first = TaskWorkload(config, names[0], warn=self.warnings.append)
        workloads = {names[0]: first} | {name: TaskWorkload(config, name, first) for name in names[1:]}
        _check_task(config, workloads)
        self.damage: list[str] = []
        self._began = time.monotonic()
        epoch = Epoch.of([workload.prepare() for workload in workloads.values()])
        stores = {name: self._store(name, workload) for name, workload in workloads.items()}
        saved = {name: self._saved(store) for name, store in stores.items()}
        if not any(max(rounds, default=0) for rounds, _ in saved.values()):
            saved = dict.fromkeys(names, _NO_CHECKPOINTS)  # interrupted before all nodes had saved round 0
        plan, self.round = agreed_plan(config, saved, epoch)
        self.epoch_rounds = plan.latest.epoch.rounds
        algorithm_spec = factory.algorithm_spec(config)
        self.rounds = algorithm_spec.rounds
        self._replicas = {
            name: Replica(
                config,
                algorithm_spec,
                name,
                workloads[name].trainer(name, names, plan.latest.epoch),
                StartPoint(plan, self.round),
                stores[name],
                _WINDOW + config.run.overlap,
                None if out is None else out / name / MODEL_FILE,
            )
            for name in names
        }
        if (prepare := config.algorithm.definition.prepares) is not None:
            prepare(config, self._replicas)
        self._share_search = self._search_share()
        self._waiting: list[tuple[str, Train]] = []  # local steps of a round that begins with a measurement
        self._queue: deque[tuple[str, NodeEvent]] = deque()
        self._mixed: Counter[int] = Counter()  # round -> nodes that have mixed it, until all have
        self._results: dict[str, NodeResult] = {}
        self._models: dict[str, Floats] = {}
        self._trained: dict[str, tuple[NodeResult, Floats]] = {}  # what training led to, until all nodes have it
        self._before_gossip = self._read_before_gossip()

    def _search_share(self) -> ShareSearch | None:
        build = self._config.algorithm.definition.searches_share
        return build(self._config, self._replicas, self._out, self.round) if build else None

    def _store(self, name: str, workload: Workload) -> CheckpointStore | None:
        if self._out is None:
            return None
        return checkpoint_store(self._out / name, self._config, workload)

    def _saved(self, store: CheckpointStore | None) -> tuple[frozenset[int], Plan | None]:
        if store is None:
            return _NO_CHECKPOINTS
        try:
            rounds, plan, damage = store.scan()
        except OtherRun as exc:
            raise ConfigError(f"{exc}; discard it with --fresh, or choose another --out") from exc
        self.damage += damage
        return rounds, plan

    @property
    def loss(self) -> float | None:
        """The mean loss of the nodes' last steps, or None before the first."""
        return self._mean([p.stats.loss for p in self._replicas.values()])

    @property
    def accuracy(self) -> float | None:
        """The mean of the nodes' last test accuracies, 0 to 1, or None before the first evaluation."""
        return self._mean([p.stats.accuracy for p in self._replicas.values()])

    @property
    def before_average(self) -> float | None:
        """The mean of the last test accuracies measured before the gossip rounds, or None if there is none."""
        return self._mean([p.stats.before_average for p in self._replicas.values()])

    @property
    def payload_bytes(self) -> float:
        """The payload bytes that a node has sent so far, as the mean over the nodes."""
        return sum(replica.stats.counts["payload_bytes"] for replica in self._replicas.values()) / len(self._replicas)

    def _mean(self, values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def run(self, after_round: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Run all rounds, write ``out`` and return the content of its result.json.

        Args:
            after_round: called when all nodes have mixed a round, and saved it if a checkpoint is due.

        Raises:
            EdgenodeError: training diverged, or a checkpoint cannot be written.
        """
        self._begin_before_gossip()
        for name, replica in self._replicas.items():
            self._perform_all(name, replica.node.start(), after_round)
        while self._queue:
            name, event = self._queue.popleft()
            self._perform_all(name, self._replicas[name].handle(event), after_round)
        if len(self._results) < len(self._replicas):
            raise LocalProtocolError(f"{len(self._results)} of {len(self._replicas)} nodes finished")
        return self._conclude()

    def _perform_all(self, name: str, actions: list[NodeAction], after_round: Callable[[], None]) -> None:
        for action in actions:
            self._perform(name, self._replicas[name], action)
        completed = [self._completes(action.round) for action in actions if isinstance(action, Mixed)]
        if any(completed):
            after_round()

    def _perform(self, name: str, replica: Replica, action: NodeAction) -> None:
        match action:
            case Train(t) if self._share_search is not None and self._share_search.due(t):
                self._train_after_measurement(name, action, self._share_search)
            case Train():
                self._train(name, action)
            case Push(to, message):
                self._queue.append((to, Received(message)))
            case Answer(to, ack):
                self._queue.append((to, Answered(name, ack)))
            case Mixed():
                replica.count(action)
            case Evaluate(t, model):
                z = model.read(replica.trainer.staging)
                accuracy = replica.evaluate(z)
                self._note(name, replica, replica.alarms.judge_evaluation(t))
                if t == self._config.run.rounds:
                    self._end_training(name, replica.result(t, accuracy), z)
            case Publish():
                replica.publish(action)
            case Save():
                replica.save(action)
            case Finish(t):
                z = replica.final(action)
                self._show(name, replica.alarms.report_of_refusal(t))
                self._results[name] = replica.result(t, replica.conclude(z))
                self._models[name] = z
            case Fail(error):
                raise error
            case Await() | Report(Abort()):
                pass
            case Report(Accusation() as accusation):
                self._note(name, replica, accusation)
            case Report() | PlanChanged():
                raise LocalProtocolError(f"{name} answers {action} without a request")

    def _note(self, name: str, replica: Replica, accusation: Accusation | None) -> None:
        if accusation is not None and replica.alarms.note(accusation):
            self._show(name, accusation)

    def _show(self, name: str, accusation: Accusation | None) -> None:
        if accusation is not None:
            self.alarms.append((name, accusation))

    def _train(self, name: str, action: Train) -> None:
        self._queue.append((name, self._replicas[name].train(action)))

    def _train_after_measurement(self, name: str, action: Train, share_search: ShareSearch) -> None:
        """Wait until every node is ready to train, measure with all models at rest, and then train."""
        self._waiting.append((name, action))
        if len(self._waiting) < len(self._replicas):
            return
        ready, self._waiting = self._waiting, []
        share_search.measure(action.round, self._replicas[name].node.state.plan.graph(action.round))
        for node, step in ready:
            self._train(node, step)

    def _completes(self, t: int) -> bool:
        """Count a node that has mixed a round. Whether it is the last to do so."""
        self._mixed[t] += 1
        if self._mixed[t] < len(self._replicas):
            return False
        del self._mixed[t]
        self.round = t + 1
        return True

    # SP and SCSP in one run -------------------------------------------------------------------------
    #
    # SCSP trains as SP does and then gossips. Its evaluation after the last training round is the result of SP:
    #
    # 1. A node evaluates after it has saved that round. A run that resumes from exactly there evaluates again.
    # 2. A checkpoint of a later round has other models, so the result is kept in a file. It is written when the last
    #    node has evaluated, and therefore before all nodes have saved a later round.
    # 3. A run that begins before that round removes the file, which is then of an earlier run in this folder.

    def before_gossip(self) -> dict[str, Any] | None:
        """The result of SP, or None if it was not measured.

        Needs a run of SCSP that evaluates after its last training round, so ``run.evaluate_every`` must divide
        ``run.rounds``.
        """
        return self._before_gossip

    def _end_training(self, name: str, row: NodeResult, z: Floats) -> None:
        self._trained[name] = row, z
        if len(self._trained) < len(self._replicas):
            return
        sp = replace(self._config, algorithm=replace(self._config.algorithm, name="sp"))
        rows, models = zip(*(self._trained[name] for name in self._replicas), strict=True)
        self._before_gossip = result_file.summary(sp, rows, time.monotonic() - self._began, models)
        self._trained = {}
        if self._out is not None:
            result_file.write(self._out / _BEFORE_GOSSIP, self._before_gossip)

    def _read_before_gossip(self) -> dict[str, Any] | None:
        if self._out is None or self.round <= self._config.run.rounds:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept: dict[str, Any] = json.loads((self._out / _BEFORE_GOSSIP).read_text())
            for row in kept["nodes"]:
                self._replicas[row["node"]].stats.evaluation = Evaluation(row["test_accuracy"])
            return kept
        return None

    def _begin_before_gossip(self) -> None:
        rounds, every = self._config.run.rounds, self._config.run.evaluate_every
        if self._out is not None and self.round < rounds:
            (self._out / _BEFORE_GOSSIP).unlink(missing_ok=True)
        if 0 < self.round == rounds < self.rounds and every and rounds % every == 0:
            for name, replica in self._replicas.items():
                self._perform(name, replica, Evaluate(rounds, replica.learner.look(rounds)))

    def _conclude(self) -> dict[str, Any]:
        names = list(self._replicas)
        rows, models = [self._results[name] for name in names], [self._models[name] for name in names]
        result = result_file.summary(self._config, rows, time.monotonic() - self._began, models)
        if self._out is not None:
            for name in names:
                self._replicas[name].publish(Publish(self._results[name].rounds, self._models[name]))
            result_file.write(self._out / "result.json", result)
        return result


def _check_task(config: Config, workloads: Mapping[str, Workload]) -> None:
    """Refuse what cannot be simulated: one data set for all, data that differs in meaning, or steps by the clock."""
    task = config.task
    if task.local_steps == "auto":
        raise ConfigError(
            'task.local_steps = "auto": it follows measured times, which a simulation does not have; set a number'
        )
    if task.has_own_data and not task.entry and "{node}" not in task.data_dir:
        raise ConfigError(
            f"task.data_dir = {as_toml(task.data_dir)}: every simulated node would train on all of it; write {{node}} "
            'where its name belongs, as in "photos/{node}", or set task.data = "cut" to give each a shard'
        )
    first, *others = ((name, canonical(workload.identity())) for name, workload in workloads.items())
    for name, identity in others:
        if identity != first[1]:
            what = differences(identity, first[1], digest(first[1]))
            raise ConfigError(f"{name} does not fit {first[0]}: {what}")
