"""The local step equals torch.optim.SGD to the bit, and depends on the round number alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as tensors
from torch import nn
from torch.nn import functional

from edgenode.errors import CheckpointError, ConfigError, Diverged, LocalProtocolError
from edgenode.evaluation import Evaluation, Metric
from edgenode.node.workload import SHARED_STATE
from edgenode.tasks import datasets
from edgenode.tasks.devices import channels_last, find_device, precision
from edgenode.tasks.image_task import ImageTask
from edgenode.tasks.settings import TrainSettings
from edgenode.tasks.task import RunLength, Task
from edgenode.tasks.trainer import TaskTrainer
from tests.tasks.small_trainer import Digits, digits_trainer, local_update, run, small_net, small_trainer
from tests.torch_versions import has_muon

# the vector --------------------------------------------------------------------------------------------


def test_layout_is_the_flat_order_of_trainable_parameters() -> None:
    trainer = small_trainer()
    assert trainer.layout == (
        ("0.weight", 36), ("0.bias", 4), ("1.weight", 4), ("1.bias", 4), ("5.weight", 1440), ("5.bias", 10),
    )  # fmt: skip
    assert trainer.size == sum(numel for _, numel in trainer.layout) == 1498
    z = np.arange(trainer.size, dtype=np.float32)
    tensors = trainer.named_tensors(z)
    flat = np.concatenate([tensors[name].numpy().ravel() for name, _ in trainer.layout])
    assert np.array_equal(flat, z)


def test_initial_is_the_same_on_every_shard_and_after_training() -> None:
    one, other = small_trainer(shard=0), small_trainer(shard=3)
    first = one.initial()
    assert first.dtype == np.float32 and first.shape == (one.size,)
    run(one, first, range(3))
    assert np.array_equal(one.initial(), first)
    assert np.array_equal(other.initial(), first)
    assert not np.array_equal(small_trainer(seed=1).initial(), first)


def test_z_in_the_parameters_themselves_is_not_copied() -> None:
    """So a round needs no vector for z, and none for the local update."""
    trainer, twin = small_trainer(), small_trainer()
    z = trainer.initial()
    trainer.staging[:] = z
    step = trainer.train(0, trainer.staging)
    assert step.vector is trainer.staging and not step.is_difference
    assert np.array_equal(step.vector, trainer._flat.values.numpy())
    assert np.array_equal(step.vector, twin.train(0, z).vector)
    assert np.abs(step.vector - z).max() > 0


def test_averaged_buffers_leave_no_place_for_z() -> None:
    """They are part of z, but not of the parameters. The difference is taken in z."""
    trainer = small_trainer(buffers="average")
    z = trainer.initial()
    given = z.copy()
    step = trainer.train(0, given)
    assert trainer.staging is None
    assert step.vector is given and step.is_difference
    assert np.array_equal(given[: trainer._flat.size], trainer._flat.read() - z[: trainer._flat.size])
    assert not given[trainer._flat.size :].any()  # until the last round


def test_vector_of_another_size_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError, match="shape"):
        small_trainer().train(0, np.zeros(1, np.float32))


# one step ----------------------------------------------------------------------------------------------


def reference(trainer: TaskTrainer, z: np.ndarray, rounds: int, **options: float) -> np.ndarray:
    """Train a plain model of separate tensors by torch.optim.SGD on the same batches."""
    found = datasets.load("digits")
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    nn.utils.vector_to_parameters(torch.from_numpy(z.copy()), net.parameters())
    optimiser = torch.optim.SGD(net.parameters(), **options)
    for t in range(rounds):
        chosen = trainer.batches.indices(t)
        images = (found.train_images[chosen].float() - torch.tensor(found.mean)) / torch.tensor(found.std)
        optimiser.param_groups[0]["lr"] = trainer._settings.rate(options["lr"], t, trainer._run)
        optimiser.zero_grad()
        functional.cross_entropy(net(images), found.train_labels[chosen]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(net.parameters()).detach().numpy()


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("weight_decay", [1e-2, 0.0])
def test_steps_equal_torch_sgd_to_the_bit(momentum: float, weight_decay: float) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    chosen = {"momentum": momentum, "weight_decay": weight_decay, "milestones": (1,), "decay": 0.5}
    settings = TrainSettings(batch_size=16, learning_rate=0.05, **chosen)
    trainer = digits_trainer(torch.arange(100), Digits(net), settings)
    ours = z = trainer.initial()
    for t in range(10):
        trainer.train(t, ours.copy())
        ours = trainer._flat.read()
    theirs = reference(trainer, z, 10, lr=0.05, momentum=momentum, weight_decay=weight_decay)
    assert np.array_equal(ours, theirs)


def test_bfloat16_applies_to_layers_and_not_to_kept_state() -> None:
    half, full = (small_trainer(precision=precision) for precision in ("bfloat16", "float32"))
    z = half.initial()
    seen = []
    half._flat.model[-1].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    step, again, exact = (
        local_update(trainer.train(0, z.copy()), z) for trainer in (half, small_trainer(precision="bfloat16"), full)
    )
    assert np.array_equal(step, again)
    off = np.linalg.norm(step - exact) / np.linalg.norm(exact)
    assert 0 < off < 0.05  # a bfloat16 has eight significant bits
    assert {state.dtype for name, state in half.local_state().items() if "num_batches" not in name} == {np.dtype("f4")}
    assert abs(half.evaluate(z).accuracy - full.evaluate(z).accuracy) < 0.05
    assert len(seen) > 1 and set(seen) == {torch.bfloat16}


def test_memory_format_changes_only_how_images_lie() -> None:
    last, again, plain = (
        small_trainer(memory_format=order) for order in ("channels_last", "channels_last", "contiguous")
    )
    z = last.initial()
    seen: list[torch.Tensor] = []
    last._flat.model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    steps = [local_update(trainer.train(0, z.copy()), z) for trainer in (last, again, plain)]
    assert np.array_equal(steps[0], steps[1])
    assert np.linalg.norm(steps[0] - steps[2]) < 1e-4 * np.linalg.norm(steps[2])  # sums are in another order
    assert abs(last.evaluate(z).accuracy - plain.evaluate(z).accuracy) < 0.02
    assert len(seen) > 1 and {images.stride()[1] for images in seen} == {1}
    ours, theirs = last.named_tensors(z), plain.named_tensors(z)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) and ours[key].is_contiguous() for key in ours)


def test_memory_format_leaves_what_is_no_image() -> None:
    given = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 5, dtype=torch.int64), {"mask": 1}
    assert all(a is b for a, b in zip(channels_last(nn.Identity(), given), given, strict=True))


def test_device_without_bfloat16_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"task\.precision = bfloat16, but meta does not have it: choose float32"):
        precision("bfloat16", torch.device("meta"))


def test_loss_that_is_not_finite_is_a_divergence() -> None:
    trainer = small_trainer()
    with pytest.raises(Diverged, match="the loss is nan"):
        trainer.train(4, np.full(trainer.size, np.nan, np.float32))


def test_global_generators_are_left_unchanged() -> None:
    before = torch.get_rng_state()
    run(small_trainer(augment=True), small_trainer().initial(), range(2))
    assert torch.equal(torch.get_rng_state(), before)


# resuming ----------------------------------------------------------------------------------------------


def test_resumed_run_equals_the_uninterrupted_one_to_the_bit() -> None:
    whole = small_trainer(augment=True)
    z = run(whole, whole.initial(), range(9))
    saved, at_9 = whole.local_state(), z.copy()
    kept = {name: value.copy() for name, value in saved.items()}
    expected = run(whole, z, range(9, 20))
    # The copies did not change with the trainer. They include BatchNorm's counter.
    assert all(np.array_equal(saved[name], kept[name]) for name in kept)
    assert set(saved) == {
        "momentum", "buffer.1.running_mean", "buffer.1.running_var", "buffer.1.num_batches_tracked",
    }  # fmt: skip
    assert saved["buffer.1.num_batches_tracked"] == 9

    torch.rand(5)  # in a new process the global generator has another state
    resumed = small_trainer(augment=True)
    resumed.load_local_state(saved)
    assert np.array_equal(run(resumed, at_9, range(9, 20)), expected)
    for name, value in resumed.local_state().items():
        assert np.array_equal(value, whole.local_state()[name])


def test_step_waits_until_the_momentum_is_read() -> None:
    trainer, read = small_trainer(), Event()
    z = run(trainer, trainer.initial(), range(2))
    lent, copied = trainer.local_state(read), trainer.local_state()
    step = Thread(target=trainer.train, args=(2, z))
    step.start()
    step.join(0.2)
    assert step.is_alive() and np.array_equal(lent["momentum"], copied["momentum"])
    read.set()
    step.join(60)
    assert not step.is_alive() and not np.array_equal(lent["momentum"], copied["momentum"])


def test_evaluation_and_export_do_not_change_training() -> None:
    quiet, watched = small_trainer(), small_trainer()
    z = quiet.initial()
    expected = run(quiet, z, range(6))
    for t in range(6):
        watched.evaluate(np.zeros_like(z))
        watched.named_tensors(np.ones_like(z))
        z = z + local_update(watched.train(t, z.copy()), z)
    assert np.array_equal(z, expected)


def test_statistics_depend_on_shard_and_model_alone() -> None:
    """They equal torch's own for the same batches, ignore earlier training, and leave the momentum unchanged."""
    trainer, other = small_trainer(), small_trainer()
    z = run(trainer, trainer.initial(), range(5))
    momentum = trainer.local_state()["momentum"]
    trainer.measure_statistics(z)
    other.measure_statistics(z)
    measured = trainer.local_state()
    assert np.array_equal(measured.pop("momentum"), momentum)
    assert measured.keys() == {f"buffer.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")}
    assert all(np.array_equal(value, other.local_state()[name]) for name, value in measured.items())

    found, net = datasets.load("digits"), small_net()
    net.load_state_dict(trainer.named_tensors(z))
    images = (found.train_images.float() - torch.tensor(found.mean)) / torch.tensor(found.std)
    batches = [net[0](images[trainer.batches.indices(t)]) for t in range(trainer.batches.per_pass)]
    mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    assert measured["buffer.1.num_batches_tracked"] == len(batches) == 7
    np.testing.assert_allclose(measured["buffer.1.running_mean"], mean.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_local_state_of_another_model_is_refused() -> None:
    trainer = small_trainer()
    state = trainer.local_state()
    with pytest.raises(CheckpointError, match=r"'buffer\.1\.running_mean' is on one side only"):
        trainer.load_local_state({k: v for k, v in state.items() if k != "buffer.1.running_mean"})
    with pytest.raises(CheckpointError, match="'momentum' has shape"):
        trainer.load_local_state(state | {"momentum": np.zeros(3, np.float32)})


def test_exported_tensors_load_into_a_plain_model() -> None:
    trainer = small_trainer()
    z = run(trainer, trainer.initial(), range(5))
    net = small_net()
    net.load_state_dict(trainer.named_tensors(z))
    net.eval()
    found = datasets.load("digits")
    images = (found.test_images.float() - torch.tensor(found.mean)) / torch.tensor(found.std)
    right = (net(images).argmax(1) == found.test_labels).double().mean()
    assert trainer.evaluate(z).accuracy == pytest.approx(float(right), abs=1e-12)


def test_loss_is_that_of_the_test_if_it_is_the_first_metric() -> None:
    class ByLoss(ImageTask):
        def evaluate(self, model: nn.Module, batches: Any) -> dict[str, float]:
            return {"loss": 7.5, "share": 0.5}

    trainer = digits_trainer(torch.arange(40), ByLoss("digits", "small-cnn"), TrainSettings())
    z = trainer.initial()
    assert trainer.loss(z) == 7.5
    assert trainer.evaluate(z) == Evaluation(None, (Metric("loss", 7.5), Metric("share", 0.5)))


# the tasks of run.toml -------------------------------------------------------------------------------


def test_every_class_of_a_sample_counts_in_the_accuracy() -> None:
    logits = functional.one_hot(torch.tensor([[0, 1, 2], [2, 1, 1]]), 3).transpose(1, 2)
    batch = torch.zeros(2), torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert Task().evaluate(lambda _: logits, [batch]) == pytest.approx(5 / 6)


def test_small_cnn_learns_the_digits() -> None:
    trainer = digits_trainer(torch.arange(1442), ImageTask("digits", "small-cnn"), TrainSettings(learning_rate=0.02))
    assert trainer.rounds_per_epoch == trainer.batches.per_pass == 46
    z = run(trainer, trainer.initial(), range(400))
    assert trainer.evaluate(z).accuracy > 0.975


@pytest.mark.slow
def test_digits_do_not_import_slow_libraries() -> None:
    code = (
        "import sys; from edgenode.config.schema import Config; from edgenode.core.topology.period import Epoch;"
        "from edgenode.node.task_workload import TaskWorkload; w = TaskWorkload(Config(), 'n'); w.prepare();"
        "r = w.trainer('n', ('n', 'm'), Epoch(721, 23)); r.train(0, r.initial());"
        "print([m for m in ('torch._dynamo', 'sklearn', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_absent_device_is_a_config_error(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"torch.{'cuda' if device == 'cuda' else 'backends.mps'}.is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"run.device = {device}, but torch finds no "):
        find_device(device)


def test_unknown_device_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="device 'toaster'"):
        find_device("toaster")


