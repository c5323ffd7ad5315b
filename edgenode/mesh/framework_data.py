"""The position of a framework in its data.

A framework iterates over its loader itself, and may fetch batches before it trains them: accelerate always has one more
than it gives. `FrameworkData` takes the place of the loader. It counts what was fetched, and the callback counts what
was trained. A batch that was fetched and not trained is fetched again after a restart, with the random numbers of then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from edgenode.mesh import random_state
from edgenode.mesh.passes import Passes


class FrameworkData(Passes[Any]):
    """A loader whose passes a framework begins. Each iteration is one pass."""

    def __init__(self, loader: Any, samples: int | None = None) -> None:
        super().__init__(loader, samples)
        self._keeps_its_position = False  # it may be ahead
        self._before = deque[dict[str, Any]]()  # the generators before the fetch of each batch that is not trained
        self._ended = False

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # accelerate gives the class of its loader for its own
        return type(self._loader) if "_loader" in self.__dict__ else FrameworkData

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self._began is not None and self._resume is None:
            self.number, self.taken = self.number + 1, 0
        fetched_before = self._resume["before"] if self._resume is not None else []
        self._before.clear()
        self._ended = False
        return self._read(self._begin(), fetched_before)

    def _read(self, batches: Iterator[Any], fetched_before: list[dict[str, Any]]) -> Iterator[Any]:
        for state in fetched_before:
            with random_state.preserved(self.generators):
                random_state.restore(state, self.generators)
                batch = next(batches)
            self._before.append(state)
            yield batch
        while True:
            state = random_state.capture(self.generators)
            try:
                batch = next(batches)
            except StopIteration:
                self._ended = True
                return
            self._before.append(state)
            yield batch

    def trained(self) -> None:
        """The framework has trained a batch."""
        self.taken += 1
        if self._before:
            self._before.popleft()

    @property
    def pass_is_over(self) -> bool:
        """Return whether the framework has trained all batches of the pass, and knows it."""
        if self._resume is not None:
            return bool(self._resume["over"])
        return self._ended and not self._before

    def begin_next_pass(self) -> None:
        """Begin the next pass instead of returning to one that is over."""
        self.number, self.taken, self._resume = self.number + 1, 0, None

    def go_to(self, position: dict[str, Any]) -> None:
        """Begin at a position. A framework that is under way cannot return to one: it goes on."""
        if self._began is None:
            super().go_to(position)

    def position(self) -> dict[str, Any]:
        if self._resume is not None:
            return self._resume
        return {**super().position(), "before": list(self._before), "over": self.pass_is_over}
