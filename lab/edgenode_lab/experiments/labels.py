"""The names of rows and titles as they run, computed from the configuration of a row's trials.

So they follow the scale and --set. Only a column that stands for no keys of run.toml has labels of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgenode.config.schema import Config
from edgenode.storage.result_file import describe_compressor
from edgenode_lab.experiments.definitions import Experiment, Row
from edgenode_lab.experiments.scales import PAPER_ROUNDS, choose_scale, graph_period

_MODELS = {"resnet20": "ResNet-20", "resnet110": "ResNet-110", "vgg11": "VGG-11", "lenet5": "LeNet-5"}
_ALGORITHMS = {
    "choco-sgd": "CHOCO-SGD",
    "d-psgd": "D-PSGD",
    "d2": "D²",
    "deep-squeeze": "Deep-Squeeze",
    "quant-sgp": "Quant-SGP",
    "scsp": "Sparse-Push",
    "sgp": "SGP",
    "skew-scout": "Skew-Scout",
}
_DATASETS = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "the digits"}
_OPTIMISERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "muon": "Muon"}
_MOST_LENGTHS = 3  # a sentence names


def shown(headings: Sequence[str], row: Row, config: Config) -> Row:
    """The row with the labels of what its trials run."""
    names = zip(headings, row.labels, strict=True)
    labels = (COLUMNS[heading](config, row, label) if heading in COLUMNS else label for heading, label in names)
    return replace(row, labels=tuple(labels))


def network(config: Config, row: Row) -> str:
    """The network that runs and, if it is another one, the paper's network that it stands for."""
    if row.settings is None:
        return row.network
    name, stands_for = _networks(config, row)
    return f"{name} for {stands_for}" if stands_for else name


def _networks(config: Config, row: Row) -> tuple[str, str]:
    """The network that runs, and the paper's network that it stands for, or an empty text."""
    task = config.task
    if task.entry:
        return task.entry.rpartition(":")[2], ""
    name = _MODELS.get(task.model, task.model)
    if task.norm == "group" and task.model.startswith("resnet"):
        name += " with GroupNorm"
    if task.dataset == "cifar100":
        name += ", CIFAR-100"
    return name, "" if row.network == name else row.network


def compression(config: Config) -> str:
    """What a message carries."""
    algorithm = config.algorithm
    percent = f"{100 * algorithm.share:g}%"
    match algorithm.compressor:
        case _ if algorithm.name == "local":
            return "no communication"
        case "topk":
            return f"top-{percent}"
        case "rolling" | "shuffled":
            return f"{algorithm.compressor} {percent}"
        case "random":
            return counted(algorithm.bits, "bit")
        case "identity":
            return "uncompressed" if algorithm.values == "float32" else f"all entries, {algorithm.values}"
        case _:
            return describe_compressor(config)


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 round, 2,000 rounds."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# columns -----------------------------------------------------------------------------------------------


def _percent(config: Config) -> str:
    if config.algorithm.name == "local":
        return "0"
    if config.algorithm.compressor == "identity":
        return "100"
    return f"{100 * config.algorithm.share:g}" if config.algorithm.compressor == "topk" else compression(config)


def _bits(config: Config) -> str:
    algorithm = config.algorithm
    if (algorithm.compressor, algorithm.values) == ("identity", "float32"):
        return "32"
    return str(algorithm.bits) if algorithm.compressor == "random" else compression(config)


def _skew(config: Config) -> str:
    return f"{config.task.skew:g}" if config.task.alpha is None else f"alpha {config.task.alpha:g}"


def _graphs(config: Config) -> str:
    return ", ".join(config.topology.graphs)


def _rotation(config: Config, row: Row) -> str:
    every = config.topology.every
    return str(row.epochs_per_graph) if every == graph_period(row.epochs_per_graph, config.run.rounds) else every


def _method(config: Config) -> str:
    algorithm = _ALGORITHMS.get(config.algorithm.name, config.algorithm.name)
    if config.algorithm.name == "local":
        return "centralised SGD" if config.run.nodes == 1 else "no communication"
    graph = ", complete graph" if config.topology.graphs == ("complete",) else ""
    return f"{algorithm}, {compression(config)}{graph}"


def _entries(config: Config) -> str:
    names = {"identity": "all", "topk": "largest", "rolling": "rolling"}
    return names.get(config.algorithm.compressor) or f"all, {compression(config)}"


def _share(config: Config) -> str:
    return f"{100 * config.algorithm.share:g}" if config.algorithm.compressor in ("topk", "rolling") else "100"


def _recipe(config: Config) -> str:
    algorithm, task = config.algorithm, config.task
    words = [*([] if algorithm.name == "scsp" else [algorithm.name]), compression(config)]
    if algorithm.compressor in ("topk", "rolling", "shuffled"):
        words.append(algorithm.values)
    if algorithm.averaging_rate is not None:
        words.append(f"averaging rate {algorithm.averaging_rate:g}")
    if task.local_steps != 1:
        words.append(f"{task.local_steps} local steps")
    words += [word for word in (task.optimizer, task.schedule) if word not in ("sgd", "steps")]
    if task.loss == "balanced":
        words.append("balanced")
    if algorithm.gossip_values != "float32":
        words.append(f"last phase {algorithm.gossip_values}")
    if config.topology.graphs != ("a",):
        words.append(f"graph {_graphs(config)}")
    return ", ".join(words)


