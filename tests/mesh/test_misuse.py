"""Mistakes in a script with a Mesh end with one line that names the remedy, or are logged with it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

from edgenode import ConfigError, EdgenodeError, Mesh
from edgenode.mesh.misuse import OptimiserWatch
from tests.mesh.conftest import MakeMesh

OTHER_STEPS = "an optimiser that was not passed to Mesh steps its parameters, so checkpoints do not have its state"
NO_STEPS = "no optimiser that was passed to Mesh has taken a step"


def linear() -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(2, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def trained(mesh: Mesh, model: nn.Module, step: Callable[[], Any], steps: int = 30) -> list[str]:
    """What is logged as a warning while a loop runs that calls ``step`` once for each batch."""
    with capture_logs() as logged:
        for _ in mesh.loop([torch.ones(1, 2)] * steps):
            loss = model(torch.ones(1, 2)).sum()
            model.zero_grad()
            loss.backward()
            step()
            mesh.step(loss=loss)
    return [entry["event"] for entry in logged if entry["event"] in (OTHER_STEPS, NO_STEPS)]


# --- optimisers -----------------------------------------------------------------------------------------

MANY: dict[str, object] = {"run.rounds": 30, "run.evaluate_every": 0}


def test_an_optimiser_that_is_passed_and_steps_gives_no_warning(make_mesh: MakeMesh) -> None:
    model, optimizer = linear()
    assert trained(make_mesh(model, optimizer, settings=MANY), model, optimizer.step) == []


def test_an_optimiser_that_is_not_passed_is_named(make_mesh: MakeMesh) -> None:
    model, optimizer = linear()
    mesh = make_mesh(model, settings=MANY)
    assert trained(mesh, model, optimizer.step) == [OTHER_STEPS]


def test_mesh_that_is_collected_during_a_step_does_not_end_the_step() -> None:
    """A garbage collection may happen anywhere, also while torch calls its hooks."""
    model, optimizer = linear()
    watches = [OptimiserWatch(model.parameters(), [])]
    hooks = [register_optimizer_step_post_hook(lambda *_: watches.clear()) for _ in range(2)]
    try:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    finally:
        for hook in hooks:
            hook.remove()
    assert not watches


def test_an_optimiser_made_after_the_mesh_is_named(make_mesh: MakeMesh) -> None:
    model, passed = linear()
    mesh = make_mesh(model, passed, settings=MANY)
    later = torch.optim.SGD(model.parameters(), lr=0.01)
    assert trained(mesh, model, later.step) == [OTHER_STEPS]


def test_a_parameter_that_the_passed_optimiser_does_not_have_is_named(make_mesh: MakeMesh) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    one, other = (torch.optim.SGD(layer.parameters(), lr=0.01) for layer in model)

    def step() -> None:
        one.step()
        other.step()

    assert trained(make_mesh(model, one, settings=MANY), model, step) == [OTHER_STEPS]


def test_optimisers_that_take_turns_give_no_warning(make_mesh: MakeMesh) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    turns = [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in model]
    mesh = make_mesh(model, *turns, settings={**MANY, "task.local_steps": 2, "run.rounds": 15})

    def step() -> None:
        turns[mesh.round % 2].step()

    assert trained(mesh, model, step) == []


def test_an_optimiser_that_never_steps_is_named(make_mesh: MakeMesh) -> None:
    model, optimizer = linear()
    assert trained(make_mesh(model, optimizer, settings=MANY), model, lambda: None) == [NO_STEPS]


def test_an_optimiser_inside_of_a_passed_one_gives_no_warning(make_mesh: MakeMesh) -> None:
    model = nn.Linear(2, 1)
    inner = torch.optim.SGD(model.parameters(), lr=0.01)

    class Around(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> Any:
            return inner.step(closure)

    around = Around(model.parameters(), {})
    assert trained(make_mesh(model, around, settings=MANY), model, around.step) == []


def test_a_model_that_no_optimiser_changes_gives_no_warning(make_mesh: MakeMesh) -> None:
    """As of a search without gradients."""
    model = nn.Linear(2, 1)
    assert trained(make_mesh(model, settings=MANY), model, lambda: nn.init.normal_(model.weight)) == []


def test_an_object_that_may_be_an_optimiser_is_left_in_peace(make_mesh: MakeMesh) -> None:
    model, inner = linear()

    class Wrapper:
        step, state_dict, load_state_dict = inner.step, inner.state_dict, inner.load_state_dict

    assert trained(make_mesh(model, Wrapper(), settings=MANY), model, inner.step) == []


# --- the loop -------------------------------------------------------------------------------------------


def test_a_second_step_for_a_batch_is_refused(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(nn.Linear(2, 1))
    with pytest.raises(EdgenodeError, match=r"mesh\.step was called twice for one batch: call it once, as the last"):
        for _ in mesh.loop([1]):
            mesh.step()
            mesh.step()
    assert mesh.done


def test_batches_that_are_fetched_ahead_are_allowed(make_mesh: MakeMesh) -> None:
    def ahead(batches: Iterator[int]) -> Iterator[int]:
        held = next(batches)
        for batch in batches:
            yield held
            held = batch

    mesh = make_mesh(nn.Linear(2, 1))
    for _ in ahead(iter(mesh.loop([1, 2]))):
        mesh.step()
    assert mesh.result is not None


@pytest.mark.parametrize("change", ["replace", "add", "remove"])
def test_a_layer_that_changes_before_the_loop_is_refused(make_mesh: MakeMesh, change: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    mesh = make_mesh(model)
    if change == "replace":
        model[1] = nn.Linear(2, 1)
    elif change == "add":
        model.append(nn.Linear(1, 1))
    else:
        del model[1]
    name = "2.weight" if change == "add" else "1.weight"
    with pytest.raises(ConfigError, match=rf"the parameter {name} was replaced, added or removed after Mesh\(\.\.\.\)"):
        mesh.loop([1])


def test_a_model_that_is_moved_before_the_loop_is_accepted(make_mesh: MakeMesh) -> None:
    model = nn.Linear(2, 1)
    mesh = make_mesh(model)
    model.to(torch.float64)
    mesh.loop([1])


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (93.5, "accuracy returned 93.5, but an accuracy is a fraction from 0 to 1: return 0.935 for 93.5 %"),
        (
            {"perplexity": 12.5},
            "accuracy returned perplexity = 12.5 first, but the first metric is a fraction from 0 to",
        ),
    ],
)
def test_an_evaluation_that_is_none_is_refused(make_mesh: MakeMesh, returned: Any, reason: str) -> None:
    mesh = make_mesh(nn.Linear(2, 1))

    @mesh.evaluate
    def accuracy() -> Any:
        return returned

    with pytest.raises(EdgenodeError, match=rf"mesh\.evaluate: {reason}"):
        for _ in mesh.loop([1]):
            mesh.step()


@pytest.mark.parametrize(
    ("loader", "reason"),
    [
        (
            iter([1]),
            r"does not tell how many samples it draws from: pass their number, as in Mesh\(\.\.\., samples=400\)",
        ),
        ([1], r"does not tell how many samples it draws from: pass their number"),
        (DataLoader(TensorDataset(torch.ones(0, 2))), "has no samples, so this node would count nothing"),
    ],
)
def test_a_loader_without_a_number_of_samples_is_refused(make_mesh: MakeMesh, loader: Any, reason: str) -> None:
    mesh = make_mesh(nn.Linear(2, 1), settings={"task.objective": "samples"})
    with pytest.raises(ConfigError, match=f'task.objective = "samples": the loader {reason}'):
        mesh.loop(loader)


def test_a_second_test_function_is_refused(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(nn.Linear(2, 1))

    def accuracy() -> float:
        return 0.5

    mesh.evaluate(accuracy)
    mesh.evaluate(accuracy)  # as of a cell that runs again
    with pytest.raises(ConfigError, match=r"accuracy is registered already, and .*recall would replace it: return all"):

        @mesh.evaluate
        def recall() -> float:
            return 0.5


WRONG_USE = """
import sys
from torch import nn
from torch.utils.data import DataLoader
import edgenode

