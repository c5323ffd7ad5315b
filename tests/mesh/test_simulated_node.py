"""The Mesh of a simulated node, at the user's end of its pipe. The test is the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgenode import EdgenodeError, Mesh
from edgenode.mesh import simulated
from edgenode.node.remote_trainer import Begin, Call, Description, End, ScriptEnded, ScriptPipe


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptPipe]:
    """The simulation's end of the pipe of this process."""
    ours, theirs = Pipe()
    monkeypatch.setattr(simulated, "_pipes", [])
    simulated.simulate_through(theirs)
    monkeypatch.setenv("EDGENODE_NAME", "node-1")
    monkeypatch.setenv("EDGENODE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("EDGENODE_RUN_SEED", "7")
    yield ScriptPipe("node-1", ours)
    ours.close()
    theirs.close()


def model_of_one() -> nn.Linear:
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    return model


def adds_one(model: nn.Linear, accuracy: Callable[[], float] = lambda: 0.5) -> Mesh:
    """A loop whose step adds one to every parameter."""
    mesh = Mesh(model)
    mesh.evaluate(accuracy)
    for _ in mesh.loop([0, 1]):
        with torch.no_grad():
            model.weight += 1
        mesh.step(loss=0.25)
    return mesh


@pytest.fixture
def looping(pipe: ScriptPipe) -> Iterator[Callable[..., Future[Mesh]]]:
    with ThreadPoolExecutor(1) as pool:
        yield lambda *args: pool.submit(adds_one, *args)
        pipe.connection.close()  # which ends a loop that still waits


def test_loop_trains_what_the_simulation_begins(pipe: ScriptPipe, looping: Callable[..., Future[Mesh]]) -> None:
    model = model_of_one()
    over = looping(model)
    described: Description = pipe.receive()
    assert described.config.run.seed == 7
    assert described.identity == {"shared parameter weight": "1x2"}
    assert described.layout == (("weight", 2),)

    pipe.send(Call("initial", ()))
    assert pipe.receive().tolist() == [1, 1]
    for t, z in enumerate(([5.0, 6.0], [2.0, 1.0])):
        pipe.send(Begin(t, np.array(z, np.float32)))
        step = pipe.receive()
        assert (step.vector.tolist(), step.loss) == ([z[0] + 1, z[1] + 1], 0.25)
    pipe.send(Call("evaluate", (np.array([8.0, 9.0], np.float32),)))
    assert pipe.receive().accuracy == 0.5

    pipe.send(End({"nodes": []}))
    mesh = over.result(10)
    assert model.weight.tolist() == [[8, 9]]  # the final model, which was evaluated last
    assert (mesh.done, mesh.result, mesh.round) == (True, {"nodes": []}, 1)


def test_error_that_ends_the_run_is_the_answer(pipe: ScriptPipe, looping: Callable[..., Future[Mesh]]) -> None:
    looping(model_of_one(), lambda: 40.0)
    pipe.receive()
    pipe.send(Call("evaluate", (np.zeros(2, np.float32),)))
    with pytest.raises(EdgenodeError, match=r"an accuracy is a fraction from 0 to 1: return 0\.4 for 40 %"):
        pipe.receive()
    pipe.connection.close()


def test_error_of_the_users_function_ends_the_script(pipe: ScriptPipe, looping: Callable[..., Future[Mesh]]) -> None:
    over = looping(model_of_one(), lambda: 1 / 0)
    pipe.receive()
    pipe.send(Call("evaluate", (np.zeros(2, np.float32),)))
    with pytest.raises(ScriptEnded, match="the script of node-1 ended before the run"):
        pipe.receive()
    with pytest.raises(ZeroDivisionError):
        over.result(10)


def test_end_of_the_simulation_ends_the_loop(pipe: ScriptPipe, looping: Callable[..., Future[Mesh]]) -> None:
    over: Future[Any] = looping(model_of_one())
    pipe.receive()
    pipe.connection.close()
    with pytest.raises(EdgenodeError, match="the simulation has ended before the run"):
        over.result(10)


def test_second_loop_is_refused(pipe: ScriptPipe, looping: Callable[..., Future[Mesh]]) -> None:
    over = looping(model_of_one())
    pipe.receive()
    pipe.send(End({}))
    over.result(10)
    with pytest.raises(EdgenodeError, match="a script that is simulated has one loop, and this is the second"):
        Mesh(model_of_one()).loop([0])
