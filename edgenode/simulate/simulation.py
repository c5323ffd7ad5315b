"""Runs all nodes of a run, with the replicas of the node process and messages passed in memory.

A task trains here, and a script with a loop of its own in a process for each node (`nodes`). There is no network, clock
or controller. A node's actions are performed at once, and the events they cause wait in one first-in-first-out queue.
Therefore

1. a simulation is a pure function of its configuration, and its models are bit-identical to those of real nodes,
2. no node is more than one round ahead of another, and the overlap,
3. every checkpoint round is common to all nodes, so that an interrupted simulation can resume from it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from math import gcd
from pathlib import Path
from typing import Any

from safetensors.numpy import load

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Floats
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
from edgenode.core.topology.period import Epoch
from edgenode.errors import ConfigError, LocalProtocolError, OtherRun
from edgenode.evaluation import Evaluation
from edgenode.node.agreed_plan import agreed_plan
from edgenode.node.first_state import StartPoint
from edgenode.node.mask_key import MaskKey
from edgenode.node.remote_trainer import RemoteTrainer
from edgenode.node.replica import Replica
from edgenode.node.workload import Training, checkpoint_store
from edgenode.simulate.before_gossip import BeforeGossip
from edgenode.simulate.history import History
from edgenode.simulate.nodes import refuse_unequal, task_nodes
from edgenode.simulate.progress import Progress
from edgenode.simulate.share_search import ShareSearch
from edgenode.storage import result_file
from edgenode.storage.checkpoints import CheckpointStore
from edgenode.storage.model_file import MODEL_FILE
from edgenode.storage.result_file import NodeResult

# Acknowledgements take no time here. A window of one delays no node, and saves the memory of older rounds' messages.
_WINDOW = 1
_NO_CHECKPOINTS: tuple[frozenset[int], Plan | None] = frozenset(), None


class Simulation:
    """All nodes of a run, resumed from the newest round that every node has saved in ``out``.

    Args:
        out: folder of the checkpoints and results, with a folder per node. None writes nothing.
        nodes: what each node trains, by its name, in the order of the names. By default the task of the configuration.
        history: takes what nodes measure on the way. None measures nothing more than the run does.
        observe: called with every action of a node, the node's name and its replica, before the action is performed.
        progress: follows what the simulation does, for a reader in another thread.

    Attributes:
        damage: one line for each damaged checkpoint that was skipped.
        warnings: one line for each valid but suspicious setting.
        alarms: the poison alarms so far that a node would report, each with the node's name.
        round: every node has mixed all rounds before it.
        rounds: the number of rounds of the whole run.
        epoch_rounds: rounds of one epoch of the run.
        parameter_counts: by node, the numbers of parameters that all nodes share, and that are its own.

    Raises:
        ConfigError: the configuration is invalid, or ``out`` holds checkpoints of another run.
        CheckpointError: the disk cannot be written.
    """

    def __init__(
        self,
        config: Config,
        out: Path | None = None,
        nodes: Mapping[str, Training] | None = None,
        history: History | None = None,
        observe: Callable[[str, Replica, NodeAction], None] = lambda _name, _replica, _action: None,
        progress: Progress | None = None,
    ) -> None:
        self._config, self._out, self._history, self._observe = config, out, history, observe
        self._progress = progress or Progress()
        self.warnings: list[str] = []
        self.alarms: list[tuple[str, Accusation]] = []
        self._nodes = nodes = task_nodes(config, self.warnings.append) if nodes is None else nodes
        refuse_unequal(nodes)
        self.damage: list[str] = []
        self._began = time.monotonic()
        each = self._progress.each
        epoch = Epoch.of([training.prepare() for training in each("loading the data", nodes.values())])
        self._stores = {name: self._store(name, nodes[name]) for name in nodes}
        saved = {name: self._saved(self._stores[name]) for name in each("looking for checkpoints", nodes)}
        self._progress.begin("checking the graph")
        if not any(max(rounds, default=0) for rounds, _ in saved.values()):
            saved = dict.fromkeys(nodes, _NO_CHECKPOINTS)  # interrupted before all nodes had saved round 0
        self._mask_keys = {name: MaskKey() for name in nodes} if config.algorithm.definition.masked else {}
        plan, self.round = agreed_plan(config, saved, epoch, {n: key.public for n, key in self._mask_keys.items()})
        self.epoch_rounds = plan.latest.epoch.rounds
        self._algorithm_spec = factory.algorithm_spec(config)
        self.rounds = self._algorithm_spec.rounds
        start = StartPoint(plan, self.round)
        self._replicas = {name: self._replica(name, start) for name in each("making the models", nodes)}
        self.parameter_counts = {name: replica.trainer.parameter_counts for name, replica in self._replicas.items()}
        if self.round == 0 and any(training.makes_own_model for training in nodes.values()):
            self._begin_with_one_model(plan)
        if (prepare := config.algorithm.definition.prepares) is not None:
            prepare(config, self._replicas)
        self._share_search = self._search_share()
        self._waiting: list[tuple[str, Train]] = []  # local steps of a round that begins with a measurement
        self._queue: deque[tuple[str, NodeEvent | Train]] = deque()
        self._mixed: Counter[int] = Counter()  # round -> nodes that have mixed it, until all have
        self._results: dict[str, NodeResult] = {}
        self._models: dict[str, Floats] = {}
        self._before_gossip = BeforeGossip(config, self._replicas, out, self.round)

    def _replica(self, name: str, start: StartPoint) -> Replica:
        spec, members = self._algorithm_spec, start.plan.latest.members
        return Replica(
            self._config,
            self._mask_keys[name].hide(spec, name, members) if self._mask_keys else spec,
            name,
            self._nodes[name].trainer(name, list(self._nodes), start.plan.latest.epoch),
            start,
            self._stores[name],
            _WINDOW + self._config.run.overlap,
            None if self._out is None else self._out / name / MODEL_FILE,
            evaluate_every=gcd(self._config.run.evaluate_every, self._history.every if self._history else 0),
        )

    def _begin_with_one_model(self, plan: Plan) -> None:
        """Let every node begin with the model of the first, as node processes do."""
        first, *others = self._replicas.values()
        model = first.model()
        for replica in others:
            if replica.model() != model:
                self._replicas[replica.name] = self._replica(replica.name, StartPoint(plan, 0, load(model)))

    def _search_share(self) -> ShareSearch | None:
        build = self._config.algorithm.definition.searches_share
        return build(self._config, self._replicas, self._out, self.round) if build else None

    def _store(self, name: str, training: Training) -> CheckpointStore | None:
        return None if self._out is None else checkpoint_store(self._out / name, self._config, training)

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
        self._begin()
        for name in self._progress.each("beginning", self._replicas):
            self._perform_all(name, self._replicas[name].node.start(), after_round)
        self._progress.begin_rounds(self.round, len(self._replicas))
        while self._queue:
            name, event = self._queue.popleft()
            replica = self._replicas[name]
            if isinstance(event, Train):
                self._progress.count(event.round)
            happened = replica.train(event) if isinstance(event, Train) else event
            self._perform_all(name, replica.handle(happened), after_round)
        if len(self._results) < len(self._replicas):
            raise LocalProtocolError(f"{len(self._results)} of {len(self._replicas)} nodes finished")
        return self._conclude()

    def _perform_all(self, name: str, actions: list[NodeAction], after_round: Callable[[], None]) -> None:
        for action in actions:
            self._observe(name, self._replicas[name], action)
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
                self._evaluate(name, replica, t, model.read(replica.trainer.staging))
            case Publish():
                replica.publish(action)
            case Save():
                replica.save(action)
            case Finish(t):
                z = replica.final(action)
                self._show(name, replica.alarms.report_of_refusal(t))
                self._results[name] = replica.result(t, replica.conclude(z))
                self._record(t, replica, replica.stats.evaluation, z)
                self._models[name] = z
            case Fail(error):
                raise error
            case Await() | Report(Abort()):
                pass
            case Report(Accusation() as accusation):
                self._note(name, replica, accusation)
            case Report() | PlanChanged():
                raise LocalProtocolError(f"{name} answers {action} without a request")

    def before_gossip(self) -> dict[str, Any] | None:
        """The result of SP, or None if it was not measured.

        Needs a run of SCSP that evaluates after its last training round: ``run.evaluate_every`` divides ``run.rounds``.
        """
        return self._before_gossip.result

    def _begin(self) -> None:
        """Measure what a run that resumes was interrupted before, and what its history begins with."""
        self._before_gossip.begin(self.round)
        measures = self._history is not None and self._history.begin(self.round, len(self._replicas))
        repeats = self._before_gossip.is_due(self.round, self.rounds)
        if not (measures or repeats) or self.round == self.rounds:
            return
        for name in self._progress.each("measuring", self._replicas):
            replica = self._replicas[name]
            z = replica.learner.look(self.round).read()
            if repeats:
                self._evaluate(name, replica, self.round, z)
            else:
                self._record(self.round, replica, replica.trainer.evaluate(z), z)

    def _evaluate(self, name: str, replica: Replica, t: int, z: Floats) -> None:
        """Evaluate z [d], for the run if it is due in round t, and for the history."""
        every = self._config.run.evaluate_every
        if not every or t % every:
            if self._history is not None and self._history.due(t):
                self._record(t, replica, replica.trainer.evaluate(z), z)
            return
        accuracy = replica.evaluate(z)
        self._record(t, replica, replica.stats.evaluation, z)
        self._note(name, replica, replica.alarms.judge_evaluation(t))
        if t == self._config.run.rounds:
            self._before_gossip.add(name, replica.result(t, accuracy), z, time.monotonic() - self._began)

    def _record(self, t: int, replica: Replica, tested: Evaluation, z: Floats) -> None:
        if self._history is not None and (self._history.due(t) or t == self.rounds):
            training = -(-min(t, self._config.run.rounds) // self._algorithm_spec.exchange_rounds)
            steps = training * int(self._config.task.local_steps)
            self._history.add(t, replica, steps, tested, z, time.monotonic() - self._began)

    def _note(self, name: str, replica: Replica, accusation: Accusation | None) -> None:
        if accusation is not None and replica.alarms.note(accusation):
            self._show(name, accusation)

    def _show(self, name: str, accusation: Accusation | None) -> None:
        if accusation is not None:
            self.alarms.append((name, accusation))

    def _train(self, name: str, action: Train) -> None:
        """Train in the node's turn. Until then, no event changes what it trains from."""
        if isinstance(trainer := self._replicas[name].trainer, RemoteTrainer):
            trainer.begin(action.round, action.z.read())  # beside the other nodes
        self._queue.append((name, action))

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
        self._progress.count(t)
        if self._mixed[t] < len(self._replicas):
            return False
        del self._mixed[t]
        self.round = self._progress.round = t + 1
        return True

    def _conclude(self) -> dict[str, Any]:
        names = list(self._replicas)
        self._progress.begin("comparing the models")
        rows, models = [self._results[name] for name in names], [self._models[name] for name in names]
        result = result_file.summary(self._config, rows, time.monotonic() - self._began, models)
        if self._out is not None:
            for name in self._progress.each("writing the models", names):
                self._replicas[name].publish(Publish(self._results[name].rounds, self._models[name]))
            result_file.write(self._out / "result.json", result)
        return result
