"""Names of extensions in run.toml: found, checked, and part of what must be equal on every node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgenode import factory
from edgenode.config.graphs import GRAPHS
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.config.sections import ALGORITHMS, COMPRESSORS
from edgenode.core.topology.graph import PRESETS, GraphSpec
from edgenode.errors import ConfigError, GraphError
from edgenode.node.task_workload import TaskWorkload
from edgenode.storage.result_file import describe_compressor
from tests.distributions import forget, install

POINTS = {
    "edgenode.compressors": {"halves": "acme_edge:HALVES", "broken": "absent_module:X"},
    "edgenode.algorithms": {"slow-push": "acme_edge:SLOW"},
    "edgenode.graphs": {"star": "acme_edge:STAR", "broken-graph": "absent_module:X"},
    "edgenode.models": {"tiny": "absent_module:X"},
}
SOURCE = """
from edgenode.core.algorithm.compression import Compressor, keep_all
from edgenode.core.algorithm.rounding import as_bfloat16
from edgenode.core.algorithm.definitions import AlgorithmDefinition, CompressorDefinition
from edgenode.core.algorithm.update_rules import SPARSE_PUSH
from edgenode.core.topology.graph import Preset

HALVES = CompressorDefinition(lambda settings: Compressor(keep_all, as_bfloat16), kept=lambda settings: 0.5)
SLOW = AlgorithmDefinition(lambda: SPARSE_PUSH, "halves", "float32", doubly_stochastic=True)
STAR = Preset(lambda n: [[*((0, i) for i in range(1, n)), *((i, 0) for i in range(1, n))]], "through node 0")
"""


@pytest.fixture(autouse=True)
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a compressor, an algorithm and a graph, and two names that cannot be imported."""
    install(tmp_path, monkeypatch, POINTS, SOURCE, "acme_edge")
    yield
    forget(ALGORITHMS, COMPRESSORS, GRAPHS)


def loaded(**keys: object) -> Config:
    return load(None, {key.replace("__", "."): value for key, value in keys.items()}, {})


def error_of(**keys: object) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(**keys)
    return str(caught.value).removeprefix("command-line option: ")


def test_compressor_of_a_package_is_used() -> None:
    config = loaded(algorithm__name="sp", algorithm__compressor="halves")
    assert config.algorithm.kept_share == 0.5
    assert factory.averaging_rate(config) == pytest.approx(0.08)
    assert factory.algorithm_spec(config).compressor.lossy
    assert describe_compressor(config) == "halves"


def test_algorithm_of_a_package_gives_the_defaults_and_requirements() -> None:
    config = loaded(algorithm__name="slow-push")
    assert (config.algorithm.compressor, config.algorithm.values) == ("halves", "float32")
    with pytest.raises(GraphError, match="slow-push cannot use chord: its weights are not doubly stochastic"):
        factory.check_graphs(loaded(algorithm__name="slow-push", topology__graphs="chord"))
    with pytest.raises(ConfigError, match=r"at most 2\.5, five times the kept share 0\.5"):
        loaded(algorithm__name="slow-push", algorithm__averaging_rate=2.6)


def test_default_that_an_extension_gets_wrong_is_named() -> None:
    ALGORITHMS._table["odd"] = replace(ALGORITHMS["slow-push"], compressor="rolling")
    expected = (
        'default of odd: algorithm.compressor = "rolling", but with odd it must be "topk", "identity" or "random"'
    )
    assert error_of(algorithm__name="odd") == f"{expected}: it does not exchange blocks"
    ALGORITHMS._table["odd"] = replace(ALGORITHMS["slow-push"], compressor="halve")
    assert error_of(algorithm__name="odd").startswith('default of odd: algorithm.compressor = "halve", but it must be')


def test_written_config_with_an_extension_loads_back_equal(tmp_path: Path) -> None:
    before = loaded(algorithm__name="slow-push", topology__graphs="star")
    path = tmp_path / "run.toml"
    path.write_text(before.to_toml())
    assert load(path, {}, {}) == before


def test_unknown_name_lists_the_installed_ones() -> None:
    expected = '"topk", "identity", "random", "rolling", "broken", "halves" or "shuffled"; did you mean "halves"?'
    assert error_of(algorithm__compressor="halve") == f'algorithm.compressor = "halve", but it must be {expected}'
    expected = '"skew-scout", "slow-push", "sparse-loco" or "sparta"; did you mean "slow-push"?'
    assert expected in error_of(algorithm__name="slowpush")


def test_package_that_cannot_be_imported_is_named_in_one_line() -> None:
    reason = "acme 1.0 cannot be imported: ModuleNotFoundError: No module named 'absent_module'"
    assert error_of(algorithm__compressor="broken") == f'algorithm.compressor = "broken", but {reason}'
    with pytest.raises(GraphError, match=f"graph broken-graph: {reason}"):
        factory.graph_spec("broken-graph")


def test_graph_of_a_package_is_found_by_its_name() -> None:
    with pytest.raises(GraphError, match="no graph named 'star'"):
        GraphSpec("star")  # a message must not import a package
    star = factory.graph_spec("star")
    assert star == GraphSpec("star")
    (graph,) = star.period(("a", "b", "c"))
    assert graph.edges == {("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")}
    with pytest.raises(GraphError, match="no graph named 'stra'; did you mean 'star'"):
        factory.graph_spec("stra")


def test_all_graphs_are_added_but_those_that_cannot_be_imported() -> None:
    assert list(GRAPHS.add_all()) == ["broken-graph"]
    assert "star" in PRESETS


def test_version_of_an_extension_is_part_of_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builtin, config = loaded(), loaded(algorithm__name="slow-push", topology__graphs="a,star", task__model="tiny")
    assert (builtin.extensions(), builtin.digest()) == ({}, Config().digest())
    assert config.extensions() == {
        "package of edgenode.algorithms:slow-push": "acme 1.0",
        "package of edgenode.compressors:halves": "acme 1.0",
        "package of edgenode.graphs:star": "acme 1.0",
    }
    assert TaskWorkload(config, "n0").identity() == {"package of edgenode.models:tiny": "acme 1.0"}
    digest = config.digest()
    (tmp_path / "acme-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.1\n")
    assert config.digest() != digest
