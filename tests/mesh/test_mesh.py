"""A training loop of one's own as a node: what it trains, how it resumes, and how it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import edgenode
from edgenode import ConfigError, EdgenodeError, LiveModel, Mesh
from edgenode.addresses import free_ports
from tests.mesh.conftest import MakeMesh

DATA = TensorDataset(torch.arange(40.0).view(10, 4) / 40, torch.arange(10) % 3)


class Net(nn.Module):
    """A model with everything that carries state or draws numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x)
        return out


def parts(seed: int = 0) -> tuple[Net, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Seed every generator, and make a model with its optimiser and schedule."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)


def shuffled() -> DataLoader[Any]:
    return DataLoader(DATA, batch_size=4, shuffle=True)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    images, labels = batch
    noise = random.random() + float(np.random.rand())
    loss = nn.functional.cross_entropy(model(images + noise), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train(mesh: Mesh, model: nn.Module, optimizer: Any, schedule: Any, fail_at: int = -1) -> list[float]:
    """Run the loop and return the losses. Raise KeyError in the body at a round."""
    losses = []
    for batch in mesh.loop(shuffled()):
        losses.append(take_step(model, optimizer, batch))
        schedule.step()
        if mesh.round == fail_at:
            raise KeyError("the power fails")
        mesh.step(loss=losses[-1])
    return losses


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def living() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "edgenode"]


# --- training -------------------------------------------------------------------------------------------


def test_alone_a_loop_trains_as_without_a_mesh(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    plain = [take_step(model, optimizer, batch) for batch in shuffled()]  # the first pass
    model, optimizer, schedule = parts()
    schedule.base_lrs = [0.01]
    losses = train(make_mesh(model, optimizer, schedule), model, optimizer, schedule)
    assert len(losses) == 12
    assert losses[0] == plain[0]
    assert losses[1] == pytest.approx(plain[1], rel=0.05)  # the plain loop has no schedule


def test_nodes_average_what_they_learn(tmp_path: Path) -> None:
    """Two nodes pull one parameter to 0 and to 1. Both end between."""
    ports = free_ports(2)
    models = [nn.Linear(1, 1, bias=False) for _ in ports]
    results: dict[int, Any] = {}

    def node(i: int) -> None:
        model = models[i]
        nn.init.constant_(model.weight, 0.3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        mesh = Mesh(
            model, None, optimizer, settings={"run.nodes": 2, "run.rounds": 30, "algorithm.name": "sgp"},
            name=f"n{i}", listen=f"127.0.0.1:{ports[i]}", peers=[f"127.0.0.1:{ports[1 - i]}"],
            state_dir=tmp_path / f"n{i}",
        )  # fmt: skip
        for target in mesh.loop([float(i)]):
            loss = (model.weight - target).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mesh.step(loss=loss)
        results[i] = mesh.result

    in_threads(node, 2)
    assert [0.4 < model.weight.item() < 0.6 for model in models] == [True, True]
    for i, model in enumerate(models):
        row = results[i]["nodes"][0]
        assert (row["rounds"], row["messages"], row["test_accuracy"]) == (30, 30, None)
        written = load_file(tmp_path / f"n{i}" / "model.safetensors")
        assert torch.equal(written["weight"], model.weight.detach())


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "optimum"), [("equal", 0.5), ("samples", 0.1)])
def test_nodes_count_as_the_objective_says(tmp_path: Path, objective: str, optimum: float) -> None:
    """A node with 90 samples pulls to 0, and one with 10 to 1. They mix all and compress nothing."""
    ports = free_ports(2)
    weights = {}

    def node(i: int) -> None:
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 0.3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        data = TensorDataset(torch.full((90,), 0.0))
        loader = DataLoader(data, batch_size=30) if i == 0 else [(torch.ones(10),)]
        mesh = Mesh(
            model, None, optimizer, samples=None if i == 0 else 10, name=f"n{i}", state_dir=tmp_path / f"n{i}",
            settings={"run.nodes": 2, "run.rounds": 50, "algorithm.name": "sgp", "task.objective": objective},
            listen=f"127.0.0.1:{ports[i]}", peers=[f"127.0.0.1:{ports[1 - i]}"],
        )  # fmt: skip
        for (target,) in mesh.loop(loader):
            loss = (model.weight - target.mean()).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mesh.step(loss=loss)
        weights[i] = model.weight.item()

    in_threads(node, 2)
    assert [weights[0], weights[1]] == pytest.approx([optimum] * 2, abs=1e-3)


def in_threads(node: Callable[[int], None], count: int) -> None:
    """Run nodes at the same time, each in a thread that is its user's."""
    threads = [threading.Thread(target=node, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sgp", "scsp"])
def test_all_nodes_begin_with_the_model_of_the_first(tmp_path: Path, algorithm: str) -> None:
    ports = free_ports(3)
    begins: dict[int, list[float]] = {}

    def node(i: int) -> None:
        model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))
        nn.init.constant_(model[0].weight, i)
        nn.init.constant_(model[1].running_mean, i)
        mesh = Mesh(
            model, None, settings={"run.nodes": 3, "run.rounds": 8, "algorithm.name": algorithm},
            name=f"n{i}", listen=f"127.0.0.1:{ports[i]}", peers=[f"127.0.0.1:{port}" for port in ports],
            state_dir=tmp_path / f"n{i}",
        )  # fmt: skip
        for _ in mesh.loop([None]):
            begins.setdefault(i, [*model[0].weight[0].tolist(), model[1].running_mean.item()])
            mesh.step()

    in_threads(node, 3)
    assert begins == {i: [0.0, 0.0, 0.0] for i in range(3)}


def test_the_final_model_is_loaded_and_written(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule)
    train(mesh, model, optimizer, schedule)
    written = load_file(mesh.state_dir / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in model.state_dict().items())
    assert json.loads((mesh.state_dir / "result.json").read_text()) == json.loads(json.dumps(mesh.result))
    assert mesh.done
    assert mesh.round == 11


def test_model_is_published_while_the_loop_trains(make_mesh: MakeMesh, tmp_path: Path) -> None:
    model, optimizer, schedule = parts()
    alone = make_mesh(model, optimizer, schedule, state_dir=tmp_path / "alone")
    expected = train(alone, model, optimizer, schedule)

    other = Net()
    model, optimizer, schedule = parts()
    path = tmp_path / "for-others" / "model.safetensors"
    mesh = make_mesh(model, optimizer, schedule, publish=path, settings={"run.publish_every": 4})
    losses, rounds = [], []
    for batch in mesh.loop(shuffled()):
        if path.exists():
            live = LiveModel(path, other)
            rounds.append((mesh.round, live.round))
            if mesh.round == live.round:  # not yet trained since
                assert torch.equal(weights(other), weights(model))
        losses.append(take_step(model, optimizer, batch))
        schedule.step()
        mesh.step(loss=losses[-1])
    assert losses == expected
    assert rounds == [(t, t // 4 * 4) for t in range(4, 12)]
    assert LiveModel(path, other).round == 12
    assert torch.equal(weights(other), weights(model))
    assert not (mesh.state_dir / "model.safetensors").exists()


def test_evaluation_sees_the_model_at_rest_and_leaves_no_trace(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    expected = train(make_mesh(model, optimizer, schedule), model, optimizer, schedule)

    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule, fresh=True)
    seen = []

    @mesh.evaluate
    def accuracy() -> float:
        list(shuffled())
        random.random()
        np.random.rand()
        seen.append((model.training, model.body[2].training, torch.is_grad_enabled(), threading.get_ident()))
        return 0.25

    assert train(mesh, model, optimizer, schedule) == expected
    assert seen == [(False, False, False, threading.get_ident())] * 3
    assert model.training
    assert mesh.result is not None
    assert mesh.result["mean_test_accuracy"] == 0.25


def test_named_metrics_reach_log_and_result(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule)
    mesh.evaluate(lambda: {"loss": torch.tensor(2.5), "perplexity": 12.25})
    with capture_logs() as logged:
        train(mesh, model, optimizer, schedule)
    lines = [(entry["round"], entry["metrics"]) for entry in logged if entry["event"] == "test metrics"]
    assert lines[0] == (4, {"loss": 2.5, "perplexity": 12.25})
    assert mesh.result is not None
    (node,) = mesh.result["nodes"]
    assert (node["test_accuracy"], node["metrics"]) == (None, {"loss": 2.5, "perplexity": 12.25})
    assert mesh.result["mean_metrics"] == {"loss": 2.5, "perplexity": 12.25}


def test_each_round_is_passed_on_for_a_log(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    seen: list[tuple[int, dict[str, float], int]] = []
    mesh = make_mesh(
        model, optimizer, schedule, on_round=lambda t, values: seen.append((t, values, threading.get_ident()))
    )
    mesh.evaluate(lambda: {"auc": 0.5, "return": -7.0})
    losses = train(mesh, model, optimizer, schedule)
    assert [(t, values["loss"], thread) for t, values, thread in seen] == [
        (t, loss, threading.get_ident()) for t, loss in enumerate(losses)
    ]
    assert [values.get("test/return") for _, values, _ in seen] == [None] * 4 + [-7.0] * 8  # evaluated after 4 rounds


def test_an_error_of_the_log_ends_the_run(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net(), on_round=lambda t, values: values["no such metric"])
    with pytest.raises(KeyError, match="no such metric"):
        for _ in mesh.loop(shuffled()):
            mesh.step()
    assert living() == []


def test_layers_keep_their_mode_through_an_evaluation(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    model.body[1].eval()
    mesh = make_mesh(model, optimizer, schedule)
    mesh.evaluate(lambda: 1.0)
    train(mesh, model, optimizer, schedule)
    assert (model.training, model.body[1].training, model.body[2].training) == (True, False, True)


def test_a_round_has_the_configured_number_of_steps(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule, settings={"task.local_steps": 3, "run.rounds": 4})
    assert len(train(mesh, model, optimizer, schedule)) == 12
    assert mesh.result is not None
    assert mesh.result["nodes"][0]["rounds"] == 4


def test_a_run_of_diloco_in_pairs_has_the_steps_of_its_exchanges(make_mesh: MakeMesh) -> None:
    in_pairs = {"run.nodes": 4, "run.rounds": 8, "algorithm.name": "diloco", "topology.graphs": ["halving"]}
    model, optimizer, schedule = parts()
    assert make_mesh(model, optimizer, schedule, settings={**in_pairs, "task.local_steps": 3}).steps == 4 * 3


# --- resuming -------------------------------------------------------------------------------------------


def test_a_resumed_loop_equals_an_uninterrupted_one_to_the_bit(make_mesh: MakeMesh, tmp_path: Path) -> None:
    whole = parts()
    losses = train(make_mesh(*whole, state_dir=tmp_path / "whole"), *whole)

    first = parts()
    mesh = make_mesh(*first)
    mesh.extra["best"] = torch.tensor(0.5)
    with pytest.raises(KeyError):
        train(mesh, *first, fail_at=8)

    second = parts(seed=77)  # another model, another state of the generators: all comes from the checkpoint
    mesh = make_mesh(*second)
    assert train(mesh, *second) == losses[5:]
    for name, value in whole[0].state_dict().items():
        assert torch.equal(second[0].state_dict()[name], value), name
    assert second[2].state_dict() == whole[2].state_dict()
    assert mesh.extra == {"best": torch.tensor(0.5)}


@pytest.mark.parametrize("saved", [8, 9, 10])  # within the third pass of three batches, at its end, after it
def test_a_loop_resumes_after_many_passes(make_mesh: MakeMesh, tmp_path: Path, saved: int) -> None:
    whole = parts()
    losses = train(make_mesh(*whole, state_dir=tmp_path / "whole"), *whole)
    first, keys = parts(), {"run.checkpoint_every": saved}
    with pytest.raises(KeyError):
        train(make_mesh(*first, settings=keys), *first, fail_at=saved)
    second = parts(seed=77)
    assert train(make_mesh(*second, settings=keys), *second) == losses[saved:]
    assert all(torch.equal(second[0].state_dict()[name], value) for name, value in whole[0].state_dict().items())


def test_a_resumed_pass_without_a_step_is_an_error(make_mesh: MakeMesh) -> None:
    first, keys = parts(), {"run.checkpoint_every": 8}
    with pytest.raises(KeyError):
        train(make_mesh(*first, settings=keys), *first, fail_at=8)
    mesh, taken = make_mesh(*parts(), settings=keys), 0
    with pytest.raises(EdgenodeError, match=r"mesh.step\(\) was not called in a whole pass"):
        for _ in mesh.loop(shuffled()):
            taken += 1
    assert taken == 1 + 3  # the rest of the third pass, and the fourth


def kept(kinds: str, model: nn.Module) -> tuple[Any, ...]:
    """What a script passes to Mesh: an optimiser, and a schedule of it."""
    if not kinds:
        return ()
    optimizer = (torch.optim.SGD if "SGD" in kinds else torch.optim.Adam)(model.parameters(), lr=0.01)
    return (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)) if "schedule" in kinds else (optimizer,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "now", "error"),
    [
        ("", "Adam", r"state of 0 objects and 0 schedules, but Mesh was given 1 and 0 \(Adam\): pass the same ones as"),
        ("Adam", "", r"state of 1 object and 0 schedules, but Mesh was given 0 and 0 \(none\): pass the same ones as"),
        ("Adam", "Adam, schedule", r"and 0 schedules, but Mesh was given 1 and 1 \(Adam, ConstantLR\): pass the same"),
        ("Adam", "SGD", r"the state of SGD \(object\.0\) does not fit: it is another optimiser"),
        ("SGD", "Adam", r"the state of Adam \(object\.0\) does not fit: it is another optimiser"),
    ],
)
def test_other_kept_objects_than_in_the_checkpoint_are_named(
    make_mesh: MakeMesh, before: str, now: str, error: str
) -> None:
    model, optimizer, _ = parts()
    mesh = make_mesh(model, *kept(before, model))
    with pytest.raises(KeyError, match="the power fails"):
        for batch in mesh.loop(shuffled()):
            if mesh.round == 6:
                raise KeyError("the power fails")
            mesh.step(loss=take_step(model, optimizer, batch))
    with pytest.raises(EdgenodeError, match=error):
        next(iter(make_mesh(model, *kept(now, model)).loop(shuffled())))


def test_a_run_that_is_over_has_an_empty_loop(make_mesh: MakeMesh) -> None:
    first = parts()
    train(make_mesh(*first), *first)
    second = parts(seed=5)
    mesh = make_mesh(*second)
    assert train(mesh, *second) == []
    assert mesh.done
    assert torch.equal(weights(second[0]), weights(first[0]))


def test_fresh_starts_over(make_mesh: MakeMesh) -> None:
    first = parts()
    train(make_mesh(*first), *first)
    again = parts()
    assert len(train(make_mesh(*again, fresh=True), *again)) == 12


# --- bad input ------------------------------------------------------------------------------------------


def test_step_without_a_loop_is_refused(make_mesh: MakeMesh) -> None:
    with pytest.raises(EdgenodeError, match=r"mesh.step: there is no loop; iterate over mesh.loop\(loader\)"):
        make_mesh(Net()).step()


def test_step_after_the_end_is_refused(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule)
    train(mesh, model, optimizer, schedule)
    with pytest.raises(EdgenodeError, match="the run is over"):
        mesh.step()
    with pytest.raises(EdgenodeError, match="the run of this mesh is over; create another Mesh"):
        mesh.loop(shuffled())
    mesh.close()  # nothing is left to close


def test_a_second_loop_is_refused(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net())
    mesh.loop(shuffled())
    with pytest.raises(EdgenodeError, match="has a loop already"):
        mesh.loop(shuffled())


def test_step_in_another_thread_is_refused(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net())
    errors = []

    def step() -> None:
        try:
            mesh.step()
        except EdgenodeError as exc:
            errors.append(str(exc))

    for _ in mesh.loop(shuffled()):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
        break
    assert errors == ["mesh.step: call it in the thread that runs the loop"]


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (torch.zeros(3), r"loss has shape \(3,\), but it must be one number, as of loss.mean\(\)"),
        ("high", "loss is 'high', but it must be a number"),
        (
            float("nan"),
            "training diverged at n0 in round 0: the loss is nan; lower the learning rate of your optimiser",
        ),
        (torch.tensor(float("inf")), "training diverged at n0 in round 0: the loss is inf"),
    ],
)
def test_a_loss_that_is_not_a_number_is_refused(make_mesh: MakeMesh, loss: Any, reason: str) -> None:
    mesh = make_mesh(Net())
    with pytest.raises(EdgenodeError, match=reason):
        for _ in mesh.loop(shuffled()):
            mesh.step(loss=loss)
    assert mesh.done


def test_parameters_that_become_nan_end_the_node(make_mesh: MakeMesh) -> None:
    model = Net()
    mesh = make_mesh(model)
    with pytest.raises(EdgenodeError, match="training diverged at n0 in round 0: a parameter is NaN or infinite"):
        for _ in mesh.loop(shuffled()):
            nn.init.constant_(model.body[0].weight, float("nan"))
            mesh.step()


def test_a_pass_without_a_step_is_an_error(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net())
    with pytest.raises(EdgenodeError, match=r"mesh.step\(\) was not called in a whole pass"):
        for _ in mesh.loop(shuffled()):
            pass


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        ([], "the loader has no batch"),
        (iter([DATA[0:4]] * 3), "the second pass over the loader has no batch"),
    ],
)
def test_a_loader_without_batches_is_an_error(make_mesh: MakeMesh, loader: Any, reason: str) -> None:
    mesh = make_mesh(Net())
    with pytest.raises(EdgenodeError, match=reason):
        for _ in mesh.loop(loader):
            mesh.step()


