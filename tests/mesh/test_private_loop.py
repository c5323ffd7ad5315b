"""Differential privacy in a loop of one's own: the steps, their count, and all that would end the guarantee."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from edgenode import ConfigError, EdgenodeError, Mesh
from edgenode.addresses import free_ports
from edgenode.core.topology.period import DataSize
from edgenode.errors import CheckpointError
from edgenode.storage.privacy_ledger import LEDGER, FileLedger
from edgenode.tasks.privacy_budget import Spending, epsilon_of
from tests.mesh.conftest import MakeMesh

pytest.importorskip("opacus")

FEATURES, CLASSES, SAMPLES = 6, 3, 40
LABELS = torch.arange(SAMPLES) % CLASSES
DATA = TensorDataset(torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(0)), LABELS)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, CLASSES))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def loader_of(batch_size: int = SAMPLES) -> DataLoader[Any]:
    return DataLoader(DATA, batch_size, shuffle=True)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
    inputs, labels = batch
    loss = cross_entropy(model(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


class Loop:
    """A loop, and what its body sees.

    Attributes:
        sizes: of the batches.
        changes: of the model in each step.
    """

    def __init__(self, make_mesh: MakeMesh, batch_size: int = SAMPLES, *, seed: int = 0, **arguments: Any) -> None:
        keys = {"privacy.noise": 1.0, **arguments.pop("settings", {})}
        settings = {key: value for key, value in keys.items() if value is not None}
        self.model = network(seed)
        self.optimizer = sgd(self.model)
        self.mesh = make_mesh(self.model, self.optimizer, settings=settings, **arguments)
        self.loader, self.sizes, self.changes = loader_of(batch_size), list[int](), list[torch.Tensor]()

    def run(self, each: Callable[[], None] = lambda: None) -> Mesh:
        """Train to the end of the run, and call a function before each step."""
        for batch in self.mesh.loop(self.mesh.private(self.optimizer, self.loader)):
            each()
            before = weights(self.model)
            loss = take_step(self.model, self.optimizer, batch)
            self.sizes.append(len(batch[0]))
            self.changes.append(weights(self.model) - before)
            self.mesh.step(loss=loss)
        return self.mesh


def counted(mesh: Mesh) -> int:
    return sum(part.steps for part in FileLedger(mesh.state_dir).read())


# --- the steps ------------------------------------------------------------------------------------------


def test_step_is_the_mean_of_clipped_gradients(make_mesh: MakeMesh) -> None:
    """Every sample is in the step, and the noise is as good as none."""
    settings = {"run.rounds": 1, "privacy.noise": 1e-9, "privacy.clip_norm": 0.3}
    loop, model, total = Loop(make_mesh, settings=settings), network(), torch.zeros(0)
    loop.run()
    for inputs, label in DATA:
        loss = cross_entropy(model(inputs[None]), label[None])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])
        clipped = gradient * min(1.0, 0.3 / float(gradient.norm()))
        assert clipped.norm() < 0.9 * gradient.norm()
        total = clipped + (total if len(total) else torch.zeros_like(clipped))
    assert torch.allclose(loop.changes[0], -total / SAMPLES, atol=1e-6)
    assert torch.allclose(weights(loop.model), weights(model) - total / SAMPLES, atol=1e-6)


def test_noise_has_the_size_that_is_asked_for(make_mesh: MakeMesh) -> None:
    """The gradients of 40 samples are at most 1e-6 long, so what changes is noise."""
    loop = Loop(make_mesh, settings={"run.rounds": 30, "privacy.noise": 2e6, "privacy.clip_norm": 1e-6})
    loop.run()
    assert torch.cat(loop.changes).std().item() == pytest.approx(2e6 * 1e-6 / SAMPLES, rel=0.1)
    assert not torch.equal(*loop.changes[:2])


def test_samples_are_drawn_by_chance(make_mesh: MakeMesh) -> None:
    """A mean of 5 of 40, whatever came before."""
    loop = Loop(make_mesh, 5, settings={"run.rounds": 80})
    loop.run()
    assert np.mean(loop.sizes) == pytest.approx(5, abs=1.2)
    assert len(set(loop.sizes)) > 3


def test_step_without_a_sample_is_noise_alone(make_mesh: MakeMesh) -> None:
    """A third of the draws has no sample. Its batch has one, which does not change the model."""
    loop = Loop(make_mesh, 1, settings={"run.rounds": 60, "privacy.noise": 1e-9})
    loop.run()
    idle = [change.abs().max() < 1e-7 for change in loop.changes]
    assert 5 < sum(idle) < 40
    assert all(size == 1 for size, is_idle in zip(loop.sizes, idle, strict=True) if is_idle)


def test_reproducible_loop_resumes_to_the_bit(make_mesh: MakeMesh, tmp_path: Path) -> None:
    settings = {"privacy.reproducible": True}
    whole = Loop(make_mesh, 10, settings=settings, state_dir=tmp_path / "whole")
    whole.run()
    with pytest.raises(KeyError):
        Loop(make_mesh, 10, settings=settings).run(failing_after(8))
    resumed = Loop(make_mesh, 10, seed=5, settings=settings)
    resumed.run()
    assert resumed.sizes == whole.sizes[5:]
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_nothing_but_the_model_tells_of_a_sample(make_mesh: MakeMesh) -> None:
    logged: list[dict[str, float]] = []
    loop = Loop(make_mesh, 8, on_round=lambda _, values: logged.append(values))
    mesh = loop.run()
    assert logged and not any("loss" in values for values in logged)
    assert mesh._loop is not None and mesh._loop.trainer.data_size == DataSize(32, 8)
    assert mesh.result is not None and mesh.result["nodes"][0].get("loss") is None


def test_model_is_plain_after_the_loop(make_mesh: MakeMesh, tmp_path: Path) -> None:
    loop = Loop(make_mesh)
    loop.run()
    take_step(loop.model, loop.optimizer, next(iter(loop.loader)))
    assert not any(hasattr(p, "grad_sample") for p in loop.model.parameters())
    again = make_mesh(loop.model, loop.optimizer, settings={"privacy.noise": 1.0}, state_dir=tmp_path / "again")
    for batch in again.loop(again.private(loop.optimizer, loop.loader)):
        take_step(loop.model, loop.optimizer, batch)
        again.step()


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_fetch_the_batches(make_mesh: MakeMesh, persistent: bool) -> None:
    """They fetch ahead, and each batch still has its own draw: others would have another size, and be refused."""
    loop = Loop(make_mesh, 5, settings={"run.rounds": 40})
    loop.loader = DataLoader(DATA, 5, shuffle=True, num_workers=2, persistent_workers=persistent)
    mesh = loop.run()
    assert len(loop.sizes) == 40 == counted(mesh)


# --- their count ----------------------------------------------------------------------------------------


def failing_after(steps: int) -> Callable[[], None]:
    left = iter(range(steps))

    def fail() -> None:
        if next(left, None) is None:
            raise KeyError("the power fails")

    return fail


def test_ledger_counts_each_step_before_its_noise(make_mesh: MakeMesh) -> None:
    """Of the whole state folder, through an interruption, and a start from nothing."""
    loops = [Loop(make_mesh), Loop(make_mesh), Loop(make_mesh, fresh=True)]

    def check() -> None:
        assert counted(loops[0].mesh) > sum(len(loop.changes) for loop in loops)

    crash = failing_after(8)
    with pytest.raises(KeyError):
        loops[0].run(lambda: (check(), crash())[1])
    for loop in loops[1:]:
        loop.run(check)
    assert [len(loop.changes) for loop in loops] == [8, 7, 12]
    assert 27 <= counted(loops[0].mesh) < 140  # what the crash left counted ahead


def test_checkpoint_counts_too(make_mesh: MakeMesh) -> None:
    first = Loop(make_mesh)
    with pytest.raises(KeyError):
        first.run(failing_after(8))
    (first.mesh.state_dir / LEDGER).unlink()
    assert counted(Loop(make_mesh).run()) == 5 + 7


def test_budget_is_read_when_the_folder_is_this_nodes(make_mesh: MakeMesh) -> None:
    """Two meshes of one folder are made before the first trains."""
    loops = [Loop(make_mesh), Loop(make_mesh, fresh=True)]
    private = [loop.mesh.private(loop.optimizer, loop.loader) for loop in loops]
    for loop, batches in zip(loops, private, strict=True):
        for batch in loop.mesh.loop(batches):
            take_step(loop.model, loop.optimizer, batch)
            loop.mesh.step()
    assert counted(loops[0].mesh) == 24


def test_spent_budget_ends_training_and_not_the_run(make_mesh: MakeMesh) -> None:
    loop = Loop(make_mesh, settings={"run.rounds": 30, "privacy.epsilon": 3.0, "privacy.noise": 4.0})
    loop.mesh.evaluate(lambda: 0.5)
    with capture_logs() as lines:
        mesh = loop.run()
    assert 0 < len(loop.changes) < 30
    assert [line["event"] for line in lines].count(
        "the privacy budget is spent: this node trains no more, and mixes what it receives"
    ) == 1
    assert mesh.result is not None
    row = mesh.result["nodes"][0]
    assert row["rounds"] == 30
    assert 2.5 < row["metrics"]["epsilon"] <= 3
    assert row["metrics"]["accuracy"] == 0.5
    assert row["metrics"]["epsilon"] == pytest.approx(epsilon_of([Spending(4.0, 1.0, len(loop.changes))], 1e-5))


def test_noise_suffices_for_all_steps(make_mesh: MakeMesh) -> None:
    settings = {"run.rounds": 6, "task.local_steps": 3, "privacy.epsilon": 2.0, "privacy.noise": None}
    loop = Loop(make_mesh, settings=settings)
    mesh = loop.run()
    assert len(loop.changes) == mesh.steps == 18
    assert 1.9 < epsilon_of(FileLedger(mesh.state_dir).read(), 1e-5) <= 2


def test_spent_node_takes_part_without_training(tmp_path: Path) -> None:
    """One of two has spent all before. It ends with what the other has learnt."""
    ports, models, bodies = free_ports(2), [network(i) for i in range(2)], [0, 0]
    (tmp_path / "n0").mkdir(mode=0o700)
    FileLedger(tmp_path / "n0").write((Spending(0.5, 1.0, 1000),))
    settings = {"run.nodes": 2, "run.rounds": 20, "algorithm.name": "sgp", "privacy.epsilon": 5.0}

    def node(i: int) -> None:
        optimizer = sgd(models[i])
        mesh = Mesh(
            models[i], None, optimizer, settings=settings, name=f"n{i}", listen=f"127.0.0.1:{ports[i]}",
            peers=[f"127.0.0.1:{ports[1 - i]}"], state_dir=tmp_path / f"n{i}", wait_s=20,
        )  # fmt: skip
        for batch in mesh.loop(mesh.private(optimizer, loader_of())):
            bodies[i] += 1
            take_step(models[i], optimizer, batch)
            mesh.step()

    threads = [threading.Thread(target=node, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert bodies == [0, 20]
    moved = [(weights(model) - weights(network(0))).norm() for model in models]
    assert moved[0] > 0.3 * moved[1] > 0


def test_step_that_cannot_be_counted_is_left_out(make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("cannot write privacy.json: No space left on device")

    monkeypatch.setattr(FileLedger, "write", full)
    loop = Loop(make_mesh)
    mesh = loop.run()
    assert loop.changes == []
    assert mesh.result is not None and mesh.result["nodes"][0]["rounds"] == 12


def test_ledger_that_cannot_be_read_ends_the_run(make_mesh: MakeMesh) -> None:
    loop = Loop(make_mesh)
    loop.mesh.state_dir.mkdir(0o700, parents=True)
    (loop.mesh.state_dir / LEDGER).write_text("[{")
    with pytest.raises(EdgenodeError, match=r"privacy\.json cannot be read, so what this node has spent"):
        loop.run()
    assert loop.changes == []


# --- bodies without a guarantee -------------------------------------------------------------------------


def with_closure(loop: Loop, batch: Any) -> None:
    def closure() -> torch.Tensor:
        loop.optimizer.zero_grad()
        loss = cross_entropy(loop.model(batch[0]), batch[1])
        loss.backward()
        return loss

    loop.optimizer.step(closure)  # type: ignore[arg-type]


def second_step(loop: Loop, batch: Any) -> None:
    take_step(loop.model, loop.optimizer, batch)
    loop.optimizer.step()


def no_step(loop: Loop, batch: Any) -> None:
    """Its gradients would be part of the next batch's, or are used by hand."""
    cross_entropy(loop.model(batch[0]), batch[1]).backward()