# other optimisers and longer rounds --------------------------------------------------------------------


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))


def plain_steps(trainer: TaskTrainer, z: np.ndarray, optimizer: Callable[[nn.Module], torch.optim.Optimizer],
                batches: list[list[int]], clip: float | None = None) -> np.ndarray:  # fmt: skip
    """Train a plain model without dropout on the same batches: one step for each list of them."""
    found = datasets.load("digits")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    nn.utils.vector_to_parameters(torch.from_numpy(z.copy()), net.parameters())
    optimiser = optimizer(net)
    for numbers in batches:
        optimiser.zero_grad()
        for number in numbers:
            chosen = trainer.batches.indices(number)
            images = (found.train_images[chosen].float() - torch.tensor(found.mean)) / torch.tensor(found.std)
            (functional.cross_entropy(net(images), found.train_labels[chosen]) / len(numbers)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimiser.step()
    return nn.utils.parameters_to_vector(net.parameters()).detach().numpy()


def without_dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.mark.parametrize(
    ("settings", "batches"),
    [
        ({"optimizer": "adamw"}, [[0], [1], [2], [3], [4], [5]]),
        ({"optimizer": "adamw", "local_steps": 2}, [[0], [1], [2], [3], [4], [5]]),
        ({"optimizer": "adamw", "accumulate": 2}, [[0, 1], [2, 3], [4, 5]]),
        ({"optimizer": "adamw", "accumulate": 3, "local_steps": 2, "clip_norm": 0.5}, [[0, 1, 2], [3, 4, 5]]),
    ],
)
def test_rounds_equal_plain_steps_of_torch(settings: dict[str, object], batches: list[list[int]]) -> None:
    chosen = TrainSettings(**{"batch_size": 16, "learning_rate": 0.01, **settings})
    trainer = digits_trainer(torch.arange(100), Digits(without_dropout), chosen)
    ours = z = trainer.initial()
    for t in range(len(batches) // chosen.local_steps):
        trainer.train(t, ours.copy())
        ours = trainer._flat.read()

    def adamw(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=chosen.weight_decay)

    theirs = plain_steps(trainer, z, adamw, batches, chosen.clip_norm)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [
        *["adam", "adamw", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop"],
        pytest.param("muon", marks=has_muon),
    ],
)
def test_every_optimiser_resumes_to_the_bit(name: str) -> None:
    def trainer() -> TaskTrainer:
        settings = TrainSettings(batch_size=16, optimizer=name, learning_rate=0.01, schedule="cosine", local_steps=2)
        return digits_trainer(torch.arange(100), Digits(mlp), settings)

    whole = trainer()
    z = run(whole, whole.initial(), range(4))
    saved = tensors.load(tensors.save(whole.local_state()))  # as in a checkpoint
    expected = run(whole, z, range(4, 9))
    resumed = trainer()
    resumed.load_local_state(saved)
    assert np.array_equal(run(resumed, z, range(4, 9)), expected)


class Scheduled(Digits):
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)

    def scheduler(self, optimizer: torch.optim.Optimizer, run: RunLength) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def test_own_schedule_is_stepped_each_round_and_resumes() -> None:
    settings = TrainSettings(batch_size=16, local_steps=3)
    whole = digits_trainer(torch.arange(100), Scheduled(mlp), settings)
    z = run(whole, whole.initial(), range(5))
    assert whole._descent._optimizer.param_groups[0]["lr"] == 0.01 * 0.25
    resumed = digits_trainer(torch.arange(100), Scheduled(mlp), settings)
    resumed.load_local_state(tensors.load(tensors.save(whole.local_state())))
    assert np.array_equal(run(resumed, z, range(5, 9)), run(whole, z, range(5, 9)))


class Cosine(Digits):
    def scheduler(self, optimizer: torch.optim.Optimizer, run: RunLength) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.rounds)


