"""Mistakes in the use of a Mesh that would train something else than meant, without an error: found and named."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import structlog
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook

from edgenode.errors import ConfigError, EdgenodeError
from edgenode.mesh.mesh_options import log_as_the_daemon_does
from edgenode.tasks.flat_params import FlatParameters
from edgenode.tasks.packing import pack
from edgenode.tasks.shared_part import Shared

log = structlog.get_logger()

_CALL = 'Mesh(model, "run.toml", optimizer, scheduler)'
_MOST_SAMPLES = 1 << 40
_WATCHED_STEPS = 20  # a gradient scaler skips fewer steps at the start


# --- the arguments --------------------------------------------------------------------------------------


def refuse_wrong_types(
    model: object, config: object, kept: Sequence[object], settings: object, samples: object
) -> None:
    """Refuse arguments of Mesh that are of another kind, as when one was left out.

    Raises:
        ConfigError: one is.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"Mesh: the first argument is a {_kind(model)}, but it must be the torch.nn.Module: {_CALL}")
    if config is not None and not isinstance(config, str | os.PathLike):
        raise ConfigError(
            f"Mesh: the second argument is a {_kind(config)}, but it must be the path of run.toml, or None: {_CALL}; "
            'keys of run.toml go into settings={"run.rounds": 500}'
        )
    for state in kept:
        if isinstance(state, Sequence | Mapping | set):
            raise ConfigError(f"Mesh: an optimiser or schedule is inside of a {_kind(state)}: pass each alone: {_CALL}")
        if not (callable(getattr(state, "state_dict", None)) and callable(getattr(state, "load_state_dict", None))):
            raise ConfigError(
                f"Mesh: a {_kind(state)} has no state_dict and load_state_dict, so a checkpoint cannot keep it: {_CALL}"
            )
    if not isinstance(settings, Mapping):
        raise ConfigError(f'Mesh: settings is a {_kind(settings)}, but it must be a dict, as in {{"run.rounds": 500}}')
    if samples is not None and not (type(samples) is int and 1 <= samples <= _MOST_SAMPLES):
        raise ConfigError(f"Mesh: samples is {samples!r}, but it must be a whole number from 1 to 2**40, or None")


def refuse_unknown_samples(objective: str, samples: int | None) -> None:
    """Refuse a loader whose number of samples is unknown or 0, if nodes count by their samples.

    Raises:
        ConfigError: it is.
    """
    if objective != "samples" or samples:
        return
    if samples == 0:
        raise ConfigError('task.objective = "samples": the loader has no samples, so this node would count nothing')
    raise ConfigError(
        'task.objective = "samples": the loader does not tell how many samples it draws from: pass their number, as in '
        "Mesh(..., samples=400)"
    )


def refuse_unfit(model: nn.Module, shared: Shared, kept: Sequence[Any]) -> None:
    """Refuse a model that cannot be averaged, an optimiser of something else, and what a checkpoint cannot keep.

    Raises:
        ConfigError: the text says which of them, and why.
    """
    FlatParameters(model, shared)
    _refuse_foreign_optimisers(model, kept)
    for state in kept:
        pack(type(state).__name__, state.state_dict())


def _refuse_foreign_optimisers(model: nn.Module, kept: Iterable[object]) -> None:
    """Refuse an optimiser that updates something else than the model.

    Raises:
        ConfigError: it does.
    """
    own = {id(parameter) for parameter in model.parameters()}
    for optimizer in _optimisers(kept):
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if id(parameter) not in own:
                raise ConfigError(
                    f"the {_kind(optimizer)} updates a tensor of shape {tuple(parameter.shape)} that is not a "
                    "parameter of the model, shared or its own: create it from model.parameters()"
                )


def refuse_replaced_parameters(before: Mapping[str, nn.Parameter], model: nn.Module) -> None:
    """Refuse a model whose layers were changed since the Mesh was created.

    Args:
        before: its parameters then.

    Raises:
        ConfigError: a parameter was replaced, added or removed.
    """
    now = dict(model.named_parameters())
    for name in [*before, *now]:
        if before.get(name) is not now.get(name):
            raise ConfigError(
                f"mesh.loop: the parameter {name} was replaced, added or removed after Mesh(...): change the layers "
                "first, then create the optimiser, then the Mesh"
            )


def refuse_second_test(registered: Callable[..., Any] | None, fn: Callable[..., Any]) -> None:
    """Refuse a function that tests the model, if another one is registered. A notebook may run a cell again.

    Raises:
        ConfigError: the first would be replaced without a word.
    """
    if registered is None:
        return
    before, now = (getattr(test, "__qualname__", "a function") for test in (registered, fn))
    if before != now:
        raise ConfigError(
            f"mesh.evaluate: {before} is registered already, and {now} would replace it: return all metrics in one dict"
        )


not_looped = set[int]()  # every Mesh that has no loop yet, by its id