def another_optimiser(loop: Loop, batch: Any) -> None:
    take_step(loop.model, sgd(loop.model[3]), batch)


def thawed(loop: Loop, batch: Any) -> None:
    loop.model[0].requires_grad_(True)
    take_step(loop.model, loop.optimizer, batch)


def frozen(loop: Loop, batch: Any) -> None:
    loop.model[3].bias.requires_grad_(False)
    take_step(loop.model, loop.optimizer, batch)


def replaced(loop: Loop, batch: Any) -> None:
    loop.model[3] = nn.Linear(8, CLASSES)
    take_step(loop.model, loop.optimizer, batch)


def no_backward(loop: Loop, batch: Any) -> None:
    loop.optimizer.step()


def two_backward_passes(loop: Loop, batch: Any) -> None:
    cross_entropy(loop.model(batch[0]), batch[1]).backward()
    take_step(loop.model, loop.optimizer, batch)


def half_of_the_batch(loop: Loop, batch: Any) -> None:
    take_step(loop.model, loop.optimizer, [part[::2] for part in batch])


def changed_gradients(loop: Loop, batch: Any) -> None:
    cross_entropy(loop.model(batch[0]), batch[1]).backward()
    nn.utils.clip_grad_norm_(loop.model.parameters(), 1e-3)
    loop.optimizer.step()


