"""Every experiment: the rows of a table or a figure, with the paper's numbers.

Rows with equal keys of run.toml are measured once, also across experiments. One trial of SCSP measures SP too: until
its gossip rounds it is bit-identical to SP, and it is evaluated at that point.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from itertools import product
from types import MappingProxyType

from edgenode_lab.experiments.definitions import Experiment, Figure, Row
from edgenode_lab.experiments.presets import (
    NODES,
    RESNET20,
    RESNET20_GROUP,
    RESNET110,
    RESNET110_CIFAR100,
    VGG11,
    Scale,
    Settings,
)
from edgenode_lab.experiments.recipes import FRONTIER, rolling, top_k

_SKEWED = 0.8
_TOP_K = ("100", "10", "1", "0.1", "0")  # percent

# The paper gossips for 40 rounds on the ring. Two rounds on this graph average 4 nodes exactly, for 5 % of the bytes.
_GOSSIP: Settings = {"algorithm.gossip_graph": "one-peer-exponential"}


def trial_settings(scale: Scale, network: str, *parts: Settings, times: int = 1) -> Settings | None:
    """Keys of run.toml for SCSP on ring a, overridden by ``parts``. None if the network is too large for the scale.

    Args:
        times: multiplies the scale's rounds.
    """
    if network not in scale.networks:
        return None
    keys = {"run.nodes": NODES, "algorithm.name": "scsp", "topology.graphs": ["a"], **_GOSSIP}
    merged: dict[str, object] = {**keys, **scale.networks[network], "run.rounds": times * scale.rounds(network)}
    for part in parts:
        merged |= part
    return merged


def _row(
    scale: Scale,
    labels: tuple[str, ...],
    network: str,
    *parts: Settings,
    paper: Mapping[str, float] = MappingProxyType({}),
    times: int = 1,
    epochs_per_graph: int = 0,
) -> Row:
    return Row(labels, trial_settings(scale, network, *parts, times=times), dict(paper), network, epochs_per_graph)


# tables ------------------------------------------------------------------------------------------------

_TABLE_2: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    RESNET20: {
        "100": (92.09, 1.07, 1.968e-8), "10": (91.27, 0.162, 3.408e-6, 6.68), "1": (90.68, 0.016, 1.512e-5, 66.8),
        "0.1": (90.51, 0.0018, 2.845e-5, 665), "0": (85.44, 0, 2.0e-4),
    },
    RESNET110: {
        "100": (94.14, 6.935, 3.98e-9), "1": (93.32, 0.104, 9.97e-7, 66.4), "0.1": (93.26, 0.011, 1.85e-6, 611),
        "0": (86.38, 0, 1.57e-5),
    },
    VGG11: {
        "100": (90.86, 37.95, 3.48e-10), "10": (90.32, 5.69, 4.57e-8, 6.66), "1": (90.22, 0.569, 2.3e-7, 66.7),
        "0.1": (88.81, 0.057, 5.1e-7, 667), "0": (80.90, 0, 3.76e-6),
    },
}  # fmt: skip


def _table_2(scale: Scale) -> tuple[Row, ...]:
    names = "sp", "message", "divergence", "factor"
    return tuple(
        _row(scale, (network, percent), network, top_k(percent), paper=dict(zip(names, printed, strict=False)))
        for network, rows in _TABLE_2.items()
        for percent, printed in rows.items()
    )


def _table_3(scale: Scale) -> tuple[Row, ...]:
    top_1 = top_k("1")
    methods: dict[str, tuple[Settings, dict[str, float]]] = {
        "CHOCO-SGD, top-1%": ({**top_1, "algorithm.name": "choco-sgd"}, {"accuracy": 91.73}),
        "Deep-Squeeze, top-1%": ({**top_1, "algorithm.name": "deep-squeeze"}, {"accuracy": 90.47}),
        "Sparse-Push, top-1%": (top_1, {"accuracy": 90.68, "scsp": 91.27}),
        "Sparse-Push, rolling 1%": (rolling(0.01), {}),
        "Skew-Scout, top-1%": ({**top_1, "algorithm.name": "skew-scout"}, {}),
        "Quant-SGP, 4 bits": ({**_bits(4), "algorithm.name": "quant-sgp"}, {}),
        "D², top-1%, complete graph": ({**top_1, **_D2}, {}),
        "D², uncompressed, complete graph": ({**top_k("100"), **_D2}, {}),
        "D-PSGD, uncompressed": ({**top_k("100"), "algorithm.name": "d-psgd"}, {}),
        "SGP, uncompressed": ({**top_k("100"), "algorithm.name": "sgp"}, {}),
        "no communication": (top_k("0"), {}),
        "centralised SGD": (_CENTRALISED, {}),
    }
    return tuple(_row(scale, (method,), RESNET20, keys, paper=printed) for method, (keys, printed) in methods.items())


# D² diverges on the directed ring: it needs symmetric weights.
_D2: Settings = {"algorithm.name": "d2", "topology.graphs": ["complete"]}

# One node with all the data: the same number of rounds, and in each the batches of four nodes together.
_CENTRALISED: Settings = {"algorithm.name": "local", "run.nodes": 1, "task.batch_size": 4 * 32}

_TABLE_4: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    RESNET20: {"100": (92.09, 92.09), "1": (90.68, 91.27, 0.59, 64.3), "0.1": (90.51, 91.09, 0.58, 466)},
    VGG11: {"100": (91.20, 91.20), "1": (90.22, 90.49, 0.27, 63.9), "0.1": (88.81, 89.99, 1.18, 467)},
    RESNET110_CIFAR100: {"100": (72.10, 72.10), "1": (69.98, 71.28, 1.30, 63.6), "0.1": (68.25, 69.87, 1.62, 438)},
}


def _table_4(scale: Scale) -> tuple[Row, ...]:
    names = "sp", "scsp", "gain", "run_factor"
    return tuple(
        _row(scale, (network, percent), network, top_k(percent), paper=dict(zip(names, printed, strict=False)))
        for network, rows in _TABLE_4.items()
        for percent, printed in rows.items()
    )


_TABLE_6: Mapping[tuple[str, int], Mapping[str, tuple[float, ...]]] = {
    ("a, b", 11): {"100": (91.92, 91.92), "1": (90.75, 91.61, 0.86), "0.1": (90.08, 90.74, 0.66)},
    ("a, b, c", 6): {"100": (91.63, 91.63), "1": (91.00, 91.46, 0.46), "0.1": (89.92, 90.53, 0.61)},
}


def _table_6(scale: Scale) -> tuple[Row, ...]:
    names = "sp", "scsp", "gain"
    return tuple(
        _row(
            scale,
            (graphs, str(every), percent),
            RESNET20,
            top_k(percent),
            {"topology.graphs": graphs.split(", ")},
            paper=dict(zip(names, printed, strict=False)),
            epochs_per_graph=every,
        )
        for (graphs, every), rows in _TABLE_6.items()
        for percent, printed in rows.items()
    )


_TABLE_7: Mapping[str, tuple[float, ...]] = {
    "32": (92.09, 92.09),
    "4": (91.17, 91.19, 0.02, 7.96),
    "2": (91.06, 91.15, 0.09, 15.84),
    "1": (90.87, 91.05, 0.18, 31.36),
}


def _bits(bits: int) -> Settings:
    return {"algorithm.compressor": "random", "algorithm.bits": bits}


def _table_7(scale: Scale) -> tuple[Row, ...]:
    names = "sp", "scsp", "gain", "run_factor"
    return tuple(
        _row(
            scale,
            (bits,),
            RESNET20,
            top_k("100") if bits == "32" else _bits(int(bits)),
            paper=dict(zip(names, printed, strict=False)),
        )
        for bits, printed in _TABLE_7.items()
    )


# figures -----------------------------------------------------------------------------------------------


def _over_skew(scale: Scale, network: str, percents: tuple[str, ...]) -> tuple[Row, ...]:
    return tuple(
        _row(scale, (percent, f"{skew:g}"), network, top_k(percent), {"task.skew": skew})
        for percent, skew in product(percents, (0.0, 0.2, 0.4, 0.6, _SKEWED))
    )


def _over_compression(scale: Scale, network: str) -> tuple[Row, ...]:
    return tuple(
        _row(scale, (f"{skew:g}", percent), network, top_k(percent), {"task.skew": skew})
        for skew, percent in product((0.0, _SKEWED), _TOP_K[:-1])
    )


# our own -----------------------------------------------------------------------------------------------


def _rolling(scale: Scale) -> tuple[Row, ...]:
    exchanges: dict[tuple[str, str], Settings] = {("all", "100"): top_k("100")}
    exchanges |= {("largest", percent): top_k(percent) for percent in ("1", "0.1")}
    exchanges |= {("rolling", percent): rolling(float(percent) / 100) for percent in ("1", "0.3", "0.1")}
    return tuple(
        _row(scale, (f"{skew:g}", *exchange), RESNET20_GROUP, keys, {"task.skew": skew})
        for skew, (exchange, keys) in product((0.0, _SKEWED), exchanges.items())
    )


def _longer(scale: Scale) -> tuple[Row, ...]:
    return tuple(
        _row(
            scale, (f"{skew:g}", percent, f"{times}x"), RESNET20_GROUP, top_k(percent), {"task.skew": skew}, times=times
        )
        for times, skew, percent in product((1, 4, 10), (_SKEWED, 0.0), ("100", "1", "0.1"))
    )  # fmt: skip


def _frontier(scale: Scale) -> tuple[Row, ...]:
    return tuple(
        _row(scale, (f"{skew:g}", recipe), RESNET20_GROUP, *keys, {"task.skew": skew}, *_as_many_steps(scale, keys))
        for skew, (recipe, keys) in product((_SKEWED, 0.0), FRONTIER.items())
    )


def _as_many_steps(scale: Scale, parts: tuple[Settings, ...]) -> tuple[Settings, ...]:
    """Fewer rounds if a round has several local steps, so that all rows take as many steps."""
    keys = ChainMap(*reversed([dict(part) for part in parts]))
    steps = keys.get("task.local_steps", 1)
    assert isinstance(steps, int)
    if RESNET20_GROUP not in scale.networks or steps == 1:
        return ()
    in_pairs = keys.get("algorithm.name") == "diloco" and keys.get("topology.graphs") == ["halving"]
    rounds_of_an_exchange = NODES.bit_length() - 1 if in_pairs else 1
    return ({"run.rounds": rounds_of_an_exchange * max(1, scale.rounds(RESNET20_GROUP) // steps)},)


_BOTH = ("sp", "scsp", "gain")

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "table2", "Table 2: Sparse-Push at several levels of top-K sparsification, {graph}, {data}",
            ("network", "top-K, %"), ("sp", "message", "factor", "divergence"), _table_2,
            Figure("top-K, %", ("sp",), ("network",)),
            "1 % of the entries costs 0.6 to 1.4 points of accuracy, 0.1 % 0.9 to 2.1, no communication 6.7 to 10.",
        ),
        Experiment(
            "table3", "Table 3: decentralised algorithms, {graph}, {data}",
            ("method",), ("accuracy", "scsp", "factor", "sent"), _table_3,
            Figure("method", ("accuracy", "scsp"), nominal=True),
            "CHOCO-SGD, Deep-Squeeze, SP and SCSP lie within 1.3 points; the other rows are not in the paper's table.",
        ),
        Experiment(
            "table4", "Table 4: Sparse-Push and Skew-Compensated Sparse-Push, {graph}, {data}",
            ("network", "top-K, %"), (*_BOTH, "run_factor"), _table_4,
            Figure("top-K, %", ("sp", "scsp"), ("network",)),
            "SCSP gains 0.3 to 1.6 points, the more the stronger the compression.",
        ),
        Experiment(
            "table6", "Table 6: graphs that change with time, {data}",
            ("graphs", "every n of 200 epochs", "top-K, %"), _BOTH, _table_6,
            Figure("top-K, %", ("sp", "scsp"), ("graphs",)),
            "Rotating graphs cost no more than 0.6 points against the static ring of Table 4.",
        ),
        Experiment(
            "table7", "Table 7: random quantisation, {graph}, {data}",
            ("bits",), (*_BOTH, "run_factor"), _table_7,
            Figure("bits", ("sp", "scsp")),
            "4, 2 and 1 bits cost 0.9 to 1.2 points, of which SCSP wins back 0.02 to 0.18.",
        ),
        Experiment(
            "fig1", "Figure 1: Sparse-Push against data skew, {network}, {graph}",
            ("top-K, %", "skew"), ("sp",), lambda scale: _over_skew(scale, VGG11, ("100", "1")),
            Figure("skew", ("sp",), ("top-K, %",)),
            "Without skew, top-1% is as good as all; with more skew it falls behind.",
        ),
        Experiment(
            "fig2", "Figure 2: SP and SCSP with and without data skew, {network}, {graph}",
            ("skew", "top-K, %"), _BOTH, lambda scale: _over_compression(scale, VGG11),
            Figure("top-K, %", ("sp", "scsp"), ("skew",)),
            "At 0.1 % skew 0.8 costs SP 7 points; SCSP with skew is within 0.5 points of SP without.",
        ),
        Experiment(
            "fig6", "Figure 6: Sparse-Push against data skew, {network}, {graph}",
            ("top-K, %", "skew"), ("sp",), lambda scale: _over_skew(scale, RESNET20_GROUP, ("100", "10")),
            Figure("skew", ("sp",), ("top-K, %",)),
            "At skew 0.8 and top-10% about 6 points are lost.",
        ),
        Experiment(
            "fig7", "Figure 7: SP and SCSP with and without data skew, {network}, {graph}",
            ("skew", "top-K, %"), _BOTH, lambda scale: _over_compression(scale, RESNET20_GROUP),
            Figure("top-K, %", ("sp", "scsp"), ("skew",)),
            "At 1 %, SCSP with skew 0.8 is within 0.4 points of SP without skew.",
        ),
        Experiment(
            "rolling", "The rolling exchange against top-K, {network}, {graph}",
            ("skew", "entries", "share, %"), ("sp", "sp_sent", "scsp", "sent", "factor"), _rolling,
            Figure("sent per node, MB", ("sp", "scsp"), ("skew", "entries"), x_metrics=("sp_sent", "sent")),
            "Not in the paper: each round exchanges the next block of the model, so that no index is sent.",
        ),
        Experiment(
            "frontier", "Accuracy against bytes: edgenode's recipes and published methods, {network}, {graph}",
            ("skew", "recipe"), ("sp", "sp_sent", "scsp", "sent"), _frontier,
            Figure("sent per node, MB", ("sp", "scsp"), ("skew",), ("sp_sent", "sent"), kinds="recipe"),
            "Not in the paper: how few bytes reach the accuracy of uncompressed messages. All rows take as many steps, "
            "or one percent fewer. Rows with the name of an algorithm are published methods, at about the bytes of "
            "the smallest recipe, and DiLoCo and SparseLoCo at two thirds to seven times of them. Those have no last "
            "phase, and their accuracy is in the column of SP.",
        ),
        Experiment(
            "longer", "What compression costs when a run is 4 and 10 times as long, {network}, {graph}",
            ("skew", "top-K, %", "length"), _BOTH, _longer,
            Figure("length", ("sp", "scsp"), ("skew", "top-K, %")),
            "Not in the paper: what compression costs shrinks as the number of rounds grows.",
        ),
    )
}  # fmt: skip
