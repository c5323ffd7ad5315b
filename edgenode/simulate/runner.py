"""Many nodes of one run in one process: the daemon's own participants, with messages handed over in memory.

No network, no clock, no controller: what a node does is performed at once, and what others are to hear waits in one
first-in-first-out queue. So a simulation is a pure function of its configuration, and its models are those of real
daemons to the bit. The queue keeps all nodes within a round of each other, and every checkpoint round common to all.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edgenode import factory
from edgenode.config import Config
from edgenode.core.algorithm.compression import Floats
from edgenode.core.protocol.messages import (
    Acknowledge,
    Acknowledged,
    AnswerFence,
    AnswerOffer,
    Await,
    Evaluate,
    Fail,
    Finish,
    Mixed,
    NodeAction,
    NodeEvent,
    PlanChanged,
    Push,
    Received,
    Save,
    Train,
)
from edgenode.core.protocol.plan import Plan
from edgenode.errors import ConfigError, LocalProtocolError, OtherRun
from edgenode.node.replica import Replica
from edgenode.simulate.skew_scout import ModelTraveling
from edgenode.storage import result_file
from edgenode.storage.checkpoints import Store
from edgenode.storage.result_file import NodeResult

# Answers take no time here, so a window of one holds nobody up, and a node keeps two rounds of messages and not nine.
_WINDOW = 1
_NOTHING: tuple[frozenset[int], Plan | None] = frozenset(), None


class Simulation:
    """All nodes of a run, from the newest round that all have saved in ``out``.

    Args:
        out: where checkpoints and results go, node-0 and so on; None keeps nothing.

    Attributes:
        damage: what is wrong with checkpoints that were skipped, one line each.
        round: all rounds before it are mixed by all nodes.
        rounds: how many there are in the whole run.
        epoch_rounds: rounds of one epoch of an even share of the training data.

    Raises:
        ConfigError: the configuration describes no run, or ``out`` holds the checkpoints of another.
        CheckpointError: the disk refuses it.
    """

    def __init__(self, config: Config, out: Path | None = None) -> None:
        self._config, self._out = config, out
        self.damage: list[str] = []
        self._began = time.monotonic()
        self.epoch_rounds = factory.prepare_task(config)
        names = sorted(f"node-{i}" for i in range(config.run.nodes))
        stores = {name: self._store(name) for name in names}
        saved = {name: self._saved(store) for name, store in stores.items()}
        if not any(max(rounds, default=0) for rounds, _ in saved.values()):
            saved = dict.fromkeys(names, _NOTHING)  # interrupted at the very start, when only some had saved that
        plan, self.round = factory.agreed_plan(config, saved, self.epoch_rounds)
        algorithm_spec = factory.algorithm_spec(config)
        self.rounds = algorithm_spec.rounds
        self._participants = {
            name: Replica(
                config,
                algorithm_spec,
                name,
                factory.trainer(config, name, names),
                plan,
                self.round,
                stores[name],
                _WINDOW,
            )
            for name in names
        }
        self._travels = self._skew_scout()
        self._held: list[tuple[str, Train]] = []  # local steps that wait until all models have travelled
        self._queue: deque[tuple[str, NodeEvent]] = deque()
        self._mixed: Counter[int] = Counter()  # round -> by how many nodes, of the rounds that not all have mixed
        self._results: dict[str, NodeResult] = {}
        self._models: dict[str, Floats] = {}
        self._trained: dict[str, tuple[NodeResult, Floats]] = {}

    def _skew_scout(self) -> ModelTraveling | None:
        if self._config.algorithm.name != "skew-scout":
            return None
        file = None if self._out is None else self._out / "skew-scout.json"
        return ModelTraveling(self._config, self._participants, file, self.round)

    def _store(self, name: str) -> Store | None:
        return None if self._out is None else Store(self._out / name, self._config.digest())

    def _saved(self, store: Store | None) -> tuple[frozenset[int], Plan | None]:
        if store is None:
            return _NOTHING
        try:
            rounds, plan, damage = store.offer()
        except OtherRun as exc:
            raise ConfigError(f"{exc}; forget it with --fresh, or give another --out") from exc
        self.damage += damage
        return rounds, plan

    @property
    def loss(self) -> float | None:
        """The mean loss of the nodes' last steps; None before there was one."""
        return self._mean([p.stats.loss for p in self._participants.values()])

    @property
    def accuracy(self) -> float | None:
        """The mean of the nodes' last test accuracies, 0 to 1; None before there was one."""
        return self._mean([p.stats.accuracy for p in self._participants.values()])

    @property
    def before_average(self) -> float | None:
        """The mean test accuracy that was measured last before the last phase; None if there was none."""
        return self._mean([p.stats.before_average for p in self._participants.values()])

    def _mean(self, values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def run(self, after_round: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Play all rounds, write ``out`` and return the content of its result.json.

        Args:
            after_round: called whenever the last node has mixed a round, and saved it if that is due.

        Raises:
            EdgenodeError: training diverged, or the disk refuses a checkpoint.
        """
        for name, participant in self._participants.items():
            self._perform_all(name, participant.node.start(), after_round)
        while self._queue:
            name, event = self._queue.popleft()
            self._perform_all(name, self._participants[name].node.handle(event), after_round)
        if len(self._results) < len(self._participants):
            raise LocalProtocolError(f"{len(self._results)} of {len(self._participants)} nodes came to an end")
        return self._conclude()

    def _perform_all(self, name: str, actions: list[NodeAction], after_round: Callable[[], None]) -> None:
        for action in actions:
            self._perform(name, self._participants[name], action)
        closed = [self._closes(action.round) for action in actions if isinstance(action, Mixed)]
        if any(closed):
            after_round()

    def _perform(self, name: str, participant: Replica, action: NodeAction) -> None:
        match action:
            case Train(t) if self._travels is not None and self._travels.due(t):
                self._hold(name, action, self._travels)
            case Train():
                self._train(name, action)
            case Push(to, message):
                self._queue.append((to, Received(message)))
            case Acknowledge(to, t, verdict, knows, detail, records):
                self._queue.append((to, Acknowledged(name, t, verdict, knows, detail, records)))
            case Mixed():
                participant.count(action)
            case Evaluate(t, z):
                accuracy = participant.evaluate(z)
                if t == self._config.run.rounds:
                    self._trained[name] = participant.result(t, accuracy), z
            case Save():
                participant.save(action)
            case Finish(t, z):
                self._results[name] = participant.result(t, participant.conclude(z))
                self._models[name] = z
            case Fail(error):
                raise error
            case Await():
                pass
            case AnswerOffer() | AnswerFence() | PlanChanged():
                raise LocalProtocolError(f"{name} says {action}, and nobody asked")

    def _train(self, name: str, action: Train) -> None:
        self._queue.append((name, self._participants[name].train(action)))

    def _hold(self, name: str, action: Train, travels: ModelTraveling) -> None:
        """Begin a round only when all have closed the one before, and every model has travelled."""
        self._held.append((name, action))
        if len(self._held) < len(self._participants):
            return
        held, self._held = self._held, []
        travels.travel(action.round, self._participants[name].node.plan.graph(action.round))
        for waiting, step in held:
            self._train(waiting, step)

    def _closes(self, t: int) -> bool:
        self._mixed[t] += 1
        if self._mixed[t] < len(self._participants):
            return False
        del self._mixed[t]
        self.round = t + 1
        return True

    def before_gossip(self) -> dict[str, Any] | None:
        """What SP has at the end: SCSP trains as SP does, and then gossips, so that one run answers for both.

        None unless this is a run of SCSP that evaluates at the end of its training, and reached it in this process:
        ``run.evaluate_every = run.rounds`` does, if it is not resumed from a later round.
        """
        if len(self._trained) < len(self._participants):
            return None
        sp = replace(self._config, algorithm=replace(self._config.algorithm, name="sp"))
        rows, models = zip(*(self._trained[name] for name in self._participants), strict=True)
        return result_file.summary(sp, rows, time.monotonic() - self._began, models)

    def _conclude(self) -> dict[str, Any]:
        names = list(self._participants)
        rows = [self._results[name] for name in names]
        wall_s = time.monotonic() - self._began
        result = result_file.summary(self._config, rows, wall_s, [self._models[name] for name in names])
        if self._out is not None:
            for name in names:
                folder = self._out / name
                folder.mkdir(parents=True, exist_ok=True)
                self._participants[name].export(folder, self._models[name])
            result_file.write(self._out / "result.json", result)
        return result
