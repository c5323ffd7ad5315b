"""Builds the values of the core and of the tasks from a configuration. No other module knows both sides.

A function named after a value builds it. One named after a verb checks or prepares something.
"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from edgenode.config.fixed_members import check_fixed_members, check_number
from edgenode.config.graphs import GRAPHS
from edgenode.config.schema import Config
from edgenode.config.sections import COMPRESSORS, AlgorithmSection
from edgenode.core.algorithm.algorithm_spec import AlgorithmSpec, RateSchedule, gossip_rounds_needed
from edgenode.core.algorithm.compression import Compressor, as_float32, keep_all, keep_none
from edgenode.core.algorithm.rounding import QUANTISE
from edgenode.core.protocol.plan.lag import Lag
from edgenode.core.protocol.plan.run_spec import RunSpec
from edgenode.core.topology import allreduce, networks
from edgenode.core.topology.edge_list import parse_edges
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import Schedule, ScheduleSpec
from edgenode.core.topology.weights import OUT_DEGREE
from edgenode.errors import ConfigError, GraphError

if TYPE_CHECKING:
    from edgenode.tasks.local_data import Cut
    from edgenode.tasks.settings import TrainSettings
    from edgenode.tasks.task import NodeInfo, Task


def graph_spec(name: str, rule: str = OUT_DEGREE) -> GraphSpec:
    """The preset of that name, the graph of an edge-list file at that path, or that of an extension.

    Args:
        rule: the rule of the weights. A file may have weights of its own.

    Raises:
        GraphError: none exists, the file is malformed, or the extension cannot be used.
    """
    path, preset = Path(name), networks.preset_of(name)
    if preset not in GRAPHS.own and path.is_file():
        return parse_edges(path.stem, path.read_text(encoding="utf-8", errors="replace"), rule)
    if preset not in GRAPHS.own and (reason := GRAPHS.add_all().get(preset)):
        raise GraphError(f"graph {name}: {reason}")
    return GraphSpec(name, rule=rule)


def schedule_spec(config: Config) -> ScheduleSpec:
    """The schedule that a run starts with, including its gossip graph.

    Raises:
        GraphError: a graph does not exist.
    """
    last = _gossip_graph(config)
    return ScheduleSpec(
        graphs=tuple(graph_spec(name, config.topology.weights) for name in config.topology.graphs),
        period=config.topology.period,
        last=last,
        last_from=config.run.rounds if last else 0,
    )


def _gossip_graph(config: Config) -> GraphSpec | None:
    """The graph of SCSP's last phase. None if it is the run's own graphs, or there is no such phase."""
    name, graphs = config.algorithm.gossip_graph, config.topology.graphs
    if not config.algorithm.definition.gossips or name == "plan":
        return None
    are_presets = all(networks.preset_of(graph) in GRAPHS.own for graph in graphs)
    at = networks.at_of(graphs[0]) if are_presets else ""
    if name != "auto":
        return GraphSpec(f"{name}{at}")
    if config.algorithm.liars or not are_presets:
        return None  # the sums of an allreduce would hide a liar, and a list of edges may have all the links there are
    return GraphSpec(f"{allreduce.NAME if config.algorithm.gossip_rounds == 'auto' else 'halving'}{at}")


def schedule(config: Config, rounds_per_epoch: int = 1) -> Schedule:
    """The schedule that a run starts with, with its period in rounds.

    Raises:
        GraphError: a graph does not exist.
    """
    return schedule_spec(config).schedule(rounds_per_epoch)


def algorithm_spec(config: Config) -> AlgorithmSpec:
    """The configured algorithm, with the averaging rate and the number of gossip rounds resolved.

    Raises:
        ConfigError: the graphs do not meet the requirements, or the gossip graph never reaches the tolerance.
    """
    algorithm = config.algorithm
    check_graphs(config)
    return AlgorithmSpec(
        _compressor(algorithm),
        averaging_rate(config),
        config.run.rounds,
        _gossip_rounds(config),
        algorithm.blocks,
        algorithm.definition.rule(),
        Compressor(keep_all, QUANTISE[algorithm.gossip_values]),
        exchange_rounds(config),
        sums=_sums(config),
        rates=RateSchedule(algorithm.averaging_warmup, algorithm.averaging_decay),
    )


def lag(config: Config) -> Lag:
    """Return the lag of mixing behind pushing."""
    return Lag(config.run.overlap, config.run.checkpoint_every)


def _compressor(algorithm: AlgorithmSection) -> Compressor:
    if not algorithm.definition.communicates:
        return Compressor(keep_none, as_float32)
    return COMPRESSORS[algorithm.compressor].build(algorithm)


def averaging_rate(config: Config) -> float:
    """eta: the configured one, else the algorithm's default. 0 without communication."""
    algorithm = config.algorithm
    if not algorithm.definition.communicates:
        return 0.0
    if algorithm.averaging_rate is not None:
        return algorithm.averaging_rate
    compressor = COMPRESSORS[algorithm.compressor]
    contraction = compressor.contraction or compressor.kept
    return algorithm.definition.rule().default_rate(compressor.kept(algorithm), contraction(algorithm))