def unkept_scaler(loop: Loop, batch: Any) -> None:
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(cross_entropy(loop.model(batch[0]), batch[1])).backward()  # type: ignore[no-untyped-call]
    scaler.step(loop.optimizer)


def half_precision(loop: Loop, batch: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(loop.model[3](loop.model[0](batch[0])), batch[1])
    loss.backward()
    loop.optimizer.step()


def shared_weight(loop: Loop, batch: Any) -> None:
    """Opacus does not see what a function does with the weight of a layer."""
    weight = loop.model[3].weight
    cross_entropy(loop.model(batch[0]) + weight.sum(), batch[1]).backward()
    (weight.square().sum()).backward()
    loop.optimizer.step()


NO_STEP = r"a batch had no optimizer.step\(\): call it once for each batch"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (with_closure, r"optimizer.step\(closure\) computes gradients that have no noise"),
        (second_step, r"optimizer.step\(\) has no batch of mesh.loop: call it once for each"),
        (no_step, NO_STEP),
        (another_optimiser, "a SGD that mesh.private does not have steps the model"),
        (thawed, "a parameter was frozen, thawed or replaced after mesh.private"),
        (frozen, "a parameter was frozen, thawed or replaced after mesh.private"),
        (replaced, "a parameter was frozen, thawed or replaced after mesh.private"),
        (no_backward, "a step had no backward pass through the model in training mode"),
        (two_backward_passes, "use .*weight once for each sample of a batch, in its own layer, with one backward pass"),
        (half_of_the_batch, "use .*weight once for each sample of a batch"),
        (changed_gradients, r"or the gradient was changed after backward\(\)"),
        (unkept_scaler, r"or the gradient was changed after backward\(\)"),
        (half_precision, "must be float32: leave out autocast|same dtype"),
        (shared_weight, "do not add up to the gradient of 3.weight: the model uses it outside of its layer"),
    ],
)
def test_body_without_a_guarantee_ends_before_it_sends(
    make_mesh: MakeMesh, body: Callable[[Loop, Any], None], reason: str
) -> None:
    """At its first batch, and with nothing in the model that could tell of a sample."""
    loop = Loop(make_mesh)
    loop.model[0].requires_grad_(False)
    before, given, sent = weights(loop.model), 0, False
    with pytest.raises((EdgenodeError, RuntimeError), match=reason):
        for batch in loop.mesh.loop(loop.mesh.private(loop.optimizer, loop.loader)):
            given += 1
            body(loop, batch)
            loop.mesh.step()
            sent = True
    assert (given, sent) == (1, False)
    assert body in (second_step, replaced) or torch.equal(weights(loop.model), before)


