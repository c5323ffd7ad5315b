"""`MeshCallback`: Lightning's Trainer as a node of a run. Needs the package `lightning`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from edgenode.integrations.framework_loop import FrameworkLoop, refuse_several_processes
from edgenode.mesh import Mesh

F = TypeVar("F", bound=Callable[[], float])


class MeshCallback(Callback):  # type: ignore[misc]
    """Trains the module as one node of a run, which decides how long `Trainer.fit` takes.

    Every ``task.local_steps``-th step of the optimiser is a round. ``max_epochs`` and ``max_steps`` of the Trainer have
    no effect. If something else ends training first, such as ``max_time``, this node leaves the run. Checkpoints keep
    the optimisers, the schedules and the precision plugin.

    Args:
        config: path of run.toml, as of `edgenode.Mesh`.
        arguments: all other arguments of `edgenode.Mesh`, such as ``name`` and ``settings``.

    Raises:
        ConfigError: in `Trainer.fit`, run.toml, an argument or the module cannot be used. The text says why.

    Example:
        >>> mesh = MeshCallback("run.toml")
        >>> Trainer(callbacks=[mesh]).fit(module, loader)
    """

    def __init__(self, config: str | Path | None = None, **arguments: Any) -> None:
        self._loop = FrameworkLoop(config, arguments)
        self._steps, self._loss = 0, list[torch.Tensor]()

    @property
    def mesh(self) -> Mesh:
        """The node, once training has begun."""
        return self._loop.mesh

    def evaluate(self, fn: F) -> F:
        """Register what measures the accuracy of the module, as `edgenode.Mesh.evaluate` does."""
        return self._loop.evaluate(fn)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_several_processes(trainer.world_size)
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._loop.create(pl_module, *trainer.optimizers, *schedules, trainer.precision_plugin)
        loader = trainer.train_dataloader
        batch_size = getattr(loader, "batch_size", None)
        samples = batch_size * trainer.accumulate_grad_batches if batch_size else None
        trainer.fit_loop.max_epochs = trainer.fit_loop.epoch_loop.max_steps = -1
        self._steps = trainer.global_step
        trainer.should_stop = self._loop.begin(loader, samples)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            # Lightning has divided it by the batches of a full step. The last step of an epoch may have fewer.
            self._loss.append(loss.detach() * trainer.accumulate_grad_batches)
        if trainer.global_step == self._steps:
            return  # gradients accumulate
        self._steps = trainer.global_step
        mean = torch.stack(self._loss).mean() if self._loss else None
        self._loss.clear()
        if self._loop.step(mean):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._loop.leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            self._loop.leave()
        else:
            self._loop.stop(exception)