def requirements(config: Config) -> Requirements:
    """Return the requirements of the configured algorithm on every graph of the run."""
    rule = (definition := config.algorithm.definition).rule()
    return Requirements(
        config.algorithm.name,
        definition.doubly_stochastic,
        rule.fixed,
        rule.spans_period,
        averaging_rate(config),
        rule.check_graph,
        admits=rule.common is not None,
    )


def check_graphs(config: Config) -> None:
    """Refuse graphs that do not meet the requirements of the algorithm.

    Raises:
        GraphError: a graph does not meet them. The text names it and the reason.
    """
    planned = schedule(config)
    requirements(config).check(planned, _members(config, planned))


def _members(config: Config, planned: Schedule) -> tuple[str, ...]:
    """Return the members that lists of edges name, or any names."""
    return tuple(sorted(planned.named)) or tuple(f"{i:04d}" for i in range(config.run.nodes))


def fewest_in_neighbours(config: Config) -> tuple[str, int]:
    """Return the graph of the run in a round of which a node has the fewest in-neighbours, and their number.

    Raises:
        GraphError: a graph does not exist, or does not fit the number of nodes.
    """
    members = _members(config, planned := schedule(config))
    counts = [
        (len(graph.in_neighbours(name)), spec.name)
        for spec in planned.graphs
        for graph in spec.period(members)
        for name in members
    ]
    fewest, name = min(counts)
    return name, fewest


def edges_per_round(config: Config) -> float:
    """Return the mean number of edges of a round, over the graphs of the run.

    Raises:
        GraphError: a graph does not exist, or does not fit the number of nodes.
    """
    members = _members(config, planned := schedule(config))
    return fmean(len(graph.edges) for spec in planned.graphs for graph in spec.period(members))


def exchange_rounds(config: Config) -> int:
    """The rounds of an exchange, the first of which begins with local steps.

    Raises:
        ConfigError: the run would end within an exchange, when the nodes have different models.
    """
    if not config.algorithm.definition.rule().spans_period:
        return 1
    run, planned = config.run, schedule(config)
    rounds = len((graph := planned.graphs[0]).period(_members(config, planned)))
    if run.rounds % rounds:
        raise ConfigError(
            f"run.rounds = {run.rounds}: an exchange of {config.algorithm.name} on {graph.name} with {run.nodes} nodes "
            f"takes {rounds} rounds, so it must be a multiple of {rounds}"
        )
    return rounds


def check_networked(config: Config, controller: bool) -> None:
    """Refuse what daemons cannot train, with or without a controller, before they wait for each other.

    Raises:
        ConfigError: the algorithm or a graph does not fit, with the reason.
    """
    name, definition = config.algorithm.name, config.algorithm.definition
    check_number(config.run)
    if definition.searches_share:
        raise ConfigError(
            f"algorithm.name = {name}: it tests models on the training data of other nodes, which devices keep to "
            "themselves; use edgenode simulate"
        )
    if definition.prepares:
        raise ConfigError(f"algorithm.name = {name}: it is for edgenode simulate and edgenode experiment only")
    if not controller and config.run.on_poison != "report":
        raise ConfigError(
            f'run.on_poison = "{config.run.on_poison}": only a controller pauses a run or evicts a member; without '
            'one, it must be "report"'
        )
    check_graphs(config)
    if controller and definition.rule().fixed:
        apart = 2 * exchange_rounds(config) - 1 if definition.rule().spans_period else config.run.nodes - 1
        check_fixed_members(config.run, name, apart)


