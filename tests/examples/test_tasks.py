"""The examples that simulate a task of their own: shortened, they learn what no node could learn alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from edgenode.config.load import load
from edgenode.simulate.simulation import Simulation

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def simulate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, settings: Mapping[str, object] | None = None
) -> float:
    """The mean test accuracy after some rounds."""
    for module in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
    monkeypatch.syspath_prepend(str(folder))
    shorter = {"run.rounds": rounds, "run.evaluate_every": 0, **(settings or {})}
    accuracy = Simulation(load(folder / "run.toml", shorter, environ={})).run()["mean_test_accuracy"]
    assert isinstance(accuracy, float)
    return accuracy


@pytest.mark.slow
def test_transformer_learns_the_text_of_all_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = simulate(EXAMPLES / "char_transformer", monkeypatch, rounds=40)
    assert accuracy > 0.34  # a space is the right guess for 0.32


@pytest.mark.slow
def test_nodes_learn_instruments_they_never_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    together = simulate(EXAMPLES / "tones", monkeypatch, rounds=150)
    alone = simulate(EXAMPLES / "tones", monkeypatch, rounds=150, settings={"algorithm.name": "local"})
    assert together > alone + 0.1


@pytest.mark.slow
def test_adapters_improve_a_base_that_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "lora", tmp_path / "lora"))
    command = [sys.executable, "pretrain.py", "--steps", "100"]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    shares = [float(share) for share in re.findall(r": ([\d.]+)%", printed)]
    before = (folder / "base.pt").read_bytes()
    accuracy = simulate(folder, monkeypatch, rounds=30)
    assert len(shares) == 4
    assert accuracy > sum(shares) / 400 + 0.01
    assert (folder / "base.pt").read_bytes() == before
