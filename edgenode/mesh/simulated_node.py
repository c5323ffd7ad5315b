"""The node of a Mesh whose run is simulated: it answers the simulation in the thread of the user's loop.

It takes the places of the node's thread and of the worker (`node_thread`, `worker`). There is neither a network nor a
second thread.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from edgenode import factory
from edgenode.core.algorithm.trained_model import LazyModel
from edgenode.errors import EdgenodeError
from edgenode.mesh.mesh_trainer import MeshTrainer
from edgenode.mesh.node_thread import MeshWorkload, NodeThread
from edgenode.mesh.simulated import is_simulated, take_pipe
from edgenode.mesh.worker import UserThread
from edgenode.node.node_options import NodeOptions
from edgenode.node.remote_trainer import Begin, Call, Description, End, receive, send

_SIGTERM_CODE = 128 + 15


class SimulatedNode:
    """One node of a simulation.

    Attributes:
        result: the content of result.json, after the run.
    """

    def __init__(self, options: NodeOptions, trainer: MeshTrainer, pipe: Connection) -> None:
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None  # every error is raised where it occurs
        self._options, self._trainer, self._pipe = options, trainer, pipe
        self._trains = False

    def start(self) -> None:
        """Take part."""
        config, trainer = self._options.config, self._trainer
        about = trainer.facts, trainer.data_size, trainer.layout, trainer.parameter_counts, trainer.remedy
        self._send(Description(config, *about, trainer.metadata, trainer.tests_alike))

    def serve(self) -> bool:
        """Answer until it is the user's turn to train. Return whether it is. If not, the run has ended.

        Raises:
            EdgenodeError: the simulation has ended before the run.
        """
        if self._trains:
            self._trains = False
            exchange = self._trainer.round // factory.exchange_rounds(self._options.config)
            self._answer(self._trainer.train, exchange, self._trainer.staging)
        while True:
            match self._receive():
                case Begin(t, z):
                    self._trainer.hand_over(t, LazyModel(lambda _: z))
                    self._trains = True
                    return True
                case Call(method, args):
                    self._answer(getattr(self._trainer, method), *args)
                case End(result):
                    self.result = result
                    return False

    def _answer(self, work: Callable[..., Any], *args: Any) -> None:
        """Send a result, or an error that ends the run. An error of the user's code ends this script."""
        try:
            answer = work(*args)
        except EdgenodeError as exc:
            answer = exc
        self._send(answer)

    def _send(self, message: object) -> None:
        try:
            send(self._pipe, message)
        except OSError:
            raise EdgenodeError("the simulation has ended before the run") from None

    def _receive(self) -> Any:
        try:
            return receive(self._pipe)
        except (EOFError, OSError):
            raise EdgenodeError("the simulation has ended before the run") from None

    # --- the end ------------------------------------------------------------------------------------

    def stop_run(self) -> None:
        """End the simulation: it has no controller."""
        self._refuse("mesh.stop() was called")

    def end_training(self) -> None:
        """End the simulation: its nodes stay to the end."""
        self._refuse("the loop was left before the run ended (break, return or mesh.close)")

    def _refuse(self, what: str) -> NoReturn:
        """Let the simulation end all scripts, this one included."""
        reason = f"{what} at {self._options.name} in round {self._trainer.round}, which cannot be simulated"
        self._send(EdgenodeError(f"{reason}: use edgenode launch"))
        while True:
            self._receive()

    def leave(self) -> None:
        """SIGTERM, with which the simulation ends its scripts: run no more of this one than its clean-up."""
        raise SystemExit(_SIGTERM_CODE)

    def stop(self, reason: str) -> None:
        """Take no more part. The simulation sees it."""
        self._pipe.close()

    def surfaced(self, error: BaseException) -> BaseException:
        """Return an error as it is."""
        return error

    def join(self) -> None:
        """There is no thread to wait for."""


def node_of(
    options: NodeOptions, trainer: MeshTrainer
) -> tuple[NodeThread | SimulatedNode, UserThread | SimulatedNode]:
    """Return the node of a loop, and the worker in which the loop serves it.

    Raises:
        EdgenodeError: this process is a simulated node that has a loop already.
    """
    if is_simulated():
        simulated = SimulatedNode(options, trainer, take_pipe())
        return simulated, simulated
    worker = UserThread(trainer.hand_over)
    return NodeThread(options, MeshWorkload(trainer, worker), worker), worker