def rates(trainer: TaskTrainer, rounds: range) -> list[float]:
    found = []
    for t in rounds:
        trainer._descent.begin_round(t)
        found.append(trainer._descent._optimizer.param_groups[0]["lr"])
        trainer._descent.step()
        trainer._descent.end_round()
    return found


@pytest.mark.parametrize("resumes", [False, True])
def test_own_schedule_of_a_longer_run_is_that_of_a_run_of_this_length(resumes: bool) -> None:
    """From the round of the extension on, whether the run goes on or resumes from a checkpoint."""
    settings = TrainSettings(batch_size=16, optimizer="adam")
    short, long = (digits_trainer(torch.arange(100), Cosine(mlp), settings, rounds=rounds) for rounds in (8, 16))
    first, whole = rates(short, range(8)), rates(long, range(16))
    assert first != whole[:8]
    longer = short
    if resumes:
        longer = digits_trainer(torch.arange(100), Cosine(mlp), settings, rounds=16)
        longer.load_local_state(tensors.load(tensors.save(short.local_state())))
    longer.train_until(16)
    assert rates(longer, range(8, 16)) == whole[8:]


@pytest.mark.parametrize("schedule", ["cosine", "trapezoid", "steps"])
def test_schedule_of_a_longer_run_is_that_of_a_run_of_this_length(schedule: str) -> None:
    short, long = (
        digits_trainer(torch.arange(100), Digits(mlp), TrainSettings(schedule=schedule, milestones=(2,)), rounds=rounds)
        for rounds in (8, 16)
    )
    short.train_until(16)
    rates = [(t._descent.begin_round(12), t._descent._rate)[1] for t in (short, long)]
    assert rates[0] == rates[1] > 0


