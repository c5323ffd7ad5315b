"""Simulations are reproducible, resume to bit-identical results, and refuse invalid configurations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from edgenode.config.load import load
from edgenode.config.schema import KEYS, Config
from edgenode.errors import ConfigError, Diverged, GraphError
from edgenode.simulate.simulation import Simulation
from edgenode.storage import model_file
from edgenode.storage.checkpoints import CheckpointStore
from edgenode.tasks import datasets
from edgenode.tasks.datasets import Dataset
from edgenode.tasks.flat_params import Vector
from edgenode.tasks.trainer import LocalStep, TaskTrainer

pytestmark = pytest.mark.group("simulation")
# A short run in which the nodes differ: chord makes u unequal, and the last rounds gossip.
SETTINGS = {
    "run.rounds": 14,
    "run.threads": 1,
    "run.evaluate_every": 0,
    "run.checkpoint_every": 4,
    "task.skew": 0.5,
    "task.batch_size": 8,
    "task.learning_rate": 0.02,
    "algorithm.gossip_graph": "plan",
    "algorithm.gossip_rounds": 3,
    "topology.graphs": ["chord", "c"],
    "topology.every": "3r",
}


class Interrupted(Exception):
    """As Ctrl-C, but in a chosen round."""


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def config(**changes: object) -> Config:
    return load(None, {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}, environ={})


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    assert result.pop("wall_s") > 0
    return result


def models(out: Path) -> dict[str, dict[str, bytes]]:
    """Node -> tensor -> its bytes, BatchNorm buffers too."""
    files = sorted(out.glob("node-*/model.safetensors"))
    return {file.parent.name: {name: t.tobytes() for name, t in load_file(file).items()} for file in files}


def interrupted(simulation: Simulation, at: int) -> None:
    def after_round() -> None:
        if simulation.round == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        simulation.run(after_round)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, dict[str, bytes]]]:
    """Result and models of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    result = untimed(Simulation(config(), out).run())
    return result, models(out)


# --- results


@pytest.mark.slow
def test_simulation_is_a_function_of_its_configuration(whole: tuple[dict[str, Any], Any]) -> None:
    assert untimed(Simulation(config()).run()) == whole[0]
    assert untimed(Simulation(config(run__seed=1)).run()) != whole[0]


def test_files_are_laid_out_as_those_of_real_nodes(tmp_path: Path) -> None:
    result = Simulation(config(run__rounds=2), tmp_path).run()
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result))
    for i in range(4):
        with safe_open(tmp_path / f"node-{i}" / "model.safetensors", "numpy") as file:
            assert file.metadata()["run_digest"] == config(run__rounds=2).digest()


@pytest.mark.slow
def test_published_models_do_not_change_the_run(tmp_path: Path, whole: tuple[dict[str, Any], Any]) -> None:
    found: list[tuple[int, int]] = []
    simulation = Simulation(config(run__publish_every=4), tmp_path)
    file = tmp_path / "node-0" / "model.safetensors"

    def note() -> None:
        if file.exists():
            found.append((simulation.round, int(model_file.read(file).metadata["round"])))

    result = untimed(simulation.run(note))
    assert {k: v for k, v in result.items() if k != "config"} == {k: v for k, v in whole[0].items() if k != "config"}
    assert [pair for pair in found if pair[0] % 4 == 0] == [(t, t) for t in (4, 8, 12, 16)]
    last = model_file.read(file).metadata
    assert (last["round"], last["node"], last["model"]) == ("17", "node-0", "small-cnn")


def test_unbalanced_graph_keeps_mass_with_unequal_u(whole: tuple[dict[str, Any], Any]) -> None:
    rows = whole[0]["nodes"]
    assert whole[0]["sum_u"] == pytest.approx(4, abs=1e-12)
    assert len({row["u"] for row in rows}) > 1
    assert {row["rounds"] for row in rows} == {17}
    assert whole[0]["parameter_divergence_l2"] > 0


def test_positions_follow_the_sorted_names() -> None:
    result = Simulation(config(run__nodes=12, run__rounds=1, algorithm__name="sp")).run()
    names = [row["node"] for row in result["nodes"]]
    assert names[:4] == ["node-0", "node-1", "node-10", "node-11"]


