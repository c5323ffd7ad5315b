"""What the nodes of a simulation train: the task of run.toml, or a script of the user's in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import cast

from edgenode.config.schema import Config, as_toml
from edgenode.core.canonical import canonical, differences, digest
from edgenode.core.topology.period import DataSize, Epoch
from edgenode.errors import ConfigError
from edgenode.node.remote_trainer import Description, RemoteTrainer, ScriptPipe
from edgenode.node.task_workload import TaskWorkload
from edgenode.node.workload import Training

MOST_TESTED, SAMPLE = 1024, 128
"""Of more nodes than ``MOST_TESTED``, a sample tests its models, because tests would take longer than training."""


def task_nodes(config: Config, warn: Callable[[str], None]) -> dict[str, Training]:
    """Return the task for each node by its name, in the order of the names.

    Of many nodes, some have no test data, so that they are not tested.

    Raises:
        ConfigError: the task cannot be simulated: one data set for all, or steps by the clock.
    """
    task = config.task
    names = sorted(f"node-{i}" for i in range(config.run.nodes))
    first = TaskWorkload(config, names[0], warn=warn)
    if task.local_steps == "auto":
        raise ConfigError(
            'task.local_steps = "auto": it follows measured times, which a simulation does not have; set a number'
        )
    if task.has_own_data and not task.entry and "{node}" not in task.data_dir:
        raise ConfigError(
            f"task.data_dir = {as_toml(task.data_dir)}: every simulated node would train on all of it; write {{node}} "
            'where its name belongs, as in "photos/{node}", or set task.data = "cut" to give each a shard'
        )
    tested = sample(names)
    others = {name: TaskWorkload(config, name, first, tests=name in tested) for name in names[1:]}
    return {names[0]: first, **others}


def sample(names: Sequence[str]) -> frozenset[str]:
    """The nodes that test their models: all, or of many nodes ``SAMPLE``, the first included, equally far apart."""
    if len(names) <= MOST_TESTED:
        return frozenset(names)
    return frozenset(names[place * len(names) // SAMPLE] for place in range(SAMPLE))


def refuse_unequal(nodes: Mapping[str, Training]) -> None:
    """Refuse nodes whose data or models differ in meaning.

    Raises:
        ConfigError: they do.
    """
    first, *others = ((name, canonical(training.identity())) for name, training in nodes.items())
    for name, identity in others:
        _refuse_difference(name, identity, *first)


def _refuse_difference(name: str, text: str, first: str, of_first: str) -> None:
    if text != of_first:
        raise ConfigError(f"{name} does not fit {first}: {differences(text, of_first, digest(of_first))}")


class ScriptNode:
    """A script with a loop of its own, as what one node trains."""

    makes_own_model = True

    def __init__(self, pipe: ScriptPipe, description: Description) -> None:
        self.pipe, self._description = pipe, description

    def identity(self) -> Mapping[str, str]:
        return self._description.identity

    def prepare(self) -> DataSize:
        return self._description.data

    def trainer(self, name: str, initial_members: Sequence[str], epoch: Epoch) -> RemoteTrainer:
        return RemoteTrainer(self.pipe, self._description, epoch.rounds)


def script_nodes(pipes: Sequence[ScriptPipe]) -> tuple[Config, dict[str, ScriptNode]]:
    """Wait for the scripts to begin their loops. Return their configuration, and the nodes in the order of the names.

    Raises:
        ConfigError: their configurations differ, or do not fit scripts.
        ScriptEnded: one ends without a loop.
    """
    by_name = {pipe.node: pipe for pipe in sorted(pipes, key=lambda pipe: pipe.node)}
    waiting = {pipe.connection: pipe for pipe in pipes}
    descriptions: dict[str, Description] = {}
    while waiting:
        for connection in wait(list(waiting)):
            pipe = waiting.pop(cast(Connection, connection))
            descriptions[pipe.node] = pipe.receive()
    (first, config), *others = ((name, descriptions[name].config) for name in by_name)
    for name, other in others:
        _refuse_difference(name, other.shared(), first, config.shared())
    if config.run.nodes != len(pipes):
        raise ConfigError(f"run.nodes = {config.run.nodes} in the script, but {len(pipes)} are simulated")
    if config.algorithm.definition.searches_share or config.algorithm.definition.prepares:
        raise ConfigError(f"algorithm.name = {config.algorithm.name}: it needs a task, and no script")
    return config, {name: ScriptNode(pipe, descriptions[name]) for name, pipe in by_name.items()}
