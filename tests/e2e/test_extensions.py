"""What an installed package adds trains on daemons as in the simulator, and must be the same on every node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenode.addresses import free_ports
from edgenode.config.graphs import GRAPHS
from edgenode.config.sections import ALGORITHMS, COMPRESSORS
from tests.distributions import forget, install, install_project, python_blocks
from tests.e2e.fleet import Fleet
from tests.e2e.test_simulate import models

SIGNUM = Path(__file__).parents[2] / "examples" / "signum"
TRACKING = Path(__file__).parents[2] / "examples" / "gradient_tracking"
SHORT: dict[str, object] = {"run.rounds": 20, "topology.every": "5r"}

# quasi-global momentum, and a hypercube
DOCUMENTED = "\n".join(python_blocks("extending.md")[1:3])
POINTS = {
    "edgenode.algorithms": {"qgm": "documented:ALGORITHM"},
    "edgenode.graphs": {"hypercube": "documented:HYPERCUBE"},
}


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    yield
    forget(ALGORITHMS, COMPRESSORS, GRAPHS)


@pytest.fixture
def signum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_project(SIGNUM, tmp_path / "signum", monkeypatch)
    return tmp_path / "signum"


@pytest.mark.slow
def test_compressor_of_a_package_trains_with_a_controller_as_simulated(fleet: Fleet, signum: Path) -> None:
    fleet.configure({**SHORT, "algorithm.compressor": "signum"})
    controller = fleet.controller()
    for process in (*fleet.nodes(4), controller):
        process.exits(0)
    fleet.command("simulate", "--config", "run.toml", "--out", "simulated")
    assert models(fleet.folder / "simulated") == models(fleet.folder)


@pytest.mark.slow
def test_algorithm_and_graph_of_a_package_train_as_simulated(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "documented", monkeypatch, POINTS, DOCUMENTED, "documented")
    fleet.configure({**SHORT, "algorithm.name": "qgm", "topology.graphs": ["hypercube", "two-way"]})
    for node in fleet.static(free_ports(4)):
        node.exits(0)
    fleet.command("simulate", "--config", "run.toml", "--out", "simulated")
    assert models(fleet.folder / "simulated") == models(fleet.folder)


@pytest.mark.slow
def test_messages_of_two_vectors_train_as_simulated(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an unbalanced graph, with 8 bits and errors of both vectors"""
    install_project(TRACKING, tmp_path / "tracking", monkeypatch)
    tracked = {"algorithm.name": "momentum-tracking", "algorithm.values": "int8", "run.checkpoint_every": 5}
    fleet.configure({**SHORT, "run.rounds": 12, "topology.graphs": ["chord"], **tracked})
    for node in fleet.static(free_ports(4)):
        node.exits(0)
    fleet.command("simulate", "--config", "run.toml", "--out", "simulated")
    assert models(fleet.folder / "simulated") == models(fleet.folder)


@pytest.mark.slow
def test_node_with_another_version_of_a_package_is_refused(fleet: Fleet, signum: Path) -> None:
    fleet.configure({**SHORT, "run.nodes": 2, "algorithm.compressor": "signum"})
    ports = free_ports(2)
    fleet.static_node(ports, 0).logs("listening")
    metadata = signum / "edgenode-signum-0.1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.1.0", "0.2.0"))
    refused = fleet.static_node(ports, 1).exits(1)
    package = "package of edgenode.compressors:signum"
    assert f'{package} is "edgenode-signum 0.2.0", not "edgenode-signum 0.1.0"' in refused.errors[-1]


@pytest.mark.slow
def test_graph_of_a_package_can_be_set_in_a_run(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "documented", monkeypatch, POINTS, DOCUMENTED, "documented")
    fleet.configure({"run.rounds": 20_000})
    processes = [fleet.controller(), *fleet.nodes(4)]
    processes[1].logs("epoch done")
    where = ("--cluster", fleet.cluster)
    assert "one partner per round" in fleet.command("topology", "list").stdout
    fleet.command("topology", "set", "hypercube", *where)
    processes[1].logs("graph=hypercube")
    fleet.stop(processes, *where)