def test_an_optimiser_of_another_model_is_refused(make_mesh: MakeMesh) -> None:
    optimizer = torch.optim.SGD(Net().parameters())
    with pytest.raises(ConfigError, match=r"the SGD updates a tensor of shape \(8, 4\) that is not a parameter of the"):
        make_mesh(Net(), optimizer)


def test_a_model_that_cannot_be_averaged_is_refused(make_mesh: MakeMesh) -> None:
    with pytest.raises(ConfigError, match="the model has no trainable parameter"):
        make_mesh(nn.ReLU())
    broken = Net()
    nn.init.constant_(broken.body[3].bias, float("nan"))
    with pytest.raises(ConfigError, match=r"parameter body\.3\.bias holds NaN or infinity before the first round"):
        make_mesh(broken)


def test_another_model_at_a_peer_is_refused_with_its_parameters(tmp_path: Path) -> None:
    ports, errors = free_ports(2), {}

    def node(i: int) -> None:
        mesh = Mesh(
            nn.Linear(4, 3 + i), None, settings={"run.nodes": 2}, name=f"n{i}", listen=f"127.0.0.1:{ports[i]}",
            peers=f"127.0.0.1:{ports[1 - i]}", state_dir=tmp_path / f"n{i}",
        )  # fmt: skip
        try:
            list(mesh.loop(shuffled()))
        except EdgenodeError as exc:
            errors[i] = str(exc)

    in_threads(node, 2)
    assert 'shared parameter bias is "3", not "4"; shared parameter weight is "3x4", not "4x4"' in errors[0]
    assert 'shared parameter bias is "4", not "3"; shared parameter weight is "4x4", not "3x4"' in errors[1]


