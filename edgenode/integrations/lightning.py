"""`MeshCallback`: Lightning's Trainer as a node of a run. Needs the package `lightning`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops import evaluation_loop, fit_loop, training_epoch_loop
from lightning.pytorch.utilities.exceptions import SIGTERMException

from edgenode.errors import ConfigError
from edgenode.integrations.framework_loop import FrameworkLoop, Progress, refuse_several_processes
from edgenode.mesh import Mesh
from edgenode.mesh.framework_data import FrameworkData
from edgenode.mesh.mesh_trainer import Measured
from edgenode.tasks.packing import pack

F = TypeVar("F", bound=Callable[[], Measured])


class MeshCallback(Callback):  # type: ignore[misc]
    """Trains the module as one node of a run, which decides how long `Trainer.fit` takes.

    Every ``task.local_steps``-th step of the optimiser is a round. ``max_epochs`` and ``max_steps`` of the Trainer have
    no effect. If something else ends training first, such as ``max_time``, this node leaves the run. Checkpoints keep
    the optimisers, the schedules, the precision plugin, the counters of the Trainer, the position in the data, and the
    state of other callbacks as far as it is of numbers, text and tensors.

    Args:
        config: path of run.toml, as of `edgenode.Mesh`.
        arguments: all other arguments of `edgenode.Mesh`, such as ``name`` and ``settings``.

    Raises:
        ConfigError: in `Trainer.fit`, run.toml, an argument or the module cannot be used. The text says why.

    Examples:
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
        """Register what tests the module, as `edgenode.Mesh.evaluate` does."""
        return self._loop.evaluate(fn)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_several_processes(trainer.world_size)
        if trainer.reload_dataloaders_every_n_epochs:
            raise ConfigError(
                "Trainer.reload_dataloaders_every_n_epochs would replace the loader whose position checkpoints keep: "
                "leave it 0"
            )
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._loop.create(pl_module, *trainer.optimizers, *schedules, trainer.precision_plugin)
        loader, fit = trainer.train_dataloader, trainer.fit_loop
        batch_size = getattr(loader, "batch_size", None)
        samples = batch_size * trainer.accumulate_grad_batches if batch_size else None
        data = FrameworkData(fit._combined_loader)
        fit._data_fetcher.setup(data)
        fit.epoch_loop.max_steps = -1
        if (progress := self._loop.begin(data, loader, samples, lambda: _progress(trainer))) is not None:
            _resume(trainer, progress)
        iter(fit._data_fetcher)
        self._steps = trainer.global_step
        self._expect_epochs(trainer)
        trainer.should_stop = self.mesh.done

    def _expect_epochs(self, trainer: Trainer) -> None:
        """Set how many epochs progress bars show. It is never so few that Lightning ends before the run does."""
        batches, in_all = trainer.num_training_batches, 0
        if math.isfinite(batches):  # a stream has no length
            in_all = math.ceil(self.mesh.steps / max(1, math.ceil(batches / trainer.accumulate_grad_batches)))
        trainer.fit_loop.max_epochs = max(in_all, trainer.fit_loop.epoch_progress.current.processed + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._expect_epochs(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loop.trained()
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


def _progress(trainer: Trainer) -> Progress:
    """Return the counters of all loops and the state of callbacks, in the hook `on_train_batch_end`.

    Lightning keeps both in its own checkpoints, too.
    """
    loops = trainer.fit_loop.state_dict()
    del loops["state_dict"]  # the position of loaders, which FrameworkData keeps
    states = {callback.state_key: callback.state_dict() for callback in trainer.callbacks}
    return {"loops": loops, "callbacks": {key: state for key, state in states.items() if _can_be_kept(state)}}


def _can_be_kept(state: object) -> bool:
    try:
        pack("state", state)
    except ConfigError:
        return False
    return bool(state)


def _resume(trainer: Trainer, progress: Progress) -> None:
    """Continue after the hook in which the counters were taken.

    Lightning, when it resumes from a checkpoint of this hook, omits the validation and the hooks of an epoch's end that
    would follow. To run them, this sets the loops to the state after the batch, with its validation under way.
    """
    # Lightning does not know that FrameworkData keeps the position in the loader.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    fit.load_state_dict(progress["loops"])
    for callback in trainer.callbacks:
        if state := progress["callbacks"].get(callback.state_key):
            callback.load_state_dict(state)
    fit._restarting = epoch.val_loop._restarting = False
    epoch.batch_progress.increment_completed()
    fit._restart_stage = fit_loop.RestartStage.RESTARTED_MID_EPOCH
    epoch._restart_stage = training_epoch_loop.RestartStage.RESTARTED_ON_LAST
    epoch.val_loop._restart_stage = evaluation_loop.RestartStage.RESTARTED_MID_EVALUATION
    if not epoch._should_accumulate() and not epoch._should_check_val_fx(fit._data_fetcher):
        epoch._batches_that_stepped += 1  # else the end of the validation adds it