def test_newcomer_takes_over_the_schedule_and_not_the_optimiser() -> None:
    sponsor = digits_trainer(torch.arange(100), Scheduled(mlp), TrainSettings(batch_size=16))
    run(sponsor, sponsor.initial(), range(5))
    newcomer = digits_trainer(torch.arange(100, 200), Scheduled(mlp), TrainSettings(batch_size=16))
    shared = {name: value for name, value in sponsor.local_state().items() if name.startswith(SHARED_STATE)}
    newcomer.load_local_state({**newcomer.local_state(), **shared})
    assert newcomer._descent._optimizer.param_groups[0]["lr"] == 0.01 * 0.25
    assert not newcomer._descent._optimizer.state


class Odd(Digits):
    def __init__(self, optimizer: object, scheduler: object = None) -> None:
        super().__init__(mlp)
        self.optimizer = lambda model: optimizer(model) if callable(optimizer) else optimizer
        self._made = scheduler

    def scheduler(self, optimizer: torch.optim.Optimizer, run: RunLength) -> object:
        return self._made(optimizer) if callable(self._made) else self._made


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Odd("adam"), "Odd.optimizer returns 'adam', but it must be an optimiser of torch.optim"),
        (Odd(lambda model: torch.optim.LBFGS(model.parameters())), "LBFGS, which evaluates the loss itself"),
        (Odd(lambda model: torch.optim.SGD(mlp().parameters(), lr=1)), "an optimiser of other parameters: build it"),
        (Odd(lambda model: torch.optim.SGD(model.parameters(), lr=1), "cosine"), "Odd.scheduler returns 'cosine', but"),
        (
            Odd(lambda model: torch.optim.SGD(model.parameters(), lr=1), torch.optim.lr_scheduler.ReduceLROnPlateau),
            "ReduceLROnPlateau, but a schedule must depend on the round only",
        ),
        (Digits(lambda: "net"), "Digits.model returns 'net', but it must be a torch.nn.Module"),
    ],
)
def test_unusable_parts_of_a_task_are_named(task: Digits, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        digits_trainer(torch.arange(100), task, TrainSettings())


def test_model_of_another_format_is_trained_in_it() -> None:
    trainer = digits_trainer(torch.arange(100), Half(), TrainSettings(batch_size=16, learning_rate=0.1))
    z = trainer.initial()
    first = trainer.train(0, z.copy())
    for t in range(1, 30):
        z = z + local_update(trainer.train(t, z.copy()), z)
    assert z.dtype == np.float32
    assert trainer.train(30, z).loss < first.loss
    assert {t.dtype for t in trainer.named_tensors(z).values()} == {torch.bfloat16}


class Half(Digits):
    def __init__(self) -> None:
        super().__init__(lambda: without_dropout().bfloat16())

    def loss(self, model: nn.Module, batch: object) -> torch.Tensor:
        images, labels = self.prepared(batch)
        return functional.cross_entropy(model(images.bfloat16()).float(), labels)
