"""An algorithm of a module beside run.toml, named without a package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenode.cli import group
from edgenode.config.load import load
from edgenode.config.sections import ALGORITHMS
from edgenode.errors import ConfigError

SOURCE = """
from dataclasses import replace
from edgenode.extensions import SPARSE_PUSH, AlgorithmDefinition
PLAIN = AlgorithmDefinition(lambda: SPARSE_PUSH, "identity", "float32")
NONE = 3
RULE = replace(SPARSE_PUSH, keeps=("error", "tracker"), sends=("x", "tracker"))
TRACKED = AlgorithmDefinition(lambda: RULE, "identity", "float32")
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"beside_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_simulation_trains_with_an_algorithm_of_a_module(module: str) -> None:
    Path("run.toml").write_text(f'[run]\nnodes = 2\nrounds = 1\n[algorithm]\nname = "{module}:PLAIN"\n')
    result = CliRunner().invoke(group, ("simulate",))
    assert result.exit_code == 0, result.output
    assert "mean of 2 nodes" in result.stdout


def test_nodes_compare_the_source(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    config = load(None, {"algorithm.name": f"{module}:PLAIN"}, {})
    digest = config.digest()
    assert config.extensions() == {
        f"package of edgenode.algorithms:{module}:PLAIN": ALGORITHMS.providers([f"{module}:PLAIN"]).popitem()[1]
    }
    (tmp_path / f"{module}.py").write_text(SOURCE + "# another\n")
    assert config.digest() != digest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{}:NONE", "provides {}:NONE, which is not of type AlgorithmDefinition"),
        ("{}:ABSENT", "cannot be imported: AttributeError"),
        ("no_such_module:X", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("{}:", "it must be"),
    ],
)
def test_what_is_no_algorithm_is_refused(
    name: str, expected: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as refused:
        load(None, {"algorithm.name": name.format(module)}, {})
    assert expected.format(module) in str(refused.value)


def test_distances_are_judged_of_messages_of_one_vector(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    load(None, {"algorithm.name": f"{module}:PLAIN", "algorithm.liars": 1}, {})
    with pytest.raises(ConfigError, match="it must be 0: distances are judged of messages of one vector"):
        load(None, {"algorithm.name": f"{module}:TRACKED", "algorithm.liars": 1}, {})