def test_divergence_names_node_round_loss_and_keys() -> None:
    wild = config(task__learning_rate=1e9, run__rounds=50)
    loss = r"(the loss is \w+|a number to send is \S+), and the loss was \S+ in round \d+"
    keys = r"task\.learning_rate = 1e\+09 or algorithm\.averaging_rate = 0\.005"
    with pytest.raises(Diverged, match=rf"^training diverged at node-\d in round \d+: {loss}; lower {keys}$"):
        Simulation(wild).run()


def test_single_node_trains_alone() -> None:
    result = Simulation(config(run__nodes=1, run__rounds=2, algorithm__name="sp", topology__graphs=["a"])).run()
    assert result["compression_factor"] is None
    assert result["sum_u"] == 1


# --- resuming


@pytest.mark.parametrize("at", [1, 4, 9, 15, 17])
def test_interrupted_run_resumes_to_the_same_bits(tmp_path: Path, at: int, whole: tuple[Any, Any]) -> None:
    interrupted(Simulation(config(), tmp_path), at)
    again = Simulation(config(), tmp_path)
    assert again.round == (17 if at == 17 else at // 4 * 4)
    interrupted_again = min(again.round + 2, 16)
    if again.round < interrupted_again:
        interrupted(again, interrupted_again)

    assert (untimed(Simulation(config(), tmp_path).run()), models(tmp_path)) == whole


@pytest.mark.slow
@pytest.mark.parametrize("at", [6, 10])
@pytest.mark.parametrize("algorithm", ["sp", "scsp"])
def test_run_that_is_extended_before_its_last_phase_gives_the_bits_of_the_longer_run(
    tmp_path: Path, at: int, algorithm: str
) -> None:
    """A run of SP of 10 rounds has ended after them. One of SCSP is extended by a file, too, if it was stopped."""
    keys = {"algorithm__name": algorithm, "run__checkpoint_every": 2}
    short, long = (config(**keys, run__rounds=rounds) for rounds in (10, 14))
    once = untimed(Simulation(long, tmp_path / "once").run())
    if algorithm == "sp" and at == 10:
        Simulation(short, tmp_path / "twice").run()
    else:
        interrupted(Simulation(short, tmp_path / "twice"), at)
    again = Simulation(long, tmp_path / "twice")
    assert (again.round, again.rounds) == (at, 14 if algorithm == "sp" else 17)
    assert untimed(again.run()) == once
    assert models(tmp_path / "twice") == models(tmp_path / "once")


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["plan", "allreduce"])
def test_finished_run_trains_on_to_another_last_phase(tmp_path: Path, graph: str) -> None:
    keys = {"algorithm__gossip_graph": graph, "algorithm__gossip_rounds": 3 if graph == "plan" else "auto"}
    end = 13 if graph == "plan" else 16
    Simulation(config(**keys, run__rounds=10), tmp_path).run()
    again = Simulation(config(**keys, run__rounds=30), tmp_path)
    assert (again.round, again.rounds) == (end, 20 + end)
    trained = []
    again._replicas["node-0"].trainer.train = _noting(again._replicas["node-0"].trainer.train, trained)
    result = again.run()
    assert trained == list(range(end, 30))
    assert {row["rounds"] for row in result["nodes"]} == {20 + end}
    assert result["config"]["run"]["rounds"] == 30


def _noting(train: Any, trained: list[int]) -> Any:
    def noted(t: int, z: Any) -> Any:
        trained.append(t)
        return train(t, z)

    return noted


def test_simulated_run_is_not_shortened(tmp_path: Path) -> None:
    interrupted(Simulation(config(), tmp_path), 9)
    with pytest.raises(ConfigError, match=r"run\.rounds = 10, but the run that is to resume has 14"):
        Simulation(config(run__rounds=10), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("at", "resumed"), [(14, 12), (17, 12), (19, 12), (20, 20)])
def test_run_cut_off_in_an_allreduce_resumes_to_the_same_bits(tmp_path: Path, at: int, resumed: int) -> None:
    keys = {"algorithm__gossip_graph": "allreduce", "algorithm__gossip_rounds": "auto"}
    run = config(**keys, algorithm__gossip_values="int8")
    once = untimed(Simulation(run, tmp_path / "once").run())
    assert once["sum_u"] == 4
    interrupted(Simulation(run, tmp_path / "twice"), at)
    again = Simulation(run, tmp_path / "twice")
    assert (again.round, again.rounds) == (resumed, 20)
    assert untimed(again.run()) == once
    assert models(tmp_path / "twice") == models(tmp_path / "once")
    assert len({tuple(sorted(tensors.items())) for tensors in models(tmp_path / "once").values()}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("allreduce", "at", "resumed"), [(False, 9, 8), (True, 9, 8), (True, 14, 12), (True, 19, 12)])
