"""`MeshCallback`: the Trainer of Hugging Face transformers as a node of a run. Needs the package `transformers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import structlog
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgenode.errors import ConfigError
from edgenode.integrations.framework_loop import FrameworkLoop, Progress, refuse_several_processes
from edgenode.mesh import Mesh
from edgenode.mesh.framework_data import FrameworkData
from edgenode.mesh.mesh_trainer import Measured
from edgenode.tasks.flat_params import FlatParameters, Vector

log = structlog.get_logger()

F = TypeVar("F", bound=Callable[[], Measured])


class MeshCallback(TrainerCallback):  # type: ignore[misc]
    """Trains the Trainer's model as one node of a run, until the run ends.

    Every ``task.local_steps``-th step of the optimiser is a round. ``max_steps`` of TrainingArguments must allow for
    all of them. If the Trainer ends first, this node leaves the run. Checkpoints of edgenode keep the optimiser, the
    schedule, the counters of the Trainer and the position in the data. A PEFT model exchanges only its adapters. With
    ``load_best_model_at_end``, the Trainer's model is then the best of its own evaluations, and model.safetensors is
    the model of the run.

    Args:
        config: path of run.toml, as of `edgenode.Mesh`.
        arguments: all other arguments of `edgenode.Mesh`, such as ``name`` and ``settings``.

    Raises:
        ConfigError: in `Trainer.train`, run.toml, an argument, the model or the TrainingArguments cannot be used. The
            text says why.

    Examples:
        >>> mesh = MeshCallback("run.toml")
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[mesh])
        >>> mesh.evaluate(lambda: trainer.evaluate()["eval_accuracy"])
        >>> trainer.train()
    """

    def __init__(self, config: str | Path | None = None, **arguments: Any) -> None:
        self._loop = FrameworkLoop(config, arguments)
        self._losses = _Losses()
        self._counters: _Counters
        self._over = False  # the run was over before training began
        self._flat: FlatParameters | None = None  # of a model that the Trainer changes after the end of the run
        self._last: Vector  # its parameters in the run

    @property
    def mesh(self) -> Mesh:
        """The node, once training has begun."""
        return self._loop.mesh

    def evaluate(self, fn: F) -> F:
        """Register what tests the model, as `edgenode.Mesh.evaluate` does."""
        return self._loop.evaluate(fn)

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        optimizer: Any,
        lr_scheduler: Any,
        train_dataloader: Any,
        **kwargs: Any,
    ) -> None:
        refuse_several_processes(args.world_size)
        if state.global_step:
            raise ConfigError(
                "Trainer.train(resume_from_checkpoint=...): a node resumes by itself, from edgenode's own checkpoints: "
                "leave it out"
            )
        mesh = self._loop.create(model, optimizer, lr_scheduler)
        if state.max_steps < mesh.steps:
            raise ConfigError(
                f"TrainingArguments.max_steps allows {state.max_steps} steps, but the run has {mesh.steps} "
                f"(run.rounds times task.local_steps): set max_steps={mesh.steps}"
            )
        data = FrameworkData(getattr(train_dataloader, "base_dataloader", train_dataloader))
        if hasattr(train_dataloader, "base_dataloader"):  # of accelerate
            train_dataloader.base_dataloader = data
        samples = args.train_batch_size * args.gradient_accumulation_steps
        self._counters = _Counters(args, state, data)
        progress = self._loop.begin(data, train_dataloader, samples, self._counters.take)
        if progress is not None:
            self._counters.restore(progress)
        self._over = mesh.done
        if mesh.done or args.load_best_model_at_end:
            self._flat = FlatParameters(model)
            self._last = self._flat.read()
        self._losses.watch(model)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._counters.epoch_begins()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._loop.trained()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        flags = vars(control).copy()  # an evaluation in the step would clear should_log
        self._loop.trained()
        self._counters.step_ends(control)
        over = self._over or self._loop.step(self._losses.take())
        if self._flat is not None and not self._over:
            self._last = self._flat.read()
        over = over or control.should_training_stop  # or of an EarlyStoppingCallback
        vars(control).update(flags)
        if over:
            control.should_training_stop = True
        return control

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        metrics: Mapping[str, float],
        **kwargs: Any,
    ) -> None:
        self._counters.evaluated(metrics)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        logs: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        self._counters.correct(logs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: nn.Module, **kwargs: Any
    ) -> None:
        self._losses.stop()
        # The Trainer may have loaded its best model, and it takes a step before it asks whether to stop.
        best = self._flat.read() if self._flat is not None and state.best_model_checkpoint else None
        if self._flat is not None:
            self._flat.load(self._last)
        self._loop.leave()
        if self._flat is not None and best is not None:
            self._flat.load(best)


class _Counters:
    """Keeps the Trainer's counters in checkpoints. After a restart, its loop counts from 0."""

    _KEPT = (
        "global_step", "num_input_tokens_seen", "total_flos", "log_history", "best_metric", "best_global_step",
        "best_model_checkpoint",
    )  # fmt: skip

    def __init__(self, args: TrainingArguments, state: TrainerState, data: FrameworkData) -> None:
        self._args, self._state, self._data = args, state, data
        self._evaluates_at_begin = args.eval_on_start
        self._evaluation_follows = False
        self._repeats_evaluation = False
        self._repeated: Mapping[str, float] = {}
        self._resumed_at, self._logged = 0, False

    def take(self) -> Progress:
        kept = {name: getattr(self._state, name) for name in self._KEPT if hasattr(self._state, name)}
        by_epoch = self._args.eval_strategy == "epoch" and self._data.pass_is_over
        return {"state": kept, "evaluation": self._evaluation_follows or by_epoch}

    def restore(self, progress: Progress) -> None:
        """Continue after the step of a checkpoint: with the evaluation that follows it, then with the next batch."""
        for name, value in progress["state"].items():
            setattr(self._state, name, value)
        self._resumed_at = self._state.global_step
        self._args.eval_on_start = self._repeats_evaluation = progress["evaluation"]
        if self._data.pass_is_over:
            self._data.begin_next_pass()
        with suppress(TypeError):  # a stream has no length
            if self._data.taken and len(self._data) % self._args.gradient_accumulation_steps:
                log.warning(
                    "the last batches of this pass accumulate with the next pass, unlike without a restart",
                    hint="make the batches of a pass a multiple of gradient_accumulation_steps",
                )

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        if self._repeats_evaluation:
            self._repeated = metrics

    def epoch_begins(self) -> None:
        self._args.eval_on_start = self._evaluates_at_begin
        self._repeats_evaluation = False
        self._note_best()

    def _note_best(self) -> None:
        """Note whether the model is the best one after a repeated evaluation. The Trainer does so after others."""
        name = self._args.metric_for_best_model or ""
        value = self._repeated.get(name if name.startswith("eval_") else f"eval_{name}")
        self._repeated, state = {}, self._state
        if value is None or not (
            state.best_metric is None
            or (value > state.best_metric if self._args.greater_is_better else value < state.best_metric)
        ):
            return
        state.best_metric, state.best_global_step = value, state.global_step
        saved = Path(self._args.output_dir, f"checkpoint-{state.global_step}")  # before the restart
        if saved.is_dir():
            state.best_model_checkpoint = str(saved)

    def step_ends(self, control: TrainerControl) -> None:
        self._evaluation_follows = control.should_evaluate
        with suppress(TypeError):  # a stream has no length
            self._state.epoch = self._data.number + self._data.taken / len(self._data)

    def correct(self, logs: dict[str, Any]) -> None:
        """Correct the mean losses after a restart. The Trainer divides them by all steps of the run."""
        steps, first = self._state.global_step - self._resumed_at, not self._logged
        self._logged |= "loss" in logs
        for name in ("loss", "train_loss"):
            if name in logs and steps and (first or name == "train_loss"):
                logs[name] *= self._state.global_step / steps
                self._state.log_history[-1][name] = logs[name]


class _Losses:
    """The losses of a model's forward passes in training. The Trainer does not give them to callbacks."""

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._of_all_batches = False
        self._hook: Any = None

    def watch(self, model: nn.Module) -> None:
        self._hook = model.register_forward_hook(self._note, with_kwargs=True)

    def stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()

    def _note(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if model.training and isinstance(loss, torch.Tensor):
            self._losses.append(loss.detach())
            # the model then divides by the number of items in all batches of the step
            self._of_all_batches = kwargs.get("num_items_in_batch") is not None

    def take(self) -> torch.Tensor | None:
        """The loss of the step, over all batches whose gradients it accumulated. None if the model gives none."""
        losses, self._losses = self._losses, []
        if not losses:
            return None
        stacked = torch.stack(losses)
        return stacked.sum() if self._of_all_batches else stacked.mean()