@atexit.register
def _warn_of_no_loop() -> None:
    """Warn of a Mesh that never joined its run, unless the program failed before."""
    if not_looped and not hasattr(sys, "last_value"):
        log_as_the_daemon_does()
        log.warning(
            "the program ends, but its Mesh has no loop: this node took no part in the run",
            hint="iterate over mesh.loop(loader), and call mesh.step() in the body",
        )


# --- the loop -------------------------------------------------------------------------------------------


def no_loop(method: str) -> EdgenodeError:
    """Return the error of a method that was called without a loop."""
    return EdgenodeError(
        f"mesh.{method}: there is no loop; iterate over mesh.loop(loader), and call {method} in its body"
    )


def refuse_second_loop(has_loop: bool, is_over: bool, broke_off: bool) -> None:
    """Refuse a loop of a mesh that has or had one.

    Raises:
        EdgenodeError: it has.
    """
    if is_over and broke_off:
        raise EdgenodeError("mesh.loop: this mesh was left before its run ended; create another Mesh to resume")
    if is_over:
        raise EdgenodeError("mesh.loop: the run of this mesh is over; create another Mesh")
    if has_loop:
        raise EdgenodeError("mesh.loop: this mesh has a loop already; a mesh has one loop, over one loader")


def refuse_pass_without_step(passes: int) -> None:
    """Refuse a loop whose body does not call step.

    Args:
        passes: those that have begun since the last step.

    Raises:
        EdgenodeError: it does not.
    """
    if passes > 1:
        raise EdgenodeError(
            "mesh.step() was not called in a whole pass over the loader: call it in the body of the loop, after "
            "optimizer.step()"
        )


def refuse_wrong_step(is_over: bool, in_thread_of_loop: bool, has_batch: bool) -> None:
    """Refuse a call of step at the wrong moment, or in another thread.

    Raises:
        EdgenodeError: it is one.
    """
    if is_over:
        raise EdgenodeError("mesh.step: the run is over; the loop ends after the step that ended it")
    if not in_thread_of_loop:
        raise EdgenodeError("mesh.step: call it in the thread that runs the loop")
    if not has_batch:
        raise EdgenodeError(
            "mesh.step was called twice for one batch: call it once, as the last statement in the body of the loop"
        )


class OptimiserWatch:
    """Warns once if an optimiser that the Mesh does not keep steps the parameters, or if none that it keeps steps.

    The first would be missing in checkpoints, and the second hide that. The first steps of the loop show it. A kept
    object of an unknown kind that can step may have an optimiser inside, so there is no warning then.

    Args:
        parameters: those that are averaged.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], kept: Sequence[object]) -> None:
        self._parameters = {id(p) for p in parameters}
        self._kept = {id(optimizer) for optimizer in _optimisers(kept)}
        self._by_kept, self._by_others = set[int](), dict[int, str]()
        self._kept_stepped = False
        self._left = 0 if any(map(_may_optimise, kept)) else _WATCHED_STEPS
        if self._left:
            _watch_steps()
            _watches.append(weakref.ref(self, _watches.remove))

    def note(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimiser has taken a step."""
        if not self._left:
            return
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]} & self._parameters
        if id(optimizer) in self._kept:
            self._by_kept |= stepped
            self._kept_stepped = True
        else:
            self._by_others |= dict.fromkeys(stepped, _kind(optimizer))

    def end_step(self) -> None:
        """A step of the loop has ended."""
        if not self._left:
            return
        self._left -= 1
        others = {name for p, name in self._by_others.items() if p not in self._by_kept}
        if others:
            log.warning(
                "an optimiser that was not passed to Mesh steps its parameters, so checkpoints do not have its state",
                optimiser=min(others),
                hint=f"create the optimiser first, and pass it: {_CALL}",
            )
            self._left = 0
        elif not self._left and self._kept and not self._kept_stepped:
            log.warning(
                "no optimiser that was passed to Mesh has taken a step",
                calls_of_mesh_step=_WATCHED_STEPS,
                hint="call optimizer.step() before mesh.step(), on the optimiser that was passed",
            )
        self._by_kept.clear()
        self._by_others.clear()


_watches: list[weakref.ref[OptimiserWatch]] = []


@cache
def _watch_steps() -> None:
    """Tell all watches of the steps of all optimisers, from now on.

    torch iterates over its global hooks, and a garbage collection may end a watch meanwhile. So no hook is removed.
    """

    def tell(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for watch in [reference() for reference in _watches.copy()]:
            if watch is not None:
                watch.note(optimizer)

    register_optimizer_step_post_hook(tell)


def _optimisers(kept: Iterable[object]) -> Iterable[torch.optim.Optimizer]:
    return (obj for obj in kept if isinstance(obj, torch.optim.Optimizer))


def _may_optimise(kept: object) -> bool:
    """Return whether an object of an unknown kind can step."""
    known = isinstance(kept, torch.optim.Optimizer | LRScheduler | nn.Module | torch.amp.GradScaler)
    return not known and hasattr(kept, "step")


def _kind(value: object) -> str:
    return type(value).__name__
