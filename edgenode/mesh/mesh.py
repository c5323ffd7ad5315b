"""`Mesh`: a training loop of one's own as a node of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from edgenode import factory
from edgenode.errors import ConfigError, described
from edgenode.mesh import mesh_options, misuse, prepared
from edgenode.mesh.ending import settle_all
from edgenode.mesh.mesh_trainer import Measured, MeshTrainer, OnRound, Stateful
from edgenode.mesh.passes import Passes
from edgenode.mesh.private_loop import PrivatePasses, private_passes, refuse_other_loader
from edgenode.mesh.running_loop import RunningLoop
from edgenode.tasks.shared_part import Shared

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
        self._private: PrivatePasses | None = None
        self._loop: RunningLoop[Any] | None = None
        self._closed = False
        misuse.not_looped.add(id(self))

    # --- the loop -----------------------------------------------------------------------------------

    def private(self, optimizer: Optimizer, loader: DataLoader[Any]) -> PrivatePasses:
        """Make the steps of the loop differentially private, as [privacy] of run.toml says. Pass the result to `loop`.

        Samples are drawn by chance, so batches differ in size: ``batch_size`` of the loader is their mean. Each call of
        ``optimizer.step`` clips the gradient of each sample, and adds noise to their sum. A spent budget ends the body
        of the loop, not the run. This cannot be checked, and has to be so:

        - The loss is the mean over the batch of losses that each depend on one sample.
        - Nothing but ``optimizer.step`` lets a batch change the model, its buffers or a schedule.
        - The function of `evaluate` has other samples.

        The loss that `step` is given is neither logged nor reported.

        Args:
            optimizer: has all trained parameters, and was passed to Mesh.
            loader: a DataLoader with ``batch_size``, without a sampler.

        Raises:
            ConfigError: the guarantee would not hold, or Opacus is not installed. The text says why.

        Examples:
            >>> for images, labels in mesh.loop(mesh.private(optimizer, DataLoader(data, batch_size=128))):
            ...     loss = functional.cross_entropy(model(images), labels)
            ...     loss.backward()
            ...     optimizer.step()
            ...     optimizer.zero_grad()
            ...     mesh.step()
        """
        if self._private is not None:
            raise ConfigError("mesh.private was called already: a mesh has one loop, over one loader")
        self._private = private_passes(self._options, self._model, self._kept, optimizer, loader, self.steps)
        return self._private

    def loop(self, loader: Iterable[B] | Passes[B]) -> Iterator[B]:
        """The batches of this node's training, pass after pass, until the run ends.

        The first call joins the run, which takes as long as the other nodes need to start. After a stop or a power cut,
        it resumes from the newest checkpoint that all nodes have: model, ``kept`` objects, ``extra``, the position in
        the loader, and the random generators of torch, numpy and Python. The loop ends when the run ends or is stopped,
        with the final model loaded. After a ``break``, this node leaves as by `close`. An exception ends it. Then the
        others evict it.

        Args:
            loader: a DataLoader, or anything that can be iterated again and again. With [privacy], it comes from
                `private`.

        Raises:
            ConfigError: the node cannot join, or the number of its samples is needed and unknown. The text says why.
            EdgenodeError: the run failed on this node, or the loader has no batch.

        Examples:
            >>> for images, labels in mesh.loop(DataLoader(data, batch_size=32, shuffle=True)):
            ...     train_on(images, labels)
            ...     mesh.step()
        """
        settle_all()
        broke_off = self._loop is not None and self._loop.ending.broke_off
        misuse.refuse_second_loop(self._loop is not None, self.done, broke_off)
        misuse.refuse_replaced_parameters(self._parameters, self._model)
        refuse_other_loader(self._options.config.privacy.on, self._private, loader)
        passes = loader if isinstance(loader, Passes) else prepared.passes_over(loader, self._samples)
        misuse.refuse_unknown_samples(self._options.config.task.objective, passes.samples)
        mesh_options.log_as_the_daemon_does()
        misuse.not_looped.discard(id(self))
        trainer = MeshTrainer(
            self._model, self._kept, passes, self._local_steps, self.extra, lambda: self._test, self._shared,
            self._on_round,
        )  # fmt: skip
        loop = self._loop = RunningLoop(self._options, trainer, passes)
        return loop.batches()

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
        if self._loop is None:
            raise misuse.no_loop("step")
        self._loop.step(loss)

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
        return self._loop.trainer.round if self._loop is not None else 0

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
        return self._closed or (self._loop is not None and self._loop.done)

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json, after a run that ended or was stopped. None otherwise."""
        return self._loop.result if self._loop is not None else None

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
        if self.done:
            return
        if self._loop is None:
            raise misuse.no_loop("stop")
        if self._options.controller == "none":
            raise ConfigError(
                "mesh.stop: without a controller, nothing can stop all nodes before the same round: start one, or "
                "leave the loop by break on every node"
            )
        self._loop.stop_run()

    def close(self) -> None:
        """Leave the run before its end: hand over to another node what this one has learnt, then stop.

        It takes a few rounds. Without a controller, or if fewer nodes than ``run.min_nodes`` would stay, this node
        takes part without training until the others have ended too. When no node trains any more, the controller stops
        the run. After the end of the run it does nothing.

        Raises:
            EdgenodeError: the run failed on this node.
        """
        if self._loop is None:
            self._closed = True
        else:
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._closed = True
        if self._loop is not None:
            self._loop.stop(described(error))
