"""Differential privacy for a loop of one's own: its batches, and the step of its optimiser.

1. The samples of a batch are drawn as for a trainer (`noisy_steps`), whatever the sampler of the loader would choose.
   Workers of the loader may fetch batches ahead. The ledger counts a batch before it is given.
2. The step of the optimiser begins in `PrivatePasses.before_step`: it clips the gradient of each sample, adds noise to
   their sum, and replaces all gradients by it. So the optimiser sees none that could tell of a sample.
3. A batch has one step of this optimiser, before `Mesh.step` sends what has changed. Everything else is an error.
4. Where no step may be taken, `LEFT_OUT` takes the place of the batch.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from edgenode.errors import ConfigError, EdgenodeError
from edgenode.mesh import random_state
from edgenode.mesh.passes import LEFT_OUT, Passes
from edgenode.mesh.simulated import is_simulated
from edgenode.node.node_options import NodeOptions
from edgenode.storage.privacy_ledger import FileLedger
from edgenode.tasks.noisy_steps import Draw, NoisySteps, Privacy, coarse

_private = WeakSet["PrivatePasses"]()  # those whose loop has not ended
_ANY = 0  # the sample in the place of none, which a loop cannot be given


class PrivatePasses(Passes[Any]):
    """Batches of samples that are drawn by chance, for the loop of the Mesh that made them.

    Args:
        loader: has the data, and how to fetch it.
        noisy: draws, clips and counts.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, loader: DataLoader[Any], noisy: NoisySteps) -> None:
        self._draws = _Draws(noisy)
        super().__init__(_drawing(loader, self._draws), len(loader.dataset))  # type: ignore[arg-type]
        self.noisy: NoisySteps = noisy
        self._model, self._optimizer, self._batch_size = model, optimizer, loader.batch_size or 1
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._ids, self._all = {id(p) for p in self._parameters}, _state_of(model)
        self._given: Draw | None = None  # of the batch that was given, and whose step is to come
        _hook_into_steps()
        _private.add(self)

    @property
    def size(self) -> tuple[int, int]:
        """The samples of the node, to a power of two, and the mean number in a batch."""
        return coarse(self.samples or 1), self._batch_size

    def batches(self) -> Iterator[Any]:
        self.noisy.begin()
        return super().batches()

    def _begin(self) -> Iterator[Any]:
        self._resume, self._given = None, None
        self._draws.begin(self.taken)
        with random_state.preserved(self.generators):  # an iterator draws a seed for its workers
            fetched = iter(self._loader)
        while True:
            if not self.noisy.take():
                yield LEFT_OUT
                continue
            batch = next(fetched)
            self._given = self._draws.ahead.popleft()
            for parameter in self._parameters:
                parameter.grad = None
            yield batch
            self.end_step()

    def end_step(self) -> None:
        if self._given is not None:
            raise EdgenodeError(
                "[privacy]: a batch had no optimizer.step(): call it once for each batch, before mesh.step(), and "
                "fetch no batch ahead"
            )

    def before_step(self, optimizer: Optimizer, has_closure: bool) -> None:
        """Replace the gradients by the noisy mean of the clipped ones, if the optimiser has parameters of the model.

        Raises:
            EdgenodeError: it is not the one step of a batch.
        """
        if self._ids.isdisjoint(id(p) for group in optimizer.param_groups for p in group["params"]):
            return
        if optimizer is not self._optimizer:
            raise EdgenodeError(f"[privacy]: a {_kind(optimizer)} that mesh.private does not have steps the model")
        if has_closure:
            raise EdgenodeError("[privacy]: optimizer.step(closure) computes gradients that have no noise: call step()")
        if _state_of(self._model) != self._all:
            raise EdgenodeError("[privacy]: a parameter was frozen, thawed or replaced after mesh.private")
        if self._given is None:
            raise EdgenodeError("[privacy]: optimizer.step() has no batch of mesh.loop: call it once for each")
        draw, self._given = self._given, None
        self._replace_gradients(draw)

    def _replace_gradients(self, draw: Draw) -> None:
        first = self._parameters[0]
        total = torch.zeros(sum(p.numel() for p in self._parameters), device=first.device)
        if len(draw.chosen):
            self.noisy.add_clipped(total, len(draw.chosen))
        else:
            list(self.noisy.of_samples(1))  # of `_ANY`
        self.noisy.add_noise(total, draw.random)
        pieces = torch.split(total, [p.numel() for p in self._parameters])
        for parameter, piece in zip(self._parameters, pieces, strict=True):
            parameter.grad = piece.view(parameter.shape)

    def end(self) -> None:
        _private.discard(self)
        self.noisy.end()


class _Draws:
    """Endless draws, as the positions of their samples for a loader.

    Attributes:
        ahead: the draws whose batches were not given yet.
    """

    def __init__(self, noisy: NoisySteps) -> None:
        self._noisy, self._step = noisy, 0
        self.ahead = deque[Draw]()

    def begin(self, step: int) -> None:
        """Let the next iteration begin with a step, and forget what was drawn ahead."""
        self._step = step
        self.ahead.clear()

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self._step):
            draw = self._noisy.draw(step)
            self.ahead.append(draw)
            yield draw.chosen.tolist() or [_ANY]