model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
index, use = int(sys.argv[1]), sys.argv[2]
uses = {
    "nothing matches": {"shared": "bodi"},
    "all is local": {"shared": ()},
    "other parts": {"shared": ["body", "head.bias"][: 2 - index]},
    "no samples": {"samples": 0},
    "empty loader": {"settings": {"task.objective": "samples"}},
}
mesh = edgenode.Mesh(model, None, **uses.get(use, {}))

@mesh.evaluate
def score():
    return {"auc": 0.5, "AUC": 0.6} if use == "one name" else 0.5

if __name__ == "__main__":
    for _ in mesh.loop(DataLoader([]) if use == "empty loader" else [0]):
        mesh.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", ["simulate", "launch"])
@pytest.mark.parametrize(
    ("use", "line"),
    [
        (
            "nothing matches",
            r"ConfigError: shared: 'bodi' matches no trainable parameter of the model, whose parts are body, head",
        ),
        (
            "all is local",
            "ConfigError: shared is empty, so the nodes would exchange nothing: name a part, or leave it out for all",
        ),
        ("other parts", r"node-. .*shared parameter head\.bias is .*absent.*"),
        ("one name", "mesh.evaluate: score returned two metrics with one name, auc and AUC: rename one"),
        ("no samples", r"ConfigError: Mesh: samples is 0, but it must be a whole number from 1 to 2\*\*40, or None"),
        (
            "empty loader",
            'ConfigError: task.objective = "samples": the loader has no samples, so this node would count nothing',
        ),
    ],
)
def test_wrong_use_of_two_nodes_ends_with_its_line(tmp_path: Path, command: str, use: str, line: str) -> None:
    (tmp_path / "train.py").write_text(WRONG_USE)
    words = [command, "--nodes", "2", "--set", "run.rounds=4", "train.py", "--", "{index}", use]
    ended = subprocess.run(
        [sys.executable, "-m", "edgenode", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode != 0
    lines = (ended.stdout + ended.stderr).splitlines()
    assert [found for found in lines if re.search(f"{line}$", found)], ended.stdout + ended.stderr


NO_LOOP = """
import os, sys
from torch import nn
import edgenode
mesh = edgenode.Mesh(nn.Linear(2, 1), None, name="n0", state_dir="n0", peers="127.0.0.1:1", listen="127.0.0.1:0")
if sys.argv[1:]:
    raise KeyError(sys.argv[1])
"""


@pytest.mark.slow
def test_a_mesh_without_a_loop_is_named_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(NO_LOOP)
    command = [sys.executable, "script.py"]
    ended = [
        subprocess.run([*command, *more], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        for more in ([], ["another error"])
    ]
    assert "the program ends, but its Mesh has no loop: this node took no part in the run" in ended[0].stderr
    assert ended[0].returncode == 0
    assert "has no loop" not in ended[1].stderr


# --- the arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (Mesh, "the second argument is a SGD, but it must be the path of run.toml, or None: Mesh"),
        (lambda m, o: Mesh(m, {"run.rounds": 5}), r'the second argument is a dict, .* go into settings={"run.rounds"'),
        (lambda m, o: Mesh(m, None, [o]), "an optimiser or schedule is inside of a list: pass each alone: Mesh"),
        (lambda m, o: Mesh(m, None, m.parameters()), "a generator has no state_dict and load_state_dict"),
        (lambda m, o: Mesh(m, None, o, None), "a NoneType has no state_dict and load_state_dict"),
        (lambda m, o: Mesh({"run.rounds": 5}), r"the first argument is a dict, but it must be the torch\.nn\.Module"),
        (lambda m, o: Mesh(m, None, o, samples=0), r"samples is 0, but it must be a whole number from 1 to 2\*\*40"),
        (lambda m, o: Mesh(m, None, o, samples=1e4), r"samples is 10000\.0, but it must be a whole number from 1"),
        (lambda m, o: Mesh(m, None, o, settings="run.rounds=5"), "settings is a str, but it must be a dict, as in"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments: Callable[..., Mesh], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^Mesh: {reason}"):
        arguments(*linear())