def _length(config: Config, row: Row) -> str:
    as_written = row.settings is None or config.run.rounds == row.settings["run.rounds"]
    return f"{row.length}x" if as_written else counted(config.run.rounds, "round")


def _attack(config: Config) -> str:
    return str(config.algorithm.options.get("attack", "none"))


def _liars(config: Config) -> str:
    options = config.algorithm.options
    return f"{0 if _attack(config) == 'none' else options['liars']} of {config.run.nodes}"


COLUMNS: Mapping[str, Callable[[Config, Row, str], str]] = {
    "network": lambda config, row, label: network(config, row) if row.network else label,
    "top-K, %": lambda config, row, label: _percent(config),
    "bits": lambda config, row, label: _bits(config),
    "skew": lambda config, row, label: _skew(config),
    "graphs": lambda config, row, label: _graphs(config),
    "every n of 200 epochs": lambda config, row, label: _rotation(config, row),
    "method": lambda config, row, label: _method(config),
    "entries": lambda config, row, label: _entries(config),
    "share, %": lambda config, row, label: _share(config),
    "recipe": lambda config, row, label: _recipe(config),
    "length": lambda config, row, label: _length(config, row),
    "attack": lambda config, row, label: _attack(config),
    "liars": lambda config, row, label: _liars(config),
    "mixing": lambda config, row, label: f"limits {config.algorithm.liars}" if config.algorithm.liars else "as it is",
}
"""How a column names a row, by its heading."""


# titles and notes --------------------------------------------------------------------------------------


def paper_title(experiment: Experiment) -> str:
    """The title in the terms of the paper."""
    first, *_ = experiment.rows(choose_scale("smoke"))
    return experiment.title.format(network=first.network, graph="ring a", data="IID data")


def title(experiment: Experiment, row: Row, config: Config) -> str:
    """The title in the terms of what runs: what all rows have in common, read from one of them."""
    graphs = config.topology.graphs
    kind = "graphs" if len(graphs) > 1 else "ring" if graphs[0] in ("a", "b", "c") else "graph"
    skewed = config.task.skew or config.task.alpha is not None
    data = f"data with {'' if config.task.alpha else 'skew '}{_skew(config)}" if skewed else "IID data"
    return experiment.title.format(network=network(config, row), graph=f"{kind} {_graphs(config)}", data=data)


def conditions(played: Sequence[tuple[Row, Config]]) -> str:
    """A sentence for each network: on what it trains, for how long, and with which optimisers."""
    lengths: dict[str, set[int]] = {}
    optimisers: dict[str, dict[str, None]] = {}
    for row, config in played:
        name, stands_for = _networks(config, row)
        trains = f"{name}, in place of {stands_for}," if stands_for else name
        trains += f" trains on {_data(config)}"
        lengths.setdefault(trains, set()).add(config.run.rounds)
        optimisers.setdefault(trains, {})[_optimiser(config)] = None
    sentences = [
        f"{trains} for {_lengths(sorted(rounds))}, with {_either(list(optimisers[trains]))}."
        for trains, rounds in lengths.items()
    ]
    reproduced = {config.run.rounds for row, config in played if row.network}
    if reproduced and reproduced != {PAPER_ROUNDS}:
        sentences.append(f"The paper trains on CIFAR for {PAPER_ROUNDS:,} rounds.")
    return " ".join(sentences)


def _lengths(rounds: Sequence[int]) -> str:
    """The lengths of runs, in rising order. Of more than three, the shortest and the longest."""
    if len(rounds) > _MOST_LENGTHS:
        return f"{rounds[0]:,} to {counted(rounds[-1], 'round')}"
    return _either([*(f"{number:,}" for number in rounds[:-1]), counted(rounds[-1], "round")])


def _either(texts: Sequence[str]) -> str:
    """The texts as a list of alternatives: a, b or c."""
    *several, last = texts
    return f"{', '.join(several)} or {last}" if several else last


def _data(config: Config) -> str:
    task = config.task
    if task.entry:
        return "data of its own"
    if task.dataset == "imagefolder":
        return f"images of {Path(task.data_dir).name}"
    return _DATASETS.get(task.dataset, task.dataset)


def _optimiser(config: Config) -> str:
    task = config.task
    name = _OPTIMISERS.get(task.optimizer, task.optimizer)
    if task.schedule == "cosine":
        return f"{name} at a learning rate that falls from {task.learning_rate:g} along a cosine"
    if task.schedule == "trapezoid":
        return f"{name} at a learning rate of {task.learning_rate:g} that falls linearly in the second half"
    if not task.milestones:
        return f"{name} at a constant learning rate of {task.learning_rate:g}"
    *several, last = map(str, task.milestones)
    epochs = f"epochs {', '.join(several)} and {last}" if several else f"epoch {last}"
    return f"{name} at a learning rate of {task.learning_rate:g}, times {task.decay:g} after {epochs}"
