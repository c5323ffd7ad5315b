"""The local step equals torch.optim.SGD to the bit, and depends on the round number alone."""

from __future__ import annotations

import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgenode.errors import CheckpointError, ConfigError, Diverged, LocalProtocolError
from edgenode.tasks import datasets, models
from edgenode.tasks.partition import partition
from edgenode.tasks.settings import TaskSettings, TrainSettings
from edgenode.tasks.trainer import Trainer, _precision, build_trainer
from tests.tasks.small_trainer import run, small_net, small_trainer

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


def test_read_only_vector_is_accepted_and_left_alone() -> None:
    trainer = small_trainer()
    z = trainer.initial()
    before = z.copy()
    z.flags.writeable = False
    step = trainer.train(0, z)
    assert np.array_equal(z, before)
    assert step.local_update.dtype == np.float32
    assert np.abs(step.local_update).max() > 0


def test_vector_of_another_size_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError, match="shape"):
        small_trainer().train(0, np.zeros(1, np.float32))


# one step ----------------------------------------------------------------------------------------------


def reference(trainer: Trainer, z: np.ndarray, rounds: int, **options: float) -> np.ndarray:
    """Train a plain model of separate tensors by torch.optim.SGD on the same batches."""
    found = datasets.load("digits")
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    nn.utils.vector_to_parameters(torch.from_numpy(z.copy()), net.parameters())
    optimiser = torch.optim.SGD(net.parameters(), **options)
    for t in range(rounds):
        chosen = trainer.batches.indices(t)
        images = (found.train_images[chosen].float() - torch.tensor(found.mean)) / torch.tensor(found.std)
        optimiser.param_groups[0]["lr"] = trainer.learning_rate(t)
        optimiser.zero_grad()
        functional.cross_entropy(net(images), found.train_labels[chosen]).backward()
        optimiser.step()
    return nn.utils.parameters_to_vector(net.parameters()).detach().numpy()


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("weight_decay", [1e-2, 0.0])
def test_steps_equal_torch_sgd_to_the_bit(momentum: float, weight_decay: float) -> None:
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    settings = TrainSettings(16, 0.05, momentum, weight_decay, milestones=(1,), decay=0.5)
    trainer = Trainer(datasets.load("digits"), torch.arange(100), net, settings, seed=0, shard=0)
    ours = z = trainer.initial()
    for t in range(10):
        trainer.train(t, ours)
        ours = trainer._flat.read()
    theirs = reference(trainer, z, 10, lr=0.05, momentum=momentum, weight_decay=weight_decay)
    assert np.array_equal(ours, theirs)


def test_bfloat16_applies_to_layers_and_not_to_kept_state() -> None:
    half, full = (small_trainer(precision=precision) for precision in ("bfloat16", "float32"))
    z = half.initial()
    seen = []
    half._flat.model[-1].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    step, again, exact = half.train(0, z), small_trainer(precision="bfloat16").train(0, z), full.train(0, z)
    assert np.array_equal(step.local_update, again.local_update)
    off = np.linalg.norm(step.local_update - exact.local_update) / np.linalg.norm(exact.local_update)
    assert 0 < off < 0.05  # a bfloat16 has eight significant bits
    assert {state.dtype for name, state in half.local_state().items() if "num_batches" not in name} == {np.dtype("f4")}
    assert abs(half.evaluate(z) - full.evaluate(z)) < 0.05
    assert len(seen) > 1 and set(seen) == {torch.bfloat16}


def test_device_without_bfloat16_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="precision 'bfloat16' was asked for, but device 'meta' does not have it"):
        _precision("bfloat16", torch.device("meta"))


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


def test_evaluation_and_export_do_not_change_training() -> None:
    quiet, watched = small_trainer(), small_trainer()
    z = quiet.initial()
    expected = run(quiet, z, range(6))
    for t in range(6):
        watched.evaluate(np.zeros_like(z))
        watched.named_tensors(np.ones_like(z))
        z = z + watched.train(t, z).local_update
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
    batches = [net[0](images[trainer.batches.indices(t)]) for t in range(trainer.rounds_per_epoch)]
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
    assert trainer.evaluate(z) == pytest.approx(float(right), abs=1e-12)


