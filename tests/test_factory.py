"""From a run.toml to the values of the core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.fixed_members import checkpoint_every
from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.core.algorithm.compression import Layout
from edgenode.core.topology.graph import PRESETS, GraphSpec
from edgenode.core.topology.period import Period
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import ConfigError, GraphError
from edgenode.tasks.local_data import Cut
from edgenode.tasks.settings import TrainSettings


def a_config(**settings: object) -> Config:
    """A configuration from keys with two underscores for the dot."""
    return load(None, {key.replace("__", "."): value for key, value in settings.items()}, environ={})


# --- graphs


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_graph(name: str) -> None:
    assert factory.graph_spec(name) == GraphSpec(name)


def test_edge_list_file_is_a_graph_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "office.txt"
    path.write_text("pi-1 pi-2  # over the corridor\npi-2 -> pi-1\n")
    assert factory.graph_spec(str(path)) == GraphSpec("office", (("pi-1", "pi-2"), ("pi-2", "pi-1")))


def test_unknown_graph_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(GraphError, match="no graph named 'chrod'; did you mean 'chord'"):
        factory.graph_spec("chrod")


def test_binary_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(GraphError, match="model has 1 error:\n  line 1: expected 'sender receiver'"):
        factory.graph_spec(str(path))


# --- schedules


def test_sp_uses_its_graphs_to_the_end() -> None:
    config = a_config(algorithm__name="sp", algorithm__gossip_graph="complete", topology__graphs="a,b")
    assert factory.schedule(config, 7) == Schedule((GraphSpec("a"), GraphSpec("b")), every=7)


def test_epochs_become_rounds_when_their_length_is_known() -> None:
    config = a_config(topology__every="6ep")
    assert [factory.schedule(config, n).every for n in (1, 20)] == [6, 120]
    assert factory.schedule(a_config(topology__every="6r"), 20).every == 6


@pytest.mark.parametrize(("graph", "last"), [("auto", "allreduce"), ("complete", "complete"), ("plan", None)])
def test_scsp_ends_on_its_gossip_graph(graph: str, last: str | None) -> None:
    schedule = factory.schedule(a_config(algorithm__gossip_graph=graph, run__rounds=300))
    expected = (GraphSpec(last), 300) if last else (None, 0)
    assert (schedule.last, schedule.last_from) == expected


def test_last_phase_uses_the_graphs_of_the_run_if_members_may_lie() -> None:
    config = a_config(algorithm__liars=1, topology__graphs="complete")
    assert (factory.schedule(config).last, factory.algorithm_spec(config).gossip_rounds) == (None, 1)


@pytest.mark.parametrize(
    ("graph", "last"), [("auto", "allreduce@x:y"), ("complete", "complete@x:y"), ("halving", "halving@x:y")]
)
def test_last_phase_knows_the_networks_of_the_graph(graph: str, last: str) -> None:
    schedule = factory.schedule(a_config(algorithm__gossip_graph=graph, topology__graphs="a@x:y,b@x:y"))
    assert schedule.last is not None and schedule.last.name == last
    assert [spec.name for spec in schedule.graphs] == ["a@x:y", "b@x:y"]


def test_a_number_of_gossip_rounds_chooses_halving_and_excludes_allreduce() -> None:
    assert factory.schedule(a_config(algorithm__gossip_rounds=3)).last == GraphSpec("halving")
    config = a_config(algorithm__gossip_rounds=3, algorithm__gossip_graph="allreduce")
    with pytest.raises(
        ConfigError, match=r"algorithm\.gossip_rounds = 3: an allreduce takes the rounds that its nodes"
    ):
        factory.algorithm_spec(config)


def test_scsp_ends_on_the_links_of_an_edge_list_by_default(tmp_path: Path) -> None:
    path = tmp_path / "office.txt"
    path.write_text("x y\ny x\n")
    config = a_config(topology__graphs=f"a,{path}", algorithm__gossip_rounds=20)
    assert factory.schedule(config).last is None


# --- algorithms


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"algorithm__share": 1.0}, 1.0),
        ({"algorithm__share": 0.5}, 0.08),
        ({"algorithm__share": 0.1}, 0.01),
        ({"algorithm__share": 0.01}, 0.005),
        ({"algorithm__share": 0.001}, 0.001),
        ({"algorithm__share": 0.0001}, 0.0001),
        ({"algorithm__compressor": "identity"}, 1.0),
        ({"algorithm__compressor": "rolling"}, 1.0),
        ({"algorithm__name": "local"}, 0.0),
        ({"algorithm__averaging_rate": 0.02}, 0.02),
        ({"algorithm__averaging_rate": 0.02, "algorithm__name": "local"}, 0.0),
        ({"algorithm__name": "choco-sgd"}, 0.02),
        ({"algorithm__name": "quant-sgp"}, 1.0),
        ({"algorithm__name": "quant-sgp", "algorithm__compressor": "random"}, 1 / 16),
        ({"algorithm__name": "d2", "topology__graphs": "two-way"}, 0.5),
    ],
)
def test_averaging_rate_defaults_to_that_of_table_5(settings: dict[str, object], rate: float) -> None:
    assert factory.averaging_rate(a_config(**settings)) == pytest.approx(rate)


def test_random_compressor_has_the_averaging_rate_of_its_bits() -> None:
    rates = [factory.averaging_rate(a_config(algorithm__compressor="random", algorithm__bits=b)) for b in (1, 2, 4)]
    assert 0.005 < rates[0] < rates[1] < rates[2] < 0.08


@pytest.mark.parametrize(
    ("settings", "rounds"),
    [
        ({}, 6),
        ({"run__nodes": 8}, 9),
        ({"run__nodes": 1}, 0),
        ({"algorithm__gossip_graph": "halving"}, 2),
        ({"algorithm__gossip_graph": "plan"}, 21),
        ({"algorithm__gossip_graph": "plan", "topology__graphs": "b"}, 21),
        ({"algorithm__gossip_graph": "plan", "run__nodes": 8}, 97),
        ({"algorithm__gossip_graph": "one-peer-exponential"}, 2),
        ({"algorithm__gossip_graph": "one-peer-exponential", "run__nodes": 8}, 3),
        ({"algorithm__gossip_graph": "halving", "run__nodes": 12}, 4),
        ({"algorithm__gossip_graph": "complete"}, 1),
        ({"algorithm__gossip_rounds": 50}, 50),
        ({"algorithm__gossip_rounds": 0}, 0),
        ({"algorithm__name": "sp", "algorithm__gossip_rounds": 50}, 0),
        ({"algorithm__gossip_graph": "plan", "algorithm__gossip_tolerance": 0.1}, 9),
    ],
)
def test_gossip_lasts_as_long_as_its_graph_needs(settings: dict[str, object], rounds: int) -> None:
    spec = factory.algorithm_spec(a_config(run__rounds=100, **settings))
    assert (spec.training_rounds, spec.gossip_rounds, spec.rounds) == (100, rounds, 100 + rounds)


def test_auto_gossip_on_an_edge_list_lasts_as_long_as_the_list_needs(tmp_path: Path) -> None:
    path = tmp_path / "office.txt"
    path.write_text("x y\ny x\n")
    config = a_config(run__nodes=2, topology__graphs=str(path))
    assert factory.algorithm_spec(config).gossip_rounds == 1
    path.write_text("x -- y\ny -- z\n")
    assert factory.algorithm_spec(a_config(run__nodes=3, topology__graphs=str(path))).gossip_rounds > 5


def test_weights_of_the_configuration_are_those_of_its_graphs(tmp_path: Path) -> None:
    path = tmp_path / "star.txt"
    path.write_text("0 -- 1\n0 -- 2\n0 -- 3\n")
    for name in ("choco-sgd", "d-psgd", "d2"):
        star = {"algorithm__name": name, "topology__graphs": str(path)}
        with pytest.raises(GraphError, match=r'topology\.weights = "metropolis" makes them so'):
            factory.algorithm_spec(a_config(**star))
        factory.algorithm_spec(a_config(**star, topology__weights="metropolis"))
    (graph,) = factory.schedule(a_config(topology__graphs="two-way", topology__weights="uniform")).graphs
    assert graph == GraphSpec("two-way", rule="uniform")


@pytest.mark.parametrize("values", ["int8", "int4", "bfloat16", "float32"])
@pytest.mark.parametrize(("compressor", "kept"), [("topk", 11), ("identity", 110), ("random", 110), ("rolling", 110)])
def test_every_compressor_keeps_its_share(compressor: str, kept: int, values: str) -> None:
    config = a_config(algorithm__compressor=compressor, algorithm__share=0.1, algorithm__values=values)
    compress = factory.algorithm_spec(config).compressor
    vector = np.linspace(1, 2, 110, dtype=np.float32)
    payload = compress(vector, Layout((100, 10)), np.random.default_rng(0))
    decoded = np.zeros_like(vector)
    payload.add_to(decoded, 1.0)
    assert np.count_nonzero(decoded) == pytest.approx(kept, abs=30 if compressor == "random" else 0)


# --- requirements


@pytest.mark.parametrize(
    ("name", "graph", "reason"),
    [
        ("d-psgd", "chord", "d-psgd cannot use chord: its weights are not doubly stochastic"),
        ("deep-squeeze", "chord", "deep-squeeze cannot use chord: its weights are not doubly stochastic"),
        ("choco-sgd", "chord", "choco-sgd cannot use chord: its weights are not doubly stochastic"),
        ("choco-sgd", "a,b", "choco-sgd cannot use a, b: it assumes the same neighbours in every round"),
        ("quant-sgp", "a,b", "quant-sgp cannot use a, b: it assumes the same neighbours in every round"),
        ("choco-sgd", "one-peer-exponential", "choco-sgd cannot use one-peer-exponential: it assumes the same"),
        ("d2", "two-way,complete", "d2 cannot use two-way, complete: it assumes the same"),
        ("d2", "a", "d2 cannot use a: its weights are not symmetric"),
    ],
)
def test_graphs_that_an_algorithm_cannot_use_are_refused(name: str, graph: str, reason: str) -> None:
    config = a_config(algorithm__name=name, topology__graphs=graph)
    for refuse in (factory.algorithm_spec, lambda c: factory.check_networked(c, controller=False)):
        with pytest.raises(ConfigError) as caught:
            refuse(config)
        assert str(caught.value).startswith(reason)
        assert "\n" not in str(caught.value)


def test_graph_of_a_file_is_checked_with_the_nodes_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.edges"
    path.write_text("red blue\nblue green\ngreen red\nred green\n")
    with pytest.raises(ConfigError, match="d-psgd cannot use mine: its weights are not doubly stochastic"):
        factory.algorithm_spec(a_config(run__nodes=3, algorithm__name="d-psgd", topology__graphs=str(path)))
    path.write_text("red blue\nblue green\ngreen red\n")
    factory.algorithm_spec(a_config(run__nodes=3, algorithm__name="d-psgd", topology__graphs=str(path)))


@pytest.mark.parametrize("name", ["sp", "scsp", "sgp", "quant-sgp"])
def test_push_sum_algorithms_accept_unbalanced_graphs(name: str) -> None:
    factory.algorithm_spec(a_config(algorithm__name=name, topology__graphs="chord"))


@pytest.mark.parametrize("name", ["choco-sgd", "quant-sgp", "d2", "diloco"])
@pytest.mark.parametrize(("key", "value"), [("on_poison", "evict"), ("straggler", "drop")])
def test_controller_evicts_no_member_that_is_fixed(name: str, key: str, value: str) -> None:
    usual = {"algorithm__name": name, "topology__graphs": "doubling" if name == "diloco" else "two-way"}
    for controller in (True, False):
        factory.check_networked(a_config(**usual), controller)
    assert factory.run_spec(a_config(**usual)).requirements.fixed
    config = a_config(**usual, **{f"run__{key}": value})
    for refuse in (lambda: factory.check_networked(config, controller=True), lambda: factory.run_spec(config)):
        with pytest.raises(ConfigError, match=f'run.{key} = "{value}": the members of a run of {name} are fixed'):
            refuse()


@pytest.mark.parametrize(
    ("nodes", "least", "settings"),
    [(5, 5, {"algorithm__name": "diloco", "topology__graphs": "doubling", "run__rounds": 12}),
     (7, 6, {"algorithm__name": "d2", "topology__graphs": "two-way"})],
)  # fmt: skip
def test_fixed_members_have_a_checkpoint_in_common(nodes: int, least: int, settings: dict[str, object]) -> None:
    def check(every: int, controller: bool = True) -> None:
        config = a_config(run__nodes=nodes, run__checkpoint_every=every, **settings)
        factory.check_networked(config, controller)

    check(least)
    check(least - 1, controller=False)
    with pytest.raises(ConfigError, match=f"nodes can be {least} rounds apart.* it must be {least} or more"):
        check(least - 1)


@pytest.mark.parametrize("controller", [True, False])
def test_more_nodes_than_devices_can_be_are_for_simulations(controller: bool) -> None:
    factory.check_networked(a_config(run__nodes=1024), controller)
    factory.algorithm_spec(config := a_config(run__nodes=1025, algorithm__name="sp"))
    with pytest.raises(ConfigError, match=r"run\.nodes = 1025: a run on devices has at most 1024; edgenode simulate"):
        factory.check_networked(config, controller)


@pytest.mark.parametrize(("every", "rounded"), [(5, 6), (6, 6), (50, 51)])
def test_checkpoints_lie_between_exchanges(every: int, rounded: int) -> None:
    settings = {"algorithm__name": "diloco", "topology__graphs": "doubling", "run__checkpoint_every": every}
    config = a_config(run__nodes=5, run__rounds=12, **settings)
    assert checkpoint_every(config.run, factory.exchange_rounds(config)) == rounded


@pytest.mark.parametrize("on_poison", ["pause", "evict"])
def test_only_a_controller_reacts_to_the_poison_alarm(on_poison: str) -> None:
    config = a_config(run__on_poison=on_poison)
    factory.check_networked(config, controller=True)
    assert factory.run_spec(config).on_poison == on_poison
    with pytest.raises(ConfigError, match='without one, it must be "report"'):
        factory.check_networked(config, controller=False)


# --- run specs


def test_run_spec_holds_what_a_run_is_created_from() -> None:
    config = a_config(run__cluster="lab", run__nodes=8, run__rounds=10, topology__every="6ep")
    run_spec = factory.run_spec(config)
    assert (run_spec.cluster, run_spec.nodes, run_spec.run_digest) == ("lab", 8, config.digest())
    assert (run_spec.schedule.period, run_spec.rounds) == (Period(6, "epochs"), 19)
    assert factory.run_spec(a_config(topology__every="6r")).schedule.period == Period(6, "rounds")


# --- the machine


def test_threads_default_to_the_physical_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 4)
    for usable, threads in ((8, 4), (2, 2)):  # a container, or taskset, may allow fewer
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=usable: set(range(n)))
        assert factory.threads(a_config()) == threads
    monkeypatch.setattr("psutil.cpu_count", lambda logical: None)  # where the system does not report it
    assert factory.threads(a_config()) == 2
    assert factory.threads(a_config(run__threads=7)) == 7


@pytest.mark.parametrize("there", [True, False])
def test_device_defaults_to_cuda_if_available(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert factory.device(a_config()) == ("cuda" if there else "cpu")
    assert factory.device(a_config(run__device="cpu")) == "cpu"


# --- the task


@pytest.mark.parametrize(
    ("name", "number"), [("node-3", 3), ("node-007", 7), ("kitchen-pi-2", 2), ("kitchen", None), ("a-b", None)]
)
def test_node_knows_its_number_and_how_many_there_are(name: str, number: int | None) -> None:
    node = factory.node_info(a_config(run__nodes=9, run__seed=4), name)
    assert (node.name, node.number, node.nodes, node.seed) == (name, number, 9, 4)


def test_schedule_of_the_averaging_rate_is_that_of_the_configuration() -> None:
    config = a_config(algorithm__averaging_rate=0.01, algorithm__averaging_warmup=4, algorithm__averaging_decay=1)
    rates = [factory.algorithm_spec(config).step(t).averaging_rate for t in (0, 3, 4, 7)]
    assert rates == pytest.approx([0.0025, 0.01, 0.01, 0.0025])


def test_train_settings_are_those_of_the_configuration() -> None:
    config = a_config(task__milestones="3,5", task__batch_size=16, task__optimizer="adamw", task__clip_norm=2)
    assert factory.train_settings(config) == TrainSettings(
        batch_size=16, milestones=(3, 5), optimizer="adamw", clip_norm=2.0
    )


@pytest.mark.parametrize(
    ("settings", "cut"),
    [
        ({"task__skew": 0.8}, Cut(skew=0.8)),
        ({"task__alpha": 0.5}, Cut(alpha=0.5)),
        ({"task__data": "own"}, None),
        ({"task__dataset": "imagefolder"}, None),
        ({"task__dataset": "imagefolder", "task__data": "cut"}, Cut()),
        ({"task__entry": "birds:Birds"}, None),
        ({"task__entry": "birds:Birds", "task__data": "cut"}, Cut()),
    ],
)
def test_data_is_cut_where_all_nodes_share_it(settings: dict[str, object], cut: Cut | None) -> None:
    assert factory.cut(a_config(**settings)) == cut


@pytest.mark.parametrize(
    ("algorithm", "graph", "admits"),
    [("diloco", "complete", True), ("choco-sgd", "two-way", False), ("sp", "a", False)],
)
def test_of_the_algorithms_with_fixed_members_diloco_admits_nodes(algorithm: str, graph: str, admits: bool) -> None:
    found = factory.requirements(load(None, {"algorithm.name": algorithm, "topology.graphs": [graph]}, {}))
    assert (found.fixed, found.admits) == (algorithm != "sp", admits)