def test_a_checkpoint_of_another_model_is_refused_with_its_parameters(make_mesh: MakeMesh) -> None:
    first = parts()
    train(make_mesh(*first), *first)
    with pytest.raises(ConfigError, match=r"is of another run: in this one shared parameter .*; discard it with"):
        list(make_mesh(nn.Linear(4, 3)).loop(shuffled()))


def test_state_that_needs_pickle_is_refused(make_mesh: MakeMesh) -> None:
    class Odd:
        def state_dict(self) -> Any:
            return {"fn": print}

        def load_state_dict(self, state: Any) -> None:
            raise AssertionError

    with pytest.raises(ConfigError, match=r"Odd\.fn cannot be kept in a checkpoint"):
        make_mesh(Net(), Odd())


def test_an_evaluation_without_a_number_is_an_error(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule)

    @mesh.evaluate
    def accuracy() -> Any:
        return None

    with pytest.raises(
        EdgenodeError, match=r"mesh\.evaluate: accuracy returned a result that is None, but it must be a number"
    ):
        train(mesh, model, optimizer, schedule)


# --- errors and the end ---------------------------------------------------------------------------------


def test_an_error_of_the_users_function_surfaces_once(make_mesh: MakeMesh) -> None:
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule)

    @mesh.evaluate
    def broken() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        train(mesh, model, optimizer, schedule)
    assert "broken" in [entry.name for entry in caught.traceback]
    assert mesh.done
    assert living() == []


