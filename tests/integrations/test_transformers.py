"""The Trainer of transformers as a node, with whole models and with LoRA adapters."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from edgenode import ConfigError, LiveModel
from tests.integrations.conftest import Arguments

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of transformers

WORDS = torch.randint(0, 32, (24, 8), generator=torch.Generator().manual_seed(0))
DATA = [{"input_ids": words, "labels": int(words[0]) % 2} for words in WORDS]


def bert() -> Any:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=32, **size))


def trainer(model: nn.Module, mesh: Any, folder: Path, max_steps: int = 12, **options: Any) -> Any:
    args = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=max_steps, per_device_train_batch_size=4, report_to="none",
        use_cpu=True, disable_tqdm=True, logging_steps=1, **{"save_strategy": "no", **options},
    )  # fmt: skip
    return transformers.Trainer(model, args, train_dataset=DATA, eval_dataset=DATA, callbacks=[mesh])


def callback(arguments: dict[str, Any]) -> Any:
    from edgenode.integrations.transformers import MeshCallback

    return MeshCallback(**arguments)


class Fails(transformers.TrainerCallback):  # type: ignore[misc]
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            raise KeyError("the power fails")


def test_training_ends_with_the_run(alone: Arguments, tmp_path: Path) -> None:
    mesh, model = callback(alone()), bert()
    of_model = trainer(model, mesh, tmp_path, max_steps=50)
    mesh.evaluate(lambda: of_model.evaluate()["eval_loss"])
    of_model.train()
    assert of_model.state.global_step == 12
    assert mesh.mesh.done and mesh.mesh.result["mean_test_accuracy"] > 0
    assert len([entry for entry in of_model.state.log_history if "loss" in entry]) == 12


@pytest.mark.parametrize(("evaluate_every", "steps"), [(0, 8), (6, 6)])
def test_early_stopping_ends_training(alone: Arguments, tmp_path: Path, evaluate_every: int, steps: int) -> None:
    """The Trainer measures after 4 and 8 steps, and the mesh may measure between them."""
    mesh = callback(alone(run__rounds=40, run__evaluate_every=evaluate_every))
    every = {"eval_strategy": "steps", "eval_steps": 4, "metric_for_best_model": "never_better"}
    of_model = trainer(bert(), mesh, tmp_path, 50, **every)
    of_model.compute_metrics = lambda _: {"never_better": 0.5}
    of_model.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=1))
    mesh.evaluate(lambda: of_model.evaluate()["eval_never_better"])
    of_model.train()
    assert of_model.state.global_step == steps
    assert mesh.mesh.result["nodes"][0]["rounds"] == 40  # completed without training: there is no controller


def with_best(mesh: Any, folder: Path, *callbacks: Any, model: Any = None) -> Any:
    """Return a Trainer that measures and saves every third step. It is best after six of twelve."""
    every = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score"}
    of_model = trainer(model or bert(), mesh, folder, **every, **best)
    of_model.compute_metrics = lambda _: {"score": {3: 0.5, 6: 0.9, 9: 0.6, 12: 0.4}[of_model.state.global_step]}
    for callback in callbacks:
        of_model.add_callback(callback)
    return of_model


def holds(model: nn.Module, file: Path) -> bool:
    return all(torch.equal(model.state_dict()[name], value) for name, value in load_file(file).items())


@pytest.mark.parametrize(("patience", "steps"), [(9, 12), (1, 9)])
def test_best_model_is_loaded_and_the_run_keeps_its_own(
    alone: Arguments, tmp_path: Path, patience: int, steps: int
) -> None:
    mesh = callback(alone())
    of_model = with_best(mesh, tmp_path, transformers.EarlyStoppingCallback(patience))
    of_model.train()
    assert (of_model.state.global_step, of_model.state.best_metric) == (steps, 0.9)
    best, last = (tmp_path / "trainer" / f"checkpoint-{step}" / "model.safetensors" for step in (6, steps))
    assert holds(of_model.model, best) and not holds(of_model.model, last)
    run = bert()
    LiveModel(mesh.mesh.state_dir, run)
    assert holds(run, last)


def test_restart_knows_the_best_model(alone: Arguments, tmp_path: Path) -> None:
    """The checkpoint is from before the evaluation of its step."""
    arguments = alone(run__checkpoint_every=6)
    broken = with_best(callback(arguments), tmp_path, Fails())
    with pytest.raises(KeyError):
        broken.train()
    del broken
    gc.collect()  # the node ends with its loop
    resumed = with_best(callback(arguments), tmp_path)
    resumed.train()
    assert (resumed.state.global_step, resumed.state.best_metric) == (12, 0.9)
    assert holds(resumed.model, tmp_path / "trainer" / "checkpoint-6" / "model.safetensors")


def test_checkpoints_of_the_trainer_are_refused(alone: Arguments, tmp_path: Path) -> None:
    with_best(callback(alone()), tmp_path).train()
    with pytest.raises(ConfigError, match=r"resume_from_checkpoint=...\): a node resumes by itself"):
        with_best(callback(alone()), tmp_path).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_loss_of_a_step_is_the_one_that_the_trainer_logs(alone: Arguments, tmp_path: Path, accumulated: int) -> None:
    mesh, losses = callback(alone(run__rounds=4)), list[float]()
    of_model = trainer(bert(), mesh, tmp_path, 4, gradient_accumulation_steps=accumulated)
    original = mesh._loop.step
    mesh._loop.step = lambda loss: (losses.append(float(loss)), original(loss))[1]
    of_model.train()
    logged = [entry["loss"] for entry in of_model.state.log_history if "loss" in entry]
    assert losses == pytest.approx(logged, abs=1e-3)


def test_restart_continues_with_optimiser_and_schedule(alone: Arguments, tmp_path: Path) -> None:
    arguments = alone()
    broken = trainer(bert(), callback(arguments), tmp_path)
    broken.add_callback(Fails())
    with pytest.raises(KeyError):
        broken.train()
    del broken
    gc.collect()  # the node ends with its loop
    whole = trainer(bert(), callback(arguments), tmp_path)
    whole.train()  # from the checkpoint before round 5
    assert whole.state.global_step == 12
    logged = [entry for entry in whole.state.log_history if "loss" in entry]
    steps = [entry["step"] for entry in logged]
    assert steps == [1, 2, 3, 4, *range(6, 13)]  # a step is logged after its checkpoint
    assert [entry["epoch"] for entry in logged] == pytest.approx([t / 6 for t in steps])
    assert [entry["learning_rate"] for entry in logged] == pytest.approx([5e-5 * (13 - t) / 12 for t in steps])
    assert all(0.5 < entry["loss"] < 0.9 for entry in logged)


def test_too_few_steps_are_refused_with_their_number(alone: Arguments, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"allows 11 steps, but the run has 24 .*: set max_steps=24"):
        trainer(bert(), callback(alone(task__local_steps=2)), tmp_path, 11).train()


def test_adapters_of_the_run_are_saved_and_loaded(alone: Arguments, tmp_path: Path) -> None:
    """Also those of the best model, and those that a second run begins with."""
    peft = pytest.importorskip("peft")

    def with_adapters() -> Any:
        return peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))

    def adapters(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in peft.get_peft_model_state_dict(model).items()}

    def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    mesh, model = callback(alone()), with_adapters()
    of_model = with_best(mesh, tmp_path, model=model)
    of_model.train()
    best = load_file(tmp_path / "trainer" / "checkpoint-6" / "adapter_model.safetensors")
    assert equal(adapters(model), best)
    run = with_adapters()
    LiveModel(mesh.mesh.state_dir, run)
    assert equal(adapters(run), load_file(tmp_path / "trainer" / "checkpoint-12" / "adapter_model.safetensors"))
    assert not equal(adapters(run), best)

    run.save_pretrained(str(tmp_path / "adapters"))
    loaded = peft.PeftModel.from_pretrained(bert(), str(tmp_path / "adapters"), is_trainable=True)
    assert equal(adapters(loaded), adapters(run))
    second = callback(alone(run__rounds=1) | {"fresh": True})
    begins, original = list[dict[str, torch.Tensor]](), second.on_train_begin
    second.on_train_begin = lambda *args, **kwargs: (original(*args, **kwargs), begins.append(adapters(loaded)))[0]
    trainer(loaded, second, tmp_path, 1).train()
    assert equal(begins[0], adapters(run)) and not equal(begins[0], adapters(loaded))


def test_adapters_resume_to_the_bit(alone: Arguments, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    def trained(arguments: dict[str, Any], *callbacks: Any) -> dict[str, torch.Tensor]:
        lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], lora_dropout=0.1)
        model = peft.get_peft_model(bert(), lora)
        of_model = trainer(model, callback(arguments), tmp_path)
        for one in callbacks:
            of_model.add_callback(one)
        of_model.train()
        assert of_model.state.global_step == 12
        return {name: value.clone() for name, value in peft.get_peft_model_state_dict(model).items()}

    arguments = alone()
    whole = trained({**arguments, "state_dir": tmp_path / "whole"})
    with pytest.raises(KeyError):
        trained(arguments, Fails())
    gc.collect()  # the node ends with its loop
    resumed = trained(arguments)  # from the checkpoint before round 5
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_only_adapters_are_exchanged(alone: Arguments, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(bert(), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    mesh = callback(alone(run__rounds=4))
    trainer(model, mesh, tmp_path, 4).train()
    exchanged, everything = model.get_nb_trainable_parameters()
    loop = mesh.mesh._loop
    assert loop is not None and loop.trainer.size == exchanged < everything / 10
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