# build_trainer ----------------------------------------------------------------------------------------------


def test_small_cnn_learns_the_digits() -> None:
    trainer = build_trainer(TaskSettings(train=TrainSettings(learning_rate=0.02)), 0, 1, seed=0)
    assert trainer.rounds_per_epoch == 46
    z = run(trainer, trainer.initial(), range(400))
    assert trainer.evaluate(z) > 0.975


def test_shards_of_one_task_are_disjoint_and_share_the_images() -> None:
    trainers = [build_trainer(TaskSettings(skew=0.8), shard, 4, seed=0) for shard in range(4)]
    used = torch.cat([t.batches.indices(r) for t in trainers for r in range(t.rounds_per_epoch)])
    assert torch.equal(used.sort().values, torch.arange(1442))
    assert len({t.batches._train[0].data_ptr() for t in trainers}) == 1
    assert np.array_equal(trainers[0].initial(), trainers[3].initial())


def test_alpha_selects_a_dirichlet_partition() -> None:
    rounds = {build_trainer(TaskSettings(alpha=0.1), j, 4, seed=0).rounds_per_epoch for j in range(4)}
    assert len(rounds) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TaskSettings(skew=2.0), "skew is 2.0"),
        (TaskSettings(model="vgg11"), "cannot take images of 1x8x8"),
        (TaskSettings(dataset="digit"), "did you mean 'digits'"),
    ],
)
def test_invalid_tasks_are_config_errors(settings: TaskSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_trainer(settings, 0, 4, seed=0)


def test_unknown_shard_and_device_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="shard 4 does not exist"):
        build_trainer(TaskSettings(), 4, 4, seed=0)
    with pytest.raises(ConfigError, match="device 'toaster'"):
        build_trainer(TaskSettings(), 0, 4, seed=0, device="toaster")


def test_digits_do_not_import_slow_libraries() -> None:
    code = (
        "import sys, edgenode.tasks.trainer as t; r = t.build_trainer(t.TaskSettings(), 0, 2, 0, 'cpu');"
        "r.train(0, r.initial()); print([m for m in ('torch._dynamo', 'sklearn', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_trainers_of_one_process_partition_the_data_once(monkeypatch: pytest.MonkeyPatch) -> None:
    partitions = []

    def counted(labels: torch.Tensor, shards: int, skew: float, seed: int) -> list[torch.Tensor]:
        partitions.append((shards, skew, seed))
        return partition(labels, shards, skew, seed)

    monkeypatch.setattr("edgenode.tasks.trainer.partition", counted)
    monkeypatch.setattr("edgenode.tasks.trainer._partitions", weakref.WeakKeyDictionary())
    held = [build_trainer(TaskSettings(skew=0.5), shard, 4, seed=3) for shard in range(4)]
    assert partitions == [(4, 0.5, 3)]
    used = torch.cat([trainer.batches._indices for trainer in held]).sort().values
    assert torch.equal(used, torch.arange(len(used)))
    other = build_trainer(TaskSettings(skew=0.5), 0, 4, seed=4)
    assert partitions == [(4, 0.5, 3), (4, 0.5, 4)]
    assert not torch.equal(other.batches._indices, held[0].batches._indices)


def test_vgg11_does_not_diverge_at_the_papers_rate() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, 10, (32,), generator=random)
    noise = datasets.Dataset(images, labels, images, labels, 10, (127.5,) * 3, (73.6,) * 3)
    chosen = TrainSettings(batch_size=8, learning_rate=0.05, weight_decay=5e-4)
    trainer = Trainer(noise, torch.arange(32), lambda: models.build("vgg11", 10, 3, 32), chosen, seed=0, shard=0)
    z = trainer.initial()
    for t in range(6):
        step = trainer.train(t, z)
        z = z + step.local_update
        assert step.loss < 5


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_absent_device_is_a_config_error(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"torch.{'cuda' if device == 'cuda' else 'backends.mps'}.is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"device '{device}' was asked for, but torch finds no "):
        build_trainer(TaskSettings(), 0, 1, seed=0, device=device)
