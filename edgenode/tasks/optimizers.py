"""The optimiser of a trainer: SGD on the flat vector, or any of torch.optim with a schedule around it.

State such as momentum belongs to the path of this node's model. It is never averaged with other nodes', and a newcomer
starts without any. The state of a scheduler counts rounds, so a newcomer takes over its sponsor's.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgenode.errors import CheckpointError, ConfigError
from edgenode.tasks.flat_params import FlatModel, FlatParameters
from edgenode.tasks.packing import pack, unpack
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import RunLength, Task

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

Arrays = dict[str, NDArray[Any]]

MOMENTUM, OPTIMIZER, SCHEDULE = "momentum", "optimizer", "schedule.state"
_CLASSES = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")


class Descent(ABC):
    """Takes the steps of a trainer, with the learning rate of each round.

    Attributes:
        run: its length, which can become longer.
        remedy: the key to lower if training diverges.
    """

    def __init__(self, settings: TrainSettings, run: RunLength) -> None:
        self._settings, self.run = settings, run
        self.remedy = f"task.learning_rate = {settings.learning_rate:g}"

    @abstractmethod
    def begin_round(self, t: int) -> None:
        """Set the learning rate of round t."""

    @abstractmethod
    def step(self) -> None:
        """Take one step along the gradients."""

    def end_round(self) -> None:  # noqa: B027
        """Note that the steps of the round are taken."""

    @abstractmethod
    def state(self, copy: bool = True) -> Arrays:
        """Return the state for a checkpoint, by names that begin with the constants of this module.

        Without ``copy``, the arrays may be the optimiser's own, which its next step changes.
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Restore what `state` returned. Raises CheckpointError if it belongs to another optimiser."""


def build_descent(task: Task, flat: FlatParameters, settings: TrainSettings, run: RunLength) -> Descent:
    """Return the optimiser that a task gives, or else the one of its settings.

    Raises ConfigError if the optimiser or the scheduler of the task cannot be used.
    """
    own = task.optimizer(flat.model)
    scheduled = type(task).scheduler is not Task.scheduler
    if own is None and settings.optimizer == "sgd" and not scheduled and isinstance(flat, FlatModel):
        return FlatSGD(flat, settings, run)
    if own is not None:
        _check_optimizer(own, flat.model, f"{type(task).__name__}.optimizer")
    optimizer = own or _named(flat.model, settings)
    return TorchDescent(optimizer, lambda run: _scheduler(task, optimizer, run), settings, run, is_own=own is not None)


def _check_optimizer(optimizer: object, model: nn.Module, place: str) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(f"{place} returns {optimizer!r}, but it must be an optimiser of torch.optim or None")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigError(f"{place} returns LBFGS, which evaluates the loss itself: choose another optimiser")
    known = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) not in known for group in optimizer.param_groups for parameter in group["params"]):
        raise ConfigError(f"{place} returns an optimiser of other parameters: build it from the argument model")


def _scheduler(task: Task, optimizer: Optimizer, run: RunLength) -> LRScheduler | None:
    """Return the scheduler of a task for a run, before its first round."""
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

    scheduler, place = task.scheduler(optimizer, run), f"{type(task).__name__}.scheduler"
    if scheduler is None:
        return None
    if not isinstance(scheduler, LRScheduler):
        raise ConfigError(f"{place} returns {scheduler!r}, but it must be a scheduler of torch.optim or None")
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError(
            f"{place} returns ReduceLROnPlateau, but a schedule must depend on the round only: choose another"
        )
    return scheduler


def _named(model: nn.Module, settings: TrainSettings) -> Optimizer:
    if settings.optimizer == "muon":
        from edgenode.tasks.muon import MuonAndAdamW

        return MuonAndAdamW(model, settings.learning_rate, settings.weight_decay)
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = settings.momentum
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    (name,) = (name for name in _CLASSES if name.lower() == settings.optimizer)
    optimizer: Optimizer = getattr(torch.optim, name)(parameters, **options)
    return optimizer


class FlatSGD(Descent):
    """torch.optim.SGD on the flat vector.

    The class itself is not used: it imports torch's compiler, which takes a second and 70 MB on a desktop. A test
    checks that these lines agree with it to the bit.
    """

    def __init__(self, flat: FlatModel, settings: TrainSettings, run: RunLength) -> None:
        super().__init__(settings, run)
        self._rate = settings.learning_rate
        momentum = [flat.zeros_padded()] if settings.momentum else []
        self._vectors = *([vector] for vector in flat.padded), momentum
        self._momentum = momentum[0][: flat.trained_size] if momentum else torch.zeros(0)

    def begin_round(self, t: int) -> None:
        self._rate = self._settings.rate(self._settings.learning_rate, t, self.run)

    def step(self) -> None:
        with torch.no_grad():
            torch._fused_sgd_(  # one pass over the vectors
                *self._vectors,
                weight_decay=self._settings.weight_decay,
                momentum=self._settings.momentum,
                lr=self._rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,  # the momentum is 0 then, so it is the gradient after the step
            )

    def state(self, copy: bool = True) -> Arrays:
        momentum = self._momentum.cpu().numpy()
        return {MOMENTUM: momentum.copy() if copy else momentum}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        if state.keys() != {MOMENTUM}:
            raise CheckpointError(f"local state of another optimiser: {', '.join(sorted(state)) or 'none'}")
        if state[MOMENTUM].shape != tuple(self._momentum.shape):
            raise CheckpointError(f"{MOMENTUM!r} has shape {state[MOMENTUM].shape}, not {tuple(self._momentum.shape)}")
        self._momentum.copy_(torch.from_numpy(np.array(state[MOMENTUM])))


class TorchDescent(Descent):
    """An optimiser of torch.optim, with a scheduler, or else with the schedule of the settings on its own rates.

    A scheduler may depend on the length of the run. If that changes, another one is made, and brought to the round.

    Args:
        scheduler: makes the scheduler of a run, before its first round.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Callable[[RunLength], LRScheduler | None],
        settings: TrainSettings,
        run: RunLength,
        is_own: bool = False,
    ) -> None:
        super().__init__(settings, run)
        if is_own:
            self.remedy = "the learning rate of the task's optimiser"
        self._optimizer = optimizer
        self._base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._make_scheduler, self._scheduler, self._scheduled = scheduler, scheduler(run), run.rounds

    def begin_round(self, t: int) -> None:
        if self._scheduler is None:
            for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = self._settings.rate(base, t, self.run)
        elif self._scheduled != self.run.rounds:
            self._schedule_again(t)

    def _schedule_again(self, t: int) -> None:
        """Use the scheduler of the run as long as it is now, as it would be in round t."""
        for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base
            group.pop("initial_lr", None)
        self._scheduler, self._scheduled = self._make_scheduler(self.run), self.run.rounds
        with warnings.catch_warnings(action="ignore"):  # that the optimiser has taken no step yet
            for _ in range(t if self._scheduler else 0):
                self.end_round()

    def step(self) -> None:
        self._optimizer.step()

    def end_round(self) -> None:
        if self._scheduler is not None:
            self._scheduler.step()

    def state(self, copy: bool = True) -> Arrays:
        state = pack(OPTIMIZER, self._optimizer.state_dict(), copy)
        if self._scheduler is None:
            return state
        return {**state, **pack(SCHEDULE, {"rounds": self._scheduled, "state": self._scheduler.state_dict()})}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        try:
            self._optimizer.load_state_dict(unpack(OPTIMIZER, state))
            if self._scheduler is not None:
                schedule = unpack(SCHEDULE, state)
                self._scheduler.load_state_dict(schedule["state"])
                self._scheduled = int(schedule["rounds"])
                # A newcomer has its sponsor's scheduler and an optimiser of its own.
                for group, rate in zip(self._optimizer.param_groups, self._scheduler.get_last_lr(), strict=True):
                    group["lr"] = rate
        except (ValueError, KeyError, TypeError) as exc:
            raise CheckpointError(f"local state of another optimiser: {exc}") from exc