def test_model_in_evaluation_mode_is_refused(make_mesh: MakeMesh) -> None:
    loop = Loop(make_mesh)
    with pytest.raises(ValueError, match="No activations detected"):  # of Opacus
        loop.run(loop.model.eval)


@pytest.mark.parametrize("ahead", [False, True])
def test_batch_without_a_step_is_refused_at_the_next(make_mesh: MakeMesh, ahead: bool) -> None:
    """The body skips it, or a wrapper of the loop fetches the next one first."""
    loop, bodies = Loop(make_mesh), 0
    batches = loop.mesh.loop(loop.mesh.private(loop.optimizer, loop.loader))
    if ahead:
        next(batches)
    with pytest.raises(EdgenodeError, match=NO_STEP):
        for _ in batches:
            bodies += 1
    assert bodies == (0 if ahead else 1)


def test_step_before_the_loop_is_refused(make_mesh: MakeMesh) -> None:
    loop = Loop(make_mesh)
    private = loop.mesh.private(loop.optimizer, loop.loader)
    with pytest.raises(EdgenodeError, match=r"optimizer.step\(\) has no batch of mesh.loop"):
        take_step(loop.model, loop.optimizer, next(iter(loop.loader)))
    with pytest.raises(TypeError, match="not iterable"):
        list(private)  # type: ignore[call-overload]


