"""The loop of a Mesh from its first batch to its end: the turns of the user and of the node, in one thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import structlog
from torch import Tensor

from edgenode.errors import EdgenodeError, described
from edgenode.mesh import misuse
from edgenode.mesh.ending import Ending, sigterm_leaves
from edgenode.mesh.loop_exit import advancing, is_left_on_purpose
from edgenode.mesh.mesh_trainer import MeshTrainer
from edgenode.mesh.passes import LEFT_OUT, Passes
from edgenode.mesh.simulated_node import node_of
from edgenode.node.node_options import NodeOptions

log = structlog.get_logger()

B = TypeVar("B")


class RunningLoop(Generic[B]):
    """The loop of one node, in the thread that makes it.

    Attributes:
        trainer: the user's model and optimiser as a trainer.
        passes: the passes over the user's loader.
        done: the run is over for this node: it ended, was stopped, or failed.
        ending: stops the node if the loop ends before the run.

    Raises:
        EdgenodeError: this process is a simulated node that has a loop already.
    """

    def __init__(self, options: NodeOptions, trainer: MeshTrainer, passes: Passes[B]) -> None:
        self.trainer, self.passes = trainer, passes
        self._node, self._worker = node_of(options, trainer)
        self.ending = Ending(self._node, self._leave)
        self._thread = threading.get_ident()
        self._last_step_in = 0  # the pass of the last step, or of the checkpoint that this process began with
        self._may_step = False  # a batch was given, and no step was taken since
        self.done = self._stops_run = False

    def batches(self) -> Iterator[B]:
        """The batches of `Mesh.loop`."""
        with sigterm_leaves(self._node):
            self.ending.begin()
            self._node.start()
            try:
                self._serve()
                self._last_step_in = self.passes.number  # the pass of the checkpoint
                for batch in self.passes.batches() if not self.done else ():
                    misuse.refuse_pass_without_step(self.passes.number - self._last_step_in)
                    self._may_step = True
                    if batch is LEFT_OUT:
                        self.step(None)
                    else:
                        advanced_by = advancing(sys._getframe(1))
                        yield batch
                    if self.done:
                        break
            except GeneratorExit:
                if is_left_on_purpose(sys._getframe(1), advanced_by):
                    self._leave()
                else:
                    self.ending.stop_soon()
                raise
            except BaseException as exc:
                self.ending.stop(described(exc))
                raise
            finally:
                self.done = True
                self.passes.end()

    def step(self, loss: Tensor | float | None) -> None:
        """Note a step, as `Mesh.step` does."""
        misuse.refuse_wrong_step(self.done, threading.get_ident() == self._thread, self._may_step)
        self.passes.end_step()
        self._may_step, self._last_step_in = False, self.passes.number
        if self._stops_run:
            self._node.stop_run()  # an evicted node has a new process
        if self.trainer.count(loss):
            self._serve()

    def _serve(self) -> None:
        """Work for the node until the user's next turn, or the end of the node.

        Raises:
            EdgenodeError: the node failed, for the reason in the text.
        """
        try:
            if self._worker.serve():
                return
        except BaseException as exc:  # Ctrl-C
            self.stop(described(exc))
            raise
        self._node.join()
        self.done = True
        self.ending.run_ended()
        if self._node.error is not None:
            raise self._worker.surfaced(self._node.error) from None

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json, after a run that ended or was stopped. None otherwise."""
        return self._node.result if self.done else None

    def stop_run(self) -> None:
        """Stop the run for all nodes."""
        self._stops_run = True
        self._node.stop_run()

    def close(self) -> None:
        """Leave the run before its end, as `Mesh.close` does."""
        self.ending.settle()
        if self.done:
            return
        log.info("training has ended on this node before the run: it leaves when the others can go on without it")
        while not self.done:
            self._node.end_training()
            self._serve()

    def _leave(self) -> None:
        """Leave after a break. An error cannot reach the program from here."""
        try:
            self.close()
        except EdgenodeError as exc:
            log.warning("the run failed on this node after its loop", reason=str(exc))

    def stop(self, reason: str) -> None:
        """End the node at once, if it runs."""
        self.done = True
        self.ending.stop(reason)