def _sums(config: Config) -> bool:
    """Return whether the run ends with an allreduce."""
    return (last := _gossip_graph(config)) is not None and last.preset == allreduce.NAME


def _gossip_rounds(config: Config) -> int:
    algorithm = config.algorithm
    if not algorithm.definition.gossips:
        return 0
    if _sums(config):
        if algorithm.gossip_rounds != "auto":
            raise ConfigError(
                f"algorithm.gossip_rounds = {algorithm.gossip_rounds}: an allreduce takes the rounds that its nodes "
                'need; set it to "auto", or choose another algorithm.gossip_graph'
            )
        return 3 * len(allreduce.hops(config.run.nodes))
    if algorithm.gossip_rounds != "auto":
        return algorithm.gossip_rounds
    # All preset rings mix equally fast, and a rotation of rings is not slower.
    spec = _gossip_graph(config) or graph_spec(config.topology.graphs[0], config.topology.weights)
    return gossip_rounds_needed(spec, config.run.nodes, algorithm.gossip_tolerance)


def run_spec(config: Config) -> RunSpec:
    """Return the facts that a controller creates a run from.

    Raises:
        ConfigError: the run is not possible with a controller.
    """
    check_networked(config, controller=True)
    spec = algorithm_spec(config)
    return RunSpec(
        cluster=config.run.cluster,
        nodes=config.run.nodes,
        run_digest=config.digest(),
        schedule=schedule_spec(config),
        rounds=spec.rounds,
        min_nodes=config.run.min_nodes,
        requirements=requirements(config),
        on_poison=config.run.on_poison,
        lag=lag(config),
        gossip_rounds=spec.gossip_rounds,
        masked=config.algorithm.definition.masked,
    )


def task(config: Config) -> Task:
    """The task of a run: the class of one's own that it names, or a data set and a model.

    Raises:
        ConfigError: there is none, or its constructor refuses its options.
    """
    from edgenode.tasks import entry
    from edgenode.tasks.image_task import ImageTask

    chosen = config.task
    if chosen.entry:
        return entry.load(chosen.entry, chosen.options)
    return ImageTask(
        chosen.dataset,
        chosen.model,
        chosen.norm,
        augment=chosen.augment,
        classes=chosen.classes,
        image_size=chosen.image_size,
        common_moments=chosen.has_own_data or config.privacy.on,
    )


def node_info(config: Config, name: str) -> NodeInfo:
    """Return the description of a node for its task."""
    from edgenode.tasks.task import NodeInfo

    data_dir = config.task.data_dir.replace("{node}", name)
    return NodeInfo(name, Path(data_dir).expanduser() if data_dir else None, config.run.seed, config.run.nodes)


def cut(config: Config) -> Cut | None:
    """Return the cut of one data set for all nodes. None if each has its own."""
    from edgenode.tasks.local_data import Cut

    return None if config.task.has_own_data else Cut(config.task.skew, config.task.alpha)


def train_settings(config: Config) -> TrainSettings:
    """Return the settings of training, which are equal on every node."""
    from edgenode.tasks.settings import TrainSettings

    settings = TrainSettings(**{field.name: getattr(config.task, field.name) for field in fields(TrainSettings)})
    return settings if config.algorithm.definition.gossips else replace(settings, buffers="local")


def device(config: Config) -> str:
    """The device that a node trains on. "auto" is cuda if available, else cpu."""
    if config.run.device != "auto":
        return config.run.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def threads(config: Config) -> int:
    """The number of torch threads. "auto" is one per physical core."""
    return cores() if config.run.threads == "auto" else config.run.threads


def cores() -> int:
    """The number of physical cores that this process may use. A second thread on a core gains nothing."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or usable, usable)
