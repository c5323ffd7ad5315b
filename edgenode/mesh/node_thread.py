"""The thread in which the node of a Mesh runs: an event loop, and everything of a daemon but the training."""

from __future__ import annotations

import threading
import time
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from edgenode.core.topology.period import DataSize, Epoch
from edgenode.mesh.mesh_trainer import MeshTrainer
from edgenode.mesh.worker import UserThread
from edgenode.node.background import Worker
from edgenode.node.node_options import NodeOptions
from edgenode.node.node_process import NodeProcess, run_node
from edgenode.node.workload import ModelSize, Trainer

log = structlog.get_logger()

_STOP_S = 10.0
_STOP_AGAIN_S = 0.5


class MeshWorkload:
    """The user's loop as what a node trains."""

    def __init__(self, trainer: MeshTrainer, worker: UserThread) -> None:
        self._trainer, self._worker = trainer, worker

    def identity(self) -> Mapping[str, str]:
        return self._trainer.facts

    @property
    def makes_own_model(self) -> bool:
        return True

    def prepare(self) -> DataSize:
        return self._trainer.data_size

    def model_size(self) -> ModelSize:
        return self._trainer.model_size

    def trainer(self, name: str, initial_members: Sequence[str], epoch: Epoch) -> Trainer:
        self._trainer.rounds_per_epoch = epoch.rounds
        self.end()
        return self._trainer

    def end(self) -> None:
        """The process that used the trainer last has ended."""
        self._trainer.go_on()

    def worker(self) -> Worker:
        return self._worker


class NodeThread:
    """Runs a node until its end.

    Attributes:
        result: the content of result.json, if the run ended or was stopped for all.
        error: the error that it failed with, or None.
    """

    def __init__(self, options: NodeOptions, workload: MeshWorkload, worker: UserThread) -> None:
        self.result: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self._options, self._workload, self._worker = options, workload, worker
        self._process: NodeProcess | None = None
        self._thread = threading.Thread(target=self._run, name="edgenode", daemon=True)

    def start(self) -> None:
        """Start the node. It works through the worker from now on."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = run_node(self._options, self._workload, self._begins)
        except CancelledError:
            pass  # it was stopped
        except BaseException as exc:
            self.error = exc
        finally:
            self._workload.end()
            self._worker.end()

    def _begins(self, process: NodeProcess) -> None:
        self._process = process

    def leave(self) -> None:
        """Leave after a handoff if the run has a controller, else stop. It ends soon."""
        if self._process is not None:
            self._process.leave()

    def end_training(self) -> None:
        """Let the node leave, or stay without training. To be called again: an evicted node has a new process."""
        if self._process is not None:
            self._process.end_training()

    def stop_run(self) -> None:
        """Ask that all nodes stop before the same round. To be called again, likewise."""
        if self._process is not None:
            self._process.stop_run()

    def stop(self, reason: str) -> None:
        """Stop at once, report why, and wait for the end."""
        log.warning(
            "the loop ended before the run: this node stops without a handoff",
            reason=reason,
            hint="break and mesh.close() leave",
        )
        deadline = time.monotonic() + _STOP_S
        while self._thread.is_alive() and time.monotonic() < deadline:
            if self._process is not None:
                self._process.stop(reason)
            self._thread.join(_STOP_AGAIN_S)

    def join(self) -> None:
        """Wait for the end of a node that has ended its work."""
        with suppress(RuntimeError):  # it was never started
            self._thread.join()