def until_stopped() -> None:
    deadline = time.monotonic() + 10
    while living() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert living() == []


@pytest.mark.slow
@pytest.mark.parametrize("end", [KeyError, KeyboardInterrupt])
def test_an_exception_in_the_loop_ends_the_node_soon(
    make_mesh: MakeMesh, end: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    mesh = make_mesh(Net())

    def run() -> None:
        for _ in mesh.loop(shuffled()):
            mesh.step()
            raise end

    with pytest.raises(end):
        run()
    assert mesh.done
    assert mesh.result is None
    until_stopped()
    assert "reason='the loop ended before the run did (break?)'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such\nbatch"), "'ValueError: no such batch'"),
        (MemoryError(), "'out of memory'"),
        (KeyboardInterrupt(), "interrupted"),
        (EdgenodeError("the disk is full"), "'the disk is full'"),
    ],
)
def test_an_exception_that_ends_a_thread_is_the_reason(
    make_mesh: MakeMesh, capsys: pytest.CaptureFixture[str], error: BaseException, reason: str
) -> None:
    def run() -> None:
        for _ in make_mesh(Net()).loop(shuffled()):
            raise error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert living() == []
    assert (
        f"this node stops without a handoff hint='break and mesh.close() leave' reason={reason}"
        in capsys.readouterr().err
    )


