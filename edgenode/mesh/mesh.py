"""`Mesh`: a training loop of one's own as a node of a run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from torch import Tensor, nn

from edgenode import factory
from edgenode.errors import ConfigError, EdgenodeError, described
from edgenode.mesh import mesh_options, misuse, prepared
from edgenode.mesh.ending import Ending, settle_all, sigterm_leaves
from edgenode.mesh.loop_exit import advancing, is_left_on_purpose
from edgenode.mesh.mesh_trainer import Measured, MeshTrainer, OnRound, Stateful
from edgenode.mesh.node_thread import NodeThread
from edgenode.mesh.passes import Passes
from edgenode.mesh.simulated_node import SimulatedNode, node_of
from edgenode.tasks.shared_part import Shared

log = structlog.get_logger()

B = TypeVar("B")
F = TypeVar("F", bound=Callable[[], Measured])


class Mesh:
    """One node of a run, in a training loop of your own.

    The nodes train copies of one model, each on its own data, and average them through compressed messages between
    neighbours. Every ``task.local_steps``-th call of `step` is a round: this node sends what its model has changed,
    waits for its in-neighbours, and continues with the mixed model.

    Args:
        model: trained in place. Its parameters with ``requires_grad`` are averaged. They can have any floating-point
            format and be on any device. All else, such as BatchNorm statistics, stays on this node.
        config: path of run.toml, the same on every node. By default the variable EDGENODE_CONFIG, or the defaults of
            every key. Of [task], only ``local_steps``, ``objective`` and ``shared`` have an effect.
        kept: the other objects that training depends on: the optimiser, the schedule, a gradient scaler. Anything with
            ``state_dict`` and ``load_state_dict`` is kept in the checkpoints.
        shared: the parts of the model that are averaged, if the rest is each node's own, as in ``model.body`` or
            ``["body", "*.norm"]``: modules, or names or patterns of modules and parameters. By default the key
            task.shared, or all.
        samples: the number of samples that this node trains on. By default as many as the data set of the loader has,
            or its sampler if that uses fewer. With ``task.objective = "samples"``, nodes count by it.
        settings: keys of run.toml with their values, over those of the file, as in ``{"run.rounds": 500}``.
        name: the name of this node. By default EDGENODE_NAME, or the host name.
        listen: host:port for the other nodes. By default EDGENODE_LISTEN, or port 7600 of every interface.
        peers: host:port of the other nodes, for a run without a controller. By default EDGENODE_PEERS, or mDNS.
        controller: host:port of the controller. By default EDGENODE_CONTROLLER, or mDNS.
        state_dir: folder of checkpoints, model.safetensors and result.json. By default EDGENODE_STATE_DIR, or a folder
            of this node in the user's state folder.
        fresh: discard this node's checkpoints instead of resuming from them. By default EDGENODE_FRESH, or False.
        wait_s: seconds to look for the controller or the peers. By default EDGENODE_WAIT, or 300.
        metrics: host:port that serves Prometheus. By default EDGENODE_METRICS, or none.
        publish: file for the model, every ``run.publish_every`` rounds and at the end. By default EDGENODE_PUBLISH, or
            model.safetensors in the state folder.
        track: the tracker of this node's measurements: tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT. By default
            EDGENODE_TRACK, or none. The controller's --track takes the measurements of all nodes.
        on_round: called when a round is trained, with its number and a dict to log: the mean ``loss`` of its steps, and
            what the last evaluation gave, as ``test/accuracy`` or ``test/NAME``.

    Attributes:
        extra: a dict of your own that the checkpoints keep: numbers, text, tensors, and collections of them.

    Raises:
        ConfigError: run.toml, an argument, the model or an optimiser cannot be used. The text says which and why.

    Examples:
        >>> mesh = edgenode.Mesh(model, "run.toml", optimizer)
        >>> for images, labels in mesh.loop(loader):
        ...     loss = functional.cross_entropy(model(images), labels)
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     mesh.step(loss=loss)
    """

    def __init__(
        self,
        model: nn.Module,
        config: str | Path | None = None,
        *kept: Stateful,
        shared: Shared = None,
        samples: int | None = None,
        settings: Mapping[str, object] | None = None,
        name: str | None = None,
        listen: str | None = None,
        peers: str | Sequence[str] | None = None,
        controller: str | None = None,
        state_dir: str | Path | None = None,
        fresh: bool | None = None,
        wait_s: float | None = None,
        metrics: str | None = None,
        publish: str | Path | None = None,
        track: str | None = None,
        on_round: OnRound | None = None,
    ) -> None:
        misuse.refuse_wrong_types(model, config, kept, settings or {}, samples)
        kept = tuple(prepared.unwrapped(one) for one in kept)
        self.extra: dict[str, Any] = {}
        self._options = mesh_options.read(
            config, settings or {}, peers, name=name, listen=listen, controller=controller, state_dir=state_dir,
            fresh=fresh, wait_s=wait_s, metrics=metrics, publish=publish, track=track,
        )  # fmt: skip
        self._local_steps = mesh_options.local_steps(self._options)
        self._shared = self._options.config.task.shared or None if shared is None else shared
        misuse.refuse_unfit(model, self._shared, kept)
        self._model, self._kept, self._samples, self._parameters = model, kept, samples, dict(model.named_parameters())
        self._test: Callable[[], Measured] | None = None
        self._on_round = on_round
        self._passes: Passes[Any] | None = None
        self._trainer: MeshTrainer | None = None
        self._node: NodeThread | SimulatedNode | None = None
        self._ending: Ending | None = None
        self._thread = 0
        self._last_step_in = 0  # the pass of the last step, or of the checkpoint that this process began with
        self._may_step = False  # a batch was given, and no step was taken since
        self._done = self._stops_run = False
        misuse.not_looped.add(id(self))

    # --- the loop -----------------------------------------------------------------------------------

    def loop(self, loader: Iterable[B]) -> Iterator[B]:
        """The batches of this node's training, pass after pass, until the run ends.

        The first call joins the run, which takes as long as the other nodes need to start. After a stop or a power cut,
        it resumes from the newest checkpoint that all nodes have: model, ``kept`` objects, ``extra``, the position in
        the loader, and the random generators of torch, numpy and Python. The loop ends when the run ends or is stopped,
        with the final model loaded. After a ``break``, this node leaves as by `close`. An exception ends it. Then the
        others evict it.

        Args:
            loader: a DataLoader, or anything that can be iterated again and again.

        Raises:
            ConfigError: the node cannot join, or the number of its samples is needed and unknown. The text says why.
            EdgenodeError: the run failed on this node, or the loader has no batch.

        Examples:
            >>> for images, labels in mesh.loop(DataLoader(data, batch_size=32, shuffle=True)):
            ...     train_on(images, labels)
            ...     mesh.step()
        """
        settle_all()
        broke_off = self._ending is not None and self._ending.broke_off
        misuse.refuse_second_loop(self._node is not None, self._done, broke_off)
        misuse.refuse_replaced_parameters(self._parameters, self._model)
        self._passes = passes = prepared.passes_over(loader, self._samples)
        misuse.refuse_unknown_samples(self._options.config.task.objective, passes.samples)
        mesh_options.log_as_the_daemon_does()
        misuse.not_looped.discard(id(self))
        self._trainer = trainer = MeshTrainer(
            self._model, self._kept, passes, self._local_steps, self.extra, lambda: self._test, self._shared,
            self._on_round,
        )  # fmt: skip
        self._node, self._worker = node_of(self._options, trainer)
        self._ending = Ending(self._node, self._leave)
        self._thread = threading.get_ident()
        return self._batches(self._node, passes, self._ending)

    def _batches(self, node: NodeThread | SimulatedNode, passes: Passes[B], ending: Ending) -> Iterator[B]:
        with sigterm_leaves(node):
            ending.begin()
            node.start()
            try:
                self._serve(node)
                self._last_step_in = passes.number  # the pass of the checkpoint
                for batch in passes.batches() if not self._done else ():
                    misuse.refuse_pass_without_step(passes.number - self._last_step_in)
                    self._may_step, advanced_by = True, advancing(sys._getframe(1))
                    yield batch
                    if self._done:
                        break
            except GeneratorExit:
                if is_left_on_purpose(sys._getframe(1), advanced_by):
                    self._leave()
                else:
                    ending.stop_soon()
                raise
            except BaseException as exc:
                ending.stop(described(exc))
                raise
            finally:
                self._done = True

    def step(self, loss: Tensor | float | None = None) -> None:
        """Note that the optimiser has taken a step: the last statement in the body of the loop.

        If the step completes a round, this call sends this node's update, waits for its in-neighbours, and loads the
        mixed model. It also takes the time for what is due: an evaluation, a checkpoint.

        Args:
            loss: the loss of this step, one number. The log and ``edgenode status`` show it. It must be finite.

        Raises:
            EdgenodeError: the run failed on this node, training diverged, there is no loop, or this is the second call
                for one batch.
        """
        if self._node is None or self._trainer is None or self._passes is None:
            raise misuse.no_loop("step")
        misuse.refuse_wrong_step(self._done, threading.get_ident() == self._thread, self._may_step)
        self._may_step, self._last_step_in = False, self._passes.number
        if self._stops_run:
            self._node.stop_run()  # an evicted node has a new process
        if self._trainer.count(loss):
            self._serve(self._node)

    def _serve(self, node: NodeThread | SimulatedNode) -> None:
        """Work for the node until the user's next turn, or the end of the node.

        Raises:
            EdgenodeError: the node failed, for the reason in the text.
        """
        try:
            if self._worker.serve():
                return
        except BaseException as exc:  # Ctrl-C
            self._stop(described(exc))
            raise
        node.join()
        self._done = True
        if self._ending is not None:
            self._ending.run_ended()
        if node.error is not None:
            raise self._worker.surfaced(node.error) from None

    # --- evaluation and state -----------------------------------------------------------------------

    def evaluate(self, fn: F) -> F:
        """Register what tests the model. Usable as a decorator.

        The function is called in the rounds of ``run.evaluate_every`` and at the end, in the thread of the loop. The
        model is then in evaluation mode and holds the mixed model, and gradients are off. Random numbers that it draws
        have no effect on the training.

        Args:
            fn: takes nothing and returns the accuracy, a number from 0 to 1, or a dict of up to 16 metrics, with
                the same names each time. The first is the accuracy, or is called ``"loss"``, where less is better.

        Examples:
            >>> @mesh.evaluate
            ... def accuracy() -> float:
            ...     return (model(test_images).argmax(1) == test_labels).float().mean().item()
        """
        misuse.refuse_second_test(self._test, fn)
        self._test = fn
        return fn

    @property
    def round(self) -> int:
        """The round that is being trained, from 0. After the end, the last one."""
        return self._trainer.round if self._trainer is not None else 0

    @property
    def steps(self) -> int:
        """The calls of `step` of a node that takes part in the whole run: run.rounds times task.local_steps.

        With DiLoCo on a graph whose exchange takes several rounds, it is divided by their number.
        """
        config = self._options.config
        return config.run.rounds // factory.exchange_rounds(config) * self._local_steps

    @property
    def done(self) -> bool:
        """Return whether the run is over for this node: it ended, was stopped, or failed."""
        return self._done

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json, after a run that ended or was stopped. None otherwise."""
        return self._node.result if self._node is not None and self._done else None

    @property
    def state_dir(self) -> Path:
        """The folder of this node's checkpoints, model.safetensors and result.json."""
        return self._options.state_dir

    # --- the end ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the run: all nodes stop before the same round, as after ``edgenode stop``. Any node may call it.

        The loop goes on for the few rounds until then. All nodes save that round, so the run can resume from it.

        Raises:
            ConfigError: the run has no controller.
            EdgenodeError: there is no loop.
        """
        if self._done:
            return
        if self._node is None:
            raise misuse.no_loop("stop")
        if self._options.controller == "none":
            raise ConfigError(
                "mesh.stop: without a controller, nothing can stop all nodes before the same round: start one, or "
                "leave the loop by break on every node"
            )
        self._stops_run = True
        self._node.stop_run()

    def close(self) -> None:
        """Leave the run before its end: hand over to another node what this one has learnt, then stop.

        It takes a few rounds. Without a controller, or if fewer nodes than ``run.min_nodes`` would stay, this node
        takes part without training until the others have ended too. When no node trains any more, the controller stops
        the run. After the end of the run it does nothing.

        Raises:
            EdgenodeError: the run failed on this node.
        """
        if self._ending is not None:
            self._ending.settle()
        if self._node is None or self._done:
            self._done = True
            return
        log.info("training has ended on this node before the run: it leaves when the others can go on without it")
        while not self._done:
            self._node.end_training()
            self._serve(self._node)

    def _leave(self) -> None:
        """Leave after a break. An error cannot reach the program from here."""
        try:
            self.close()
        except EdgenodeError as exc:
            log.warning("the run failed on this node after its loop", reason=str(exc))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stop(described(error))

    def _stop(self, reason: str) -> None:
        """End the node at once, if it runs."""
        self._done = True
        if self._ending is not None:
            self._ending.stop(reason)