def test_run_with_an_overlap_resumes_to_the_same_bits(tmp_path: Path, allreduce: bool, at: int, resumed: int) -> None:
    """The checkpoint of round 8 is one of all that is there: nothing is in flight. So is that before an allreduce."""
    last = {"algorithm__gossip_graph": "allreduce", "algorithm__gossip_rounds": "auto"} if allreduce else {}
    run = config(run__overlap=2, **last)
    interrupted(Simulation(run, tmp_path / "twice"), at)
    again = Simulation(run, tmp_path / "twice")
    assert again.round == resumed
    once = Simulation(run, tmp_path / "once")
    assert untimed(again.run()) == untimed(once.run())
    assert models(tmp_path / "twice") == models(tmp_path / "once")


@pytest.mark.slow
def test_batchnorm_statistics_and_momentum_resume(tmp_path: Path) -> None:
    deep = {"task__model": "resnet20", "task__norm": "batch", "run__rounds": 3, "run__checkpoint_every": 1}
    interrupted(Simulation(config(**deep), tmp_path / "twice"), 2)
    for out in ("twice", "once"):
        simulation = Simulation(config(**deep), tmp_path / out)
        assert simulation.round == (2 if out == "twice" else 0)
        simulation.run()
    assert models(tmp_path / "twice") == models(tmp_path / "once")
    assert any("running_mean" in tensor for tensor in models(tmp_path / "once")["node-0"])


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "batches"), [("scsp", {45, 46}), ("sp", {2})])
def test_batchnorm_statistics_are_those_of_the_average(tmp_path: Path, algorithm: str, batches: set[int]) -> None:
    """Statistics from training would not fit the average: one epoch of the shard's batches replaces them."""
    deep = {"task__model": "resnet20", "task__norm": "batch", "run__rounds": 2, "task__skew": 0.0}
    Simulation(config(**deep, algorithm__name=algorithm), tmp_path).run()
    for node in range(4):
        tensors = load_file(tmp_path / f"node-{node}" / "model.safetensors")
        assert int(tensors["bn1.num_batches_tracked"]) in batches


def test_finished_run_returns_its_result_again(tmp_path: Path) -> None:
    first = untimed(Simulation(config(run__rounds=2), tmp_path).run())
    assert untimed(Simulation(config(run__rounds=2), tmp_path).run()) == first


def test_interruption_in_the_first_save_starts_over(tmp_path: Path, whole: tuple[Any, Any]) -> None:
    simulation = Simulation(config(), tmp_path)
    (save, *_) = simulation._replicas["node-0"].node.start()
    simulation._perform("node-0", simulation._replicas["node-0"], save)
    assert CheckpointStore(tmp_path / "node-0", config().digest()).rounds() == {0}
    assert untimed(Simulation(config(), tmp_path).run()) == whole[0]


@pytest.mark.slow
def test_damaged_checkpoint_is_named_and_skipped(tmp_path: Path, whole: tuple[Any, Any]) -> None:
    interrupted(Simulation(config(), tmp_path), 9)
    (tmp_path / "node-2" / "checkpoints" / "round-000000008" / "meta.json").write_text("{}")
    simulation = Simulation(config(), tmp_path)
    assert "node-2" in simulation.damage[0]
    assert simulation.round == 4
    assert untimed(simulation.run()) == whole[0]


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    Simulation(config(run__rounds=1), tmp_path).run()
    with pytest.raises(ConfigError, match=r"is of another run.*--fresh, or choose another --out"):
        Simulation(config(run__rounds=1, run__seed=1), tmp_path)


# --- invalid configurations


def few(_: Path | None) -> Dataset:
    whole = datasets.load("digits")
    return Dataset(
        whole.train_images[:3], whole.train_labels[:3], whole.test_images, whole.test_labels, 10, whole.mean, whole.std
    )