def test_an_error_of_the_loader_is_the_reason(make_mesh: MakeMesh, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __iter__(self) -> Any:
            raise OSError("the card is out")

    with pytest.raises(OSError, match="the card is out"):
        list(make_mesh(Net()).loop(Broken()))
    assert living() == []
    assert "reason='OSError: the card is out'" in capsys.readouterr().err


def test_after_an_error_another_mesh_resumes(make_mesh: MakeMesh, tmp_path: Path) -> None:
    """A mesh has one loop. Another mesh of the same model continues in the same process."""
    whole = parts()
    losses = train(make_mesh(*whole, state_dir=tmp_path / "whole"), *whole)
    model, optimizer, schedule = parts()
    mesh, batches = make_mesh(model, optimizer, schedule), shuffled()
    with pytest.raises(KeyError):
        train(mesh, model, optimizer, schedule, fail_at=7)
    with pytest.raises(EdgenodeError, match="this mesh was left before its run ended; create another Mesh to resume"):
        mesh.loop(batches)
    assert train(make_mesh(model, optimizer, schedule), model, optimizer, schedule) == losses[5:]
    assert torch.equal(weights(model), weights(whole[0]))


def test_a_break_without_a_controller_completes_the_run_without_training(make_mesh: MakeMesh) -> None:
    """The others would miss this node, and no one can let it go."""
    model, optimizer, schedule = parts()
    mesh = make_mesh(model, optimizer, schedule)
    for batch in mesh.loop(shuffled()):
        take_step(model, optimizer, batch)
        trained = weights(model)
        mesh.step()
        break
    assert (mesh.done, mesh.round) == (True, 11)
    assert mesh.result is not None
    assert mesh.result["nodes"][0]["rounds"] == 12
    assert torch.equal(weights(model), trained)
    assert living() == []


def test_an_error_after_a_break_is_logged(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net())
    mesh.evaluate(lambda: 93.5)
    with capture_logs() as logged:
        for _ in mesh.loop(shuffled()):
            mesh.step()
            break
    (failed,) = [entry for entry in logged if entry["event"] == "the run failed on this node after its loop"]
    assert "an accuracy is a fraction from 0 to 1" in failed["reason"]
    assert mesh.done


def test_stop_needs_a_loop_and_a_controller(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net())
    with pytest.raises(EdgenodeError, match=r"mesh\.stop: there is no loop"):
        mesh.stop()
    for _ in mesh.loop(shuffled()):
        with pytest.raises(ConfigError, match=r"mesh\.stop: without a controller, nothing can stop all nodes"):
            mesh.stop()
        mesh.step()
    mesh.stop()  # the run is over


def test_ctrl_c_while_the_node_waits_ends_it(make_mesh: MakeMesh) -> None:
    """The other node never comes, so the first call waits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    mesh = make_mesh(Net(), settings={"run.nodes": 2}, peers=f"127.0.0.1:{free_ports(1)[0]}")
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(iter(mesh.loop(shuffled())))
    assert mesh.done
    assert living() == []


def test_a_missing_peer_is_one_clear_error(make_mesh: MakeMesh) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    mesh = make_mesh(Net(), settings={"run.nodes": 2}, peers=address, wait_s=0.5)
    with pytest.raises(EdgenodeError, match=address):
        for _ in mesh.loop(shuffled()):
            mesh.step()
    assert living() == []


def test_a_context_that_fails_ends_the_node(make_mesh: MakeMesh, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), make_mesh(Net()) as mesh:
        for _ in mesh.loop(shuffled()):
            raise KeyError("key")
    assert mesh.done
    assert living() == []
    assert "reason=\"KeyError: 'key'\"" in capsys.readouterr().err


def test_close_without_a_controller_completes_the_run(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(Net())
    for _ in mesh.loop(shuffled()):
        mesh.step()
        mesh.close()
    assert mesh.done
    assert mesh.result is not None
    assert living() == []


def test_public_names_are_few_and_lazy() -> None:
    assert len(edgenode.__all__) < 15
    assert all(hasattr(edgenode, name) for name in edgenode.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mash'"):
        _ = edgenode.mash  # type: ignore[attr-defined]