def private_passes(
    options: NodeOptions,
    model: nn.Module,
    kept: Sequence[object],
    optimizer: Optimizer,
    loader: DataLoader[Any],
    planned: int,
) -> PrivatePasses:
    """Return the batches of a node, and make the steps of its optimiser private.

    Args:
        kept: the objects that the Mesh keeps.
        planned: the number of steps of the whole run.

    Raises:
        ConfigError: there would be no guarantee. The text says why.
    """
    config = options.config
    if not config.privacy.on:
        raise ConfigError("mesh.private: run.toml has no [privacy]: set privacy.epsilon, or leave out mesh.private")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _refuse_loader(loader)
    _refuse_optimizer(optimizer, kept, trained)
    if hasattr(model, "autograd_grad_sample_hooks"):
        raise ConfigError("mesh.private: the model has hooks of Opacus already: create it again, for one mesh.private")
    ledger = None if is_simulated() else FileLedger(options.state_dir)
    noisy = NoisySteps(
        model, trained, Privacy(**config.as_dict()["privacy"], ledger=ledger), samples=len(loader.dataset),  # type: ignore[arg-type]
        batch=loader.batch_size or 1, planned=planned, seed=(config.run.seed, zlib.crc32(options.name.encode())),
    )  # fmt: skip
    return PrivatePasses(model, optimizer, loader, noisy)


def refuse_other_loader(is_on: bool, private: PrivatePasses | None, loader: object) -> None:
    """Refuse a loader that is not this Mesh's private one, if there has to be one.

    Raises:
        ConfigError: it is not.
    """
    if (is_on or isinstance(loader, PrivatePasses)) and loader is not private:
        raise ConfigError(
            "[privacy]: the loader of mesh.loop must be that of mesh.private(optimizer, loader), which callbacks of "
            "frameworks do not have"
        )


def _refuse_loader(loader: object) -> None:
    """Raises ConfigError if the samples of a loader cannot be drawn by chance instead, each as likely as any other."""
    if type(loader) is not DataLoader:
        raise ConfigError(f"mesh.private: the loader is a {_kind(loader)}, but it must be a torch DataLoader itself")
    sampler = loader.sampler
    plain = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    if loader.batch_size is None or not plain or len(sampler) != len(loader.dataset):  # type: ignore[arg-type]
        raise ConfigError(
            "mesh.private: the loader must have batch_size, and each sample of its data set once in a pass, as without "
            "a sampler: [privacy] draws the samples itself"
        )
    if not len(sampler):  # type: ignore[arg-type]
        raise ConfigError("mesh.private: the data set of the loader is empty")


def _refuse_optimizer(optimizer: object, kept: Sequence[object], trained: dict[str, nn.Parameter]) -> None:
    """Raises ConfigError if the step of an optimiser cannot be made private, or is not all that changes the model."""
    if not any(optimizer is one for one in kept) or not isinstance(optimizer, Optimizer):
        raise ConfigError("mesh.private: the first argument must be a torch optimiser that was passed to Mesh")
    if any(isinstance(one, torch.amp.GradScaler) for one in kept):
        raise ConfigError("mesh.private: a GradScaler skips steps by the gradients of samples: leave it out")
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trained.items():
        if id(parameter) not in stepped:
            raise ConfigError(f"mesh.private: the {_kind(optimizer)} does not have {name}: give it all that is trained")
        if parameter.dtype != torch.float32:
            raise ConfigError(f"mesh.private: {name} is {parameter.dtype}, but [privacy] needs torch.float32")
    if len({parameter.device for parameter in trained.values()}) > 1:
        raise ConfigError("mesh.private: the parameters are on several devices, but [privacy] needs them on one")


def _drawing(loader: DataLoader[Any], draws: _Draws) -> DataLoader[Any]:
    """A loader that fetches as another one does, but the samples of draws."""
    return DataLoader(
        loader.dataset, batch_sampler=draws, collate_fn=loader.collate_fn, num_workers=loader.num_workers,
        pin_memory=loader.pin_memory, timeout=loader.timeout, worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context, generator=loader.generator,
        prefetch_factor=loader.prefetch_factor, persistent_workers=loader.persistent_workers,
        pin_memory_device=loader.pin_memory_device,
    )  # fmt: skip


def _state_of(model: nn.Module) -> list[tuple[int, bool]]:
    """The parameters of a model, and whether they are trained."""
    return [(id(p), p.requires_grad) for p in model.parameters()]


@cache
def _hook_into_steps() -> None:
    """Tell all `PrivatePasses` of the steps of all optimisers, from now on."""

    def tell(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for passes in list(_private):
            passes.before_step(optimizer, any(value is not None for value in (*args[1:], *kwargs.values())))

    register_optimizer_step_pre_hook(tell)


def _kind(value: object) -> str:
    return type(value).__name__