def test_nodes_train_before_the_first_round_of_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer counts exchanges, so the learning rate falls to its end in the last one. No round is a last phase."""
    trained, train = [], TaskTrainer.train

    def watched(self: TaskTrainer, t: int, z: Vector) -> LocalStep:
        trained.append((t, self._run.rounds))
        return train(self, t, z)

    monkeypatch.setattr(TaskTrainer, "train", watched)
    simulation = Simulation(config(run__rounds=8, algorithm__name="diloco", topology__graphs=["halving"]))
    result = simulation.run()
    assert trained == [(t, 4) for t in range(4) for _ in range(4)]
    assert simulation.before_gossip() is None
    assert {node["messages"] for node in result["nodes"]} == {8}
    assert {replica.stats.counts["gossip_bytes"] for replica in simulation._replicas.values()} == {0}
    (replica, *_) = simulation._replicas.values()
    assert replica.rounds_per_epoch == 2 * replica.trainer.rounds_per_epoch


def test_more_nodes_than_samples_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets._READERS, "few", few)
    with pytest.raises(ConfigError, match=r"^run\.nodes = 4, but there are only 3 training samples to cut"):
        Simulation(config(task__dataset="few"))


def test_unconnected_graph_is_refused_with_its_pairs(tmp_path: Path) -> None:
    path = tmp_path / "broken.txt"
    path.write_text("node-0 node-1\nnode-1 node-0\nnode-2 node-3\nnode-3 node-2\n")
    with pytest.raises(GraphError, match=r"broken is not strongly connected: no path node-0->node-2"):
        Simulation(config(topology__graphs=[str(path)]))


# --- SP and SCSP in one run

SHORT: dict[str, object] = {"run__rounds": 8, "run__evaluate_every": 8, "run__checkpoint_every": 1}


@pytest.mark.parametrize("rounds", [1, 5])
def test_scsp_before_its_gossip_equals_sp(rounds: int) -> None:
    simulation = Simulation(config(run__rounds=rounds, run__evaluate_every=rounds))
    after = untimed(simulation.run())
    before = simulation.before_gossip()
    alone = untimed(Simulation(config(run__rounds=rounds, algorithm__name="sp")).run())
    assert before is not None
    assert untimed(before).pop("config") != alone.pop("config")  # they differ in run.evaluate_every
    assert before == alone
    assert after["parameter_divergence_l2"] < before["parameter_divergence_l2"]


def test_sp_result_needs_an_evaluation_before_the_gossip() -> None:
    simulation = Simulation(config(run__rounds=2))
    simulation.run()
    assert simulation.before_gossip() is None


@pytest.fixture(scope="module")
def unstopped() -> Simulation:
    simulation = Simulation(config(**SHORT))
    simulation.run()
    return simulation


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 8, 9, 11])  # while it trains, as it ends, while it gossips, at the end
def test_sp_result_survives_an_interruption(tmp_path: Path, unstopped: Simulation, at: int) -> None:
    interrupted(Simulation(config(**SHORT), tmp_path), at)
    resumed = Simulation(config(**SHORT), tmp_path)
    assert resumed.round == at
    resumed.run()
    before, expected = (json.loads(json.dumps(s.before_gossip())) for s in (resumed, unstopped))
    assert untimed(before) == untimed(expected)
    assert resumed.before_average == unstopped.before_average


@pytest.mark.slow
def test_sp_result_of_an_earlier_run_is_not_used(tmp_path: Path) -> None:
    Simulation(config(**SHORT), tmp_path).run()
    for folder in tmp_path.glob("node-*/checkpoints"):
        shutil.rmtree(folder)  # as --fresh does
    unevaluated = config(**{**SHORT, "run__evaluate_every": 0})
    interrupted(Simulation(unevaluated, tmp_path), 9)
    assert Simulation(unevaluated, tmp_path).before_gossip() is None


# --- other algorithms


def test_every_algorithm_can_be_simulated() -> None:
    short: dict[str, object] = {"run__rounds": 3, "topology__graphs": ["two-way"], "run__nodes": 3}
    for name in get_args(get_args(KEYS["algorithm.name"].type)[0]):
        result = Simulation(config(algorithm__name=name, **short)).run()
        assert result["algorithm"] == name
        assert result["sum_u"] == pytest.approx(3)
        assert (result["compression_factor"] is None) == (name == "local")
