"""The task of a run.toml as what a node trains."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgenode import factory
from edgenode.config.schema import Config
from edgenode.core.topology.period import DataSize, Epoch
from edgenode.entry_points import Group
from edgenode.errors import ConfigError
from edgenode.node.background import Worker, WorkerThread
from edgenode.node.task_warnings import task_warnings
from edgenode.node.workload import ModelSize
from edgenode.storage.privacy_ledger import FileLedger

if TYPE_CHECKING:
    from edgenode.tasks.flat_params import FlatParameters
    from edgenode.tasks.local_data import DataSource
    from edgenode.tasks.noisy_steps import Privacy
    from edgenode.tasks.task import NodeInfo, Task
    from edgenode.tasks.trainer import TaskTrainer


class TaskWorkload:
    """The task of a run.toml, for one node.

    Args:
        name: the name of the node.
        other: the workload of another node in this process. The two share the task, and the data if it is cut.
        state_dir: the node's folder, where its noisy steps are counted. None forgets them with the process.
        warn: takes what is allowed and yet probably not intended, once the first trainer is made.
        tests: whether it has the test data.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        other: TaskWorkload | None = None,
        *,
        state_dir: Path | None = None,
        warn: Callable[[str], None] | None = None,
        tests: bool = True,
    ) -> None:
        self._config, self._name, self._other, self._warn, self._tests = config, name, other, warn, tests
        self._ledger = None if state_dir is None else FileLedger(state_dir)
        self._task: Task | None = None
        self._source: DataSource | None = None

    def identity(self) -> Mapping[str, str]:
        """The code of a task of one's own, and the shapes of what its nodes share if each has a part of its own; or the
        packages of data set and model, and an imagefolder's classes."""
        config, code = self._config.task, dict((self._other or self)._code)
        if config.entry:
            from edgenode.tasks.task import Task

            own_part = type(self._loaded()[0]).own_part is not Task.own_part
            return code | (self._model().facts() if own_part else {})
        if config.dataset == "imagefolder" and not config.classes and self._node.data_dir is not None:
            from edgenode.tasks import imagefolder

            names = ", ".join(imagefolder.classes_of(self._node.data_dir))
            return code | {"classes (name all of them in task.classes)": names}
        return code

    @cached_property
    def _code(self) -> dict[str, str]:
        """What identifies the code of the task. The nodes in a process share it, so it is read once."""
        config = self._config.task
        if config.entry:
            from edgenode.tasks import entry

            self._loaded()  # imports it
            return entry.identity(config.entry)
        # The tables of edgenode's own need torch, so they are not asked which names are their own.
        found = Group("edgenode.models", object, {}).providers([config.model])
        return found | Group("edgenode.datasets", object, {}).providers([config.dataset])

    @property
    def makes_own_model(self) -> bool:
        return False  # it is a function of the seed

    def prepare(self) -> DataSize:
        import torch

        torch.set_num_threads(factory.threads(self._config))
        config, (_, source) = self._config, self._loaded()
        samples, nodes = source.load(self._node), config.run.nodes
        if not config.task.has_own_data:
            if samples < nodes:
                raise ConfigError(f"run.nodes = {nodes}, but there are only {samples} training samples to cut")
            samples = -(-samples // nodes)
        if config.privacy.on:
            from edgenode.tasks.noisy_steps import coarse

            samples = coarse(samples)
        return DataSize(samples, config.task.samples_per_round)

    def model_size(self) -> ModelSize:
        flat = self._model()
        return ModelSize(flat.size, flat.own_size, flat.most_bytes)

    def _model(self) -> FlatParameters:
        """A new model of this node."""
        from edgenode.tasks.flat_params import FlatParameters
        from edgenode.tasks.task import new_model

        return FlatParameters(new_model(self._loaded()[0], self._node), self._config.task.shared or None)

    def trainer(self, name: str, initial_members: Sequence[str], epoch: Epoch) -> TaskTrainer:
        from edgenode.tasks.task import RunLength
        from edgenode.tasks.trainer import TaskTrainer

        config, (task, source), shards = self._config, self._loaded(), len(initial_members)
        # There are no more shards than initial members, so a newcomer has the number of one of theirs.
        shard = initial_members.index(name) if name in initial_members else zlib.crc32(name.encode()) % shards
        data = source.local(self._node, shard, shards)
        data = data if self._tests else replace(data, test=None)
        run = RunLength(config.run.rounds // factory.exchange_rounds(config), epoch.rounds)
        settings, device = factory.train_settings(config), factory.device(config)
        trainer = TaskTrainer(
            task, data, settings, run, seed=config.run.seed, device=device, node=self._node,
            privacy=self._privacy(),
        )  # fmt: skip
        if self._warn is not None:
            tensors = [size for _, size in trainer.layout]
            for text in task_warnings(config, tensors, trainer.samples, data.classes, epoch.rounds):
                self._warn(text)
            self._warn = None
        return trainer

    def _privacy(self) -> Privacy | None:
        from edgenode.tasks.noisy_steps import Privacy

        chosen = self._config.privacy
        return Privacy(**self._config.as_dict()["privacy"], ledger=self._ledger) if chosen.on else None

    def worker(self) -> Worker:
        return WorkerThread()

    @property
    def _node(self) -> NodeInfo:
        return factory.node_info(self._config, self._name)

    def _loaded(self) -> tuple[Task, DataSource]:
        """The task, and where its data comes from. torch is imported here, and not when a command line is parsed."""
        from edgenode.tasks.local_data import DataSource

        if self._other is not None:
            return self._other._loaded()
        if self._task is None or self._source is None:
            self._task = factory.task(self._config)
            self._source = DataSource(self._task, factory.cut(self._config), self._config.task.validation)
        return self._task, self._source