def test_optimiser_of_another_model_steps_as_ever(make_mesh: MakeMesh) -> None:
    loop, critic = Loop(make_mesh), nn.Linear(FEATURES, 1)
    optimizer, before = sgd(critic), weights(critic)

    def train_critic() -> None:
        optimizer.zero_grad()
        critic(torch.ones(1, FEATURES)).sum().backward()
        optimizer.step()

    loop.run(train_critic)
    assert len(loop.changes) == 12
    assert torch.allclose(weights(critic), before - 12)


# --- loaders, optimisers and models without one ---------------------------------------------------------


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(SAMPLES))


class OwnLoader(DataLoader[Any]):
    pass


ONCE = "the loader must have batch_size, and each sample of its data set once in a pass"


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([1, 2], "the loader is a list, but it must be a torch DataLoader itself"),
        (OwnLoader(DATA, 4), "the loader is a OwnLoader, but it must be a torch DataLoader itself"),
        (DataLoader(Stream(), 4), ONCE),
        (DataLoader(DATA, None), ONCE),
        (DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(DATA), 4, False)), ONCE),
        (DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * SAMPLES, SAMPLES)), ONCE),
        (DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)), ONCE),
        (DataLoader(DATA, 4, sampler=RandomSampler(DATA, num_samples=80)), ONCE),
        (DataLoader(TensorDataset(torch.zeros(0, 2)), 4), "the data set of the loader is empty"),
    ],
)
def test_loader_whose_samples_cannot_be_drawn_is_refused(make_mesh: MakeMesh, loader: Any, reason: str) -> None:
    loop = Loop(make_mesh)
    with pytest.raises(ConfigError, match=f"mesh.private: {reason}"):
        loop.mesh.private(loop.optimizer, loader)


def test_optimiser_must_be_kept_and_complete(make_mesh: MakeMesh) -> None:
    loop, settings = Loop(make_mesh), {"privacy.noise": 1.0}
    for wrong in (sgd(loop.model), "sgd"):
        with pytest.raises(ConfigError, match="the first argument must be a torch optimiser that was passed to Mesh"):
            loop.mesh.private(wrong, loop.loader)  # type: ignore[arg-type]
    partial = sgd(loop.model[0])
    with pytest.raises(ConfigError, match=r"the SGD does not have 3\.weight: give it all that is trained"):
        make_mesh(loop.model, partial, settings=settings).private(partial, loop.loader)
    with pytest.raises(ConfigError, match="a GradScaler skips steps by the gradients of samples: leave it out"):
        mesh = make_mesh(loop.model, loop.optimizer, torch.amp.GradScaler("cpu"), settings=settings)
        mesh.private(loop.optimizer, loop.loader)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(FEATURES, 4).double()), r"mesh.private: 0\.weight is torch.float64, but \[privacy\]"),
        (
            nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4)),
            "BatchNorm cannot support .* nn.GroupNorm have none",
        ),
        (nn.Linear(FEATURES, 4).eval(), "Model needs to be in training mode"),
    ],
)
def test_model_without_gradients_of_samples_is_refused(make_mesh: MakeMesh, model: nn.Module, reason: str) -> None:
    optimizer = sgd(model)
    with pytest.raises(ConfigError, match=reason):
        make_mesh(model, optimizer, settings={"privacy.noise": 1.0}).private(optimizer, loader_of())


def test_mesh_and_its_private_loader_belong_together(make_mesh: MakeMesh) -> None:
    with pytest.raises(ConfigError, match=r"mesh.private: run.toml has no \[privacy\]: set privacy.epsilon"):
        Loop(make_mesh, settings={"privacy.noise": None}).run()
    loop, other = Loop(make_mesh), Loop(make_mesh)
    of_other = other.mesh.private(other.optimizer, other.loader)
    for wrong in (loop.loader, [0], of_other):
        with pytest.raises(ConfigError, match=r"the loader of mesh.loop must be that of mesh.private.*callbacks of"):
            loop.mesh.loop(wrong)  # type: ignore[arg-type]
    loop.mesh.private(loop.optimizer, loop.loader)
    with pytest.raises(ConfigError, match=r"mesh\.private was called already"):
        loop.mesh.private(loop.optimizer, loop.loader)
    again = make_mesh(loop.model, loop.optimizer, settings={"privacy.noise": 1.0})
    with pytest.raises(ConfigError, match="the model has hooks of Opacus already: create it again"):
        again.private(loop.optimizer, loop.loader)
