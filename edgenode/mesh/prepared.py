"""Optimisers, schedules and loaders that accelerate's ``prepare`` has wrapped, in a loop of one's own.

The wrapper of a loader always fetches a batch ahead. So `FrameworkData` takes the place of the loader inside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from edgenode.mesh.framework_data import FrameworkData
from edgenode.mesh.passes import Passes, why_empty

B = TypeVar("B")


def unwrapped(kept: Any) -> Any:
    """Return the optimiser or the schedule that accelerate has wrapped, or else the object itself."""
    if not _is_prepared(kept):
        return kept
    return getattr(kept, "optimizer", None) or getattr(kept, "scheduler", None) or kept


def passes_over(loader: Iterable[B], samples: int | None) -> Passes[B]:
    """Return endless passes over a loader of any kind."""
    if _is_prepared(loader) and hasattr(loader, "base_dataloader"):
        return _PreparedPasses(loader, samples)
    return Passes(loader, samples)


def _is_prepared(value: object) -> bool:
    return type(value).__module__.startswith("accelerate.")


class _PreparedPasses(FrameworkData):
    """Passes over a loader of accelerate, whose position is that of the loader inside of it."""

    def __init__(self, prepared: Any, samples: int | None) -> None:
        inner = prepared.base_dataloader
        super().__init__(inner._loader if type(inner) is type(self) else inner, samples)
        self._prepared = prepared
        prepared.base_dataloader = self

    def batches(self) -> Iterator[Any]:
        while True:
            for batch in self._prepared:
                self.trained()
                yield batch
                if self._resume is not None:  # `go_to` has set it
                    break
            else:
                if not self.taken:
                    raise why_empty(self.number)

    def go_to(self, position: dict[str, Any]) -> None:
        Passes.go_to(self, position)
