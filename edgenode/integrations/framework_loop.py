"""A `Mesh` in a loop that a framework runs.

The framework iterates over the data and steps the optimiser. Its callback reports each step of the optimiser here. A
`Mesh` wants to be iterated over, so `_Turns` stands in for the loader: one turn for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from itertools import repeat
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from edgenode.errors import ConfigError
from edgenode.mesh import Mesh

F = TypeVar("F", bound=Callable[[], float])


class FrameworkLoop:
    """One node of a run, which a callback drives.

    Args:
        config: path of run.toml, as of `Mesh`.
        arguments: the other arguments of `Mesh`, such as ``name`` and ``settings``.
    """

    def __init__(self, config: str | Path | None, arguments: dict[str, Any]) -> None:
        self._config, self._arguments = config, arguments
        self._test: Callable[[], float] | None = None
        self._mesh: Mesh | None = None
        self._turns: Iterator[None] = iter(())

    @property
    def mesh(self) -> Mesh:
        """The node, once training has begun.

        Raises:
            ConfigError: it has not.
        """
        if self._mesh is None:
            raise ConfigError("MeshCallback.mesh: there is no mesh before training begins")
        return self._mesh

    def evaluate(self, fn: F) -> F:
        """Register what measures the accuracy of the model, as `Mesh.evaluate` does."""
        self._test = fn
        return fn

    def create(self, model: nn.Module, *kept: Any) -> Mesh:
        """Check the configuration and what is trained."""
        self._mesh = mesh = Mesh(model, self._config, *kept, **self._arguments)
        if self._test is not None:
            mesh.evaluate(self._test)
        return mesh

    def begin(self, loader: object, samples_of_a_step: int | None) -> bool:
        """Join the run, and load the model of its first round. Return whether the run is over."""
        self._turns = self.mesh.loop(_Turns(loader, samples_of_a_step))
        next(self._turns, None)
        return self.mesh.done

    def step(self, loss: Tensor | float | None) -> bool:
        """Note a step of the optimiser. Return whether the run is over."""
        self.mesh.step(loss)
        next(self._turns, None)
        return self.mesh.done

    def leave(self) -> None:
        """Training ended. If that was before the end of the run, leave with a handoff."""
        if self._mesh is not None:
            self._mesh.close()
        self.stop()

    def stop(self, error: BaseException | None = None) -> None:
        """End this node at once, if it runs, because of an error."""
        if error is not None and self._mesh is not None:
            self._mesh.__exit__(type(error), error, error.__traceback__)
        if close := getattr(self._turns, "close", None):
            close()


class _Turns:
    """Turns for the steps of the optimiser, as many in a pass as the framework's loader gives.

    Args:
        loader: the framework's. Its samples are counted, and its random generators are kept in checkpoints.
        samples_of_a_step: None if unknown.
    """

    def __init__(self, loader: object, samples_of_a_step: int | None) -> None:
        self.dataset, self.batch_size = getattr(loader, "dataset", None), samples_of_a_step
        self.generator, self.sampler = getattr(loader, "generator", None), getattr(loader, "sampler", None)
        self.batch_sampler = getattr(loader, "batch_sampler", None)

    def __iter__(self) -> Iterator[None]:
        if isinstance(self.dataset, Sized) and self.batch_size:
            return repeat(None, max(1, ceil(len(self.dataset) / self.batch_size)))
        return repeat(None)


def refuse_several_processes(processes: int) -> None:
    """Raises:
    ConfigError: the framework trains one model with several processes.
    """
    if processes > 1:
        raise ConfigError(
            f"MeshCallback: this trainer has {processes} processes, but a node of a run is one process: train on one "
            "device per node"
        )
