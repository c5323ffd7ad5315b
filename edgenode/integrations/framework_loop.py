"""A `Mesh` in a loop that a framework runs.

The framework iterates over the data and steps the optimiser. Its callback reports each step of the optimiser here. A
`Mesh` wants to be iterated over, so `_Turns` stands in for the loader: one turn for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from edgenode.errors import ConfigError
from edgenode.mesh import Mesh, misuse
from edgenode.mesh.framework_data import FrameworkData
from edgenode.mesh.mesh_trainer import Measured

F = TypeVar("F", bound=Callable[[], Measured])
Progress = dict[str, Any]


class FrameworkLoop:
    """One node of a run, which a callback drives.

    Args:
        config: path of run.toml, as of `Mesh`.
        arguments: the other arguments of `Mesh`, such as ``name`` and ``settings``.
    """

    def __init__(self, config: str | Path | None, arguments: dict[str, Any]) -> None:
        self._config, self._arguments = config, arguments
        self._test: Callable[[], Measured] | None = None
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
        """Register what tests the model, as `Mesh.evaluate` does."""
        misuse.refuse_second_test(self._test, fn)
        self._test = fn
        return fn

    def create(self, model: nn.Module, *kept: Any) -> Mesh:
        """Check the configuration and what is trained."""
        self._mesh = mesh = Mesh(model, self._config, *kept, **self._arguments)
        if self._test is not None:
            mesh.evaluate(self._test)
        return mesh

    def begin(
        self, data: FrameworkData, loader: object, samples_of_a_step: int | None, progress: Callable[[], Progress]
    ) -> Progress | None:
        """Join the run, and load the model of its first round.

        Args:
            data: replaces the loader that the framework iterates over.
            loader: the user's loader. The node counts its samples.
            samples_of_a_step: None if unknown.
            progress: returns the counters of the framework, for checkpoints.

        Returns:
            The counters of the checkpoint that this node resumes from, if there is one.
        """
        self._data = data
        turns = _Turns(data, loader, samples_of_a_step, progress)
        self._turns = self.mesh.loop(turns)
        next(self._turns, None)
        return turns.restored

    def trained(self) -> None:
        """Note a batch, before the step of the optimiser that it may complete."""
        self._data.trained()

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
        """End this node, if it runs. With an error, it ends at once."""
        if error is not None and self._mesh is not None:
            self._mesh.__exit__(type(error), error, error.__traceback__)
        if close := getattr(self._turns, "close", None):
            close()


class _Turns:
    """Endless turns for the steps of the optimiser. Their position is the framework's position."""

    def __init__(
        self, data: FrameworkData, loader: object, samples_of_a_step: int | None, progress: Callable[[], Progress]
    ) -> None:
        self._data, self._progress = data, progress
        self.restored: Progress | None = None
        for name in ("dataset", "generator", "sampler", "batch_sampler"):
            setattr(self, name, getattr(loader, name, None))
        self.batch_size = samples_of_a_step

    def __iter__(self) -> Iterator[None]:
        return repeat(None)

    def state_dict(self) -> dict[str, Any]:
        return {"data": self._data.position(), "progress": self._progress()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._data.go_to(state["data"])
        self.restored = state["progress"]


def refuse_several_processes(processes: int) -> None:
    """Raises:
    ConfigError: the framework trains one model with several processes.
    """
    if processes > 1:
        raise ConfigError(
            f"MeshCallback: this trainer has {processes} processes, but a node of a run is one process: train on one "
            "device per node"
        )
