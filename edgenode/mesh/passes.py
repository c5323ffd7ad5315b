"""Passes over a data loader, one after another, with a position that a checkpoint can hold.

A position is the number of the pass, the batches taken from it, and the state of the random generators at its begin and
now. To return to it:

1. Restore the generators to what they were. All that the loop draws from here on is as before.
2. Begin the pass with the generators of its begin, so that it is shuffled as before, and skip the batches that were
   taken. This leaves the generators as they are after 1.

A loader with a state_dict of its own, such as torchdata's, is asked for its position instead of skipping. Samplers and
data sets with a ``set_epoch`` get the number of each pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from typing import Any, Generic, TypeVar

import structlog
import torch

from edgenode.errors import CheckpointError, EdgenodeError
from edgenode.mesh import random_state
from edgenode.tasks.noisy_steps import NoisySteps

log = structlog.get_logger()

B = TypeVar("B")

LEFT_OUT: Any = object()  # in the place of a batch: a step that the loop does not take

_LOG_SKIPPED = 100


class Passes(Generic[B]):
    """Endless passes over a loader.

    Args:
        samples: the number of samples that the loader draws from. None asks the loader.

    Attributes:
        number: the number of the current pass, from 0.
        taken: batches taken from it.
        noisy: what makes the steps private, if they are.
    """

    noisy: NoisySteps | None = None

    def __init__(self, loader: Iterable[B], samples: int | None = None) -> None:
        self.number = self.taken = 0
        self.generators = _generators(loader)
        self._loader, self._samples = loader, samples
        self._keeps_its_position = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        self._began: dict[str, Any] | None = None  # the generators at the start of the pass
        self._resume: dict[str, Any] | None = None  # the position to begin at

    @property
    def samples(self) -> int | None:
        """The number of samples that the loader draws from. None if it does not tell.

        A sampler may use a part of the data set, or draw samples of it more than once.
        """
        if self._samples is not None:
            return self._samples
        batch_sampler = getattr(self._loader, "batch_sampler", None)
        owners = (self._loader, "dataset"), (self._loader, "sampler"), (batch_sampler, "sampler")
        lengths = [_length(getattr(owner, name, None)) for owner, name in owners]
        return min((length for length in lengths if length is not None), default=None)

    @property
    def size(self) -> tuple[int, int]:
        """The samples of a pass and of a batch. A loader that does not tell counts batches instead of samples."""
        samples, batches = self.samples, _length(self._loader)
        if samples is None:
            return (batches or 1), 1
        of_a_batch = getattr(self._loader, "batch_size", None)
        if not isinstance(of_a_batch, int):
            of_a_batch = math.ceil(samples / (batches or 1))
        return samples, max(1, of_a_batch)

    def batches(self) -> Iterator[B]:
        """The batches from the current position on, without an end.

        Raises:
            EdgenodeError: a pass is empty.
        """
        while True:
            for batch in self._begin():
                self.taken += 1
                yield batch
                if self._resume is not None:  # `go_to` has set it
                    break
            else:
                if not self.taken:
                    raise why_empty(self.number)
                self.number, self.taken = self.number + 1, 0

    def _begin(self) -> Iterator[B]:
        resume, self._resume = self._resume, None
        for part in _parts(self._loader):
            if hasattr(part, "set_epoch"):
                part.set_epoch(self.number)
        if resume is None or not self.taken:
            self._began = random_state.capture(self.generators)
            return iter(self._loader)
        with random_state.preserved(self.generators):
            self._began = resume["began"]
            random_state.restore(self._began, self.generators)
            if self._keeps_its_position:
                self._loader.load_state_dict(resume["loader"])  # type: ignore[attr-defined]
            batches = iter(self._loader)
            if not self._keeps_its_position:
                self._skip(batches)
        return batches

    def _skip(self, batches: Iterator[B]) -> None:
        if self.taken > _LOG_SKIPPED:
            log.info("returning to the position in the data", batches=self.taken, epoch=self.number)
        for skipped in range(self.taken):
            try:
                next(batches)
            except StopIteration:
                raise CheckpointError(
                    f"the checkpoint is at batch {self.taken} of a pass, but this loader has only {skipped}: "
                    "resume with the same data, or start with fresh=True"
                ) from None

    def end_step(self) -> None:
        """The step of a batch is over. Raises EdgenodeError if there was none, and there must be one."""

    def end(self) -> None:
        """The loop has ended."""

    # --- the position -------------------------------------------------------------------------------

    def position(self) -> dict[str, Any]:
        """Return the position of the loop: the batch taken last is done."""
        if self._resume is not None:
            return self._resume
        now = random_state.capture(self.generators)
        loader = self._loader.state_dict() if self._keeps_its_position and self.taken else None  # type: ignore[attr-defined]
        began = self._began or now
        return {"pass": self.number, "taken": self.taken, "began": began, "now": now, "loader": loader}

    def go_to(self, position: dict[str, Any]) -> None:
        """Begin at a position, with its random generators. A loop under way does so after the batch that it has."""
        self.number, self.taken, self._resume = position["pass"], position["taken"], position
        random_state.restore(position["now"], self.generators)


def _length(obj: object) -> int | None:
    with suppress(TypeError):  # of a loader over an iterable data set
        return len(obj) if isinstance(obj, Sized) else None
    return None


def _parts(loader: object) -> list[object]:
    """Return the objects that decide on the batches of a loader, or of a list of loaders, each once."""
    if isinstance(loaders := getattr(loader, "flattened", None), list):
        return [part for one in loaders for part in _parts(one)]
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)
    return list({id(part): part for part in (loader, *samplers, getattr(loader, "dataset", None))}.values())


def _generators(loader: object) -> list[torch.Generator]:
    """The generators that belong to a loader."""
    found = (getattr(part, "generator", None) for part in _parts(loader))
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def why_empty(number: int) -> EdgenodeError:
    """Return the error of a pass without a batch."""
    if number == 0:
        return EdgenodeError("mesh.loop: the loader has no batch")
    return EdgenodeError(
        "mesh.loop: the second pass over the loader has no batch: the run needs many passes, "
        "so give it a DataLoader or a list, not a generator"
    )
