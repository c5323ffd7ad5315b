"""What a message carries in the rows of an experiment, as keys of run.toml, and the recipes of the frontier."""

from __future__ import annotations

from collections.abc import Mapping

from edgenode.config.recipes import OPTIMISER, RECIPES
from edgenode_lab.experiments.presets import Settings


def top_k(percent: str) -> Settings:
    """The compressor of a row that the paper names by K: 100 sends whole models, 0 sends nothing."""
    if percent == "0":
        return {"algorithm.name": "local"}
    if percent == "100":
        return {"algorithm.compressor": "identity", "algorithm.values": "float32"}
    return {"algorithm.compressor": "topk", "algorithm.share": float(percent) / 100, **_values("int8")}


def rolling(share: float) -> Settings:
    """The rolling exchange of a share of the model per round, as 8-bit values."""
    return {"algorithm.compressor": "rolling", "algorithm.share": share}


def _values(name: str) -> Settings:
    return {"algorithm.values": name}


_BALANCED: Settings = {"task.loss": "balanced"}
_LAST_PHASE: Settings = {"algorithm.gossip_values": "int8"}
_SMALL: Settings = {**_BALANCED, **_LAST_PHASE}
_FEWER: Settings = {"task.local_steps": 4}
_COSINE: Settings = {"task.schedule": "cosine", "task.learning_rate": 0.03}
_ADAMW: Settings = {key: value for key, value in RECIPES["recommended"].items() if key in OPTIMISER}
_MUON: Settings = {"task.optimizer": "muon", "task.learning_rate": 0.006, "task.schedule": "cosine"}
_TRAPEZOID: Settings = {**_MUON, "task.schedule": "trapezoid"}


def _peer(algorithm: str, local_steps: int, *parts: Settings) -> tuple[Settings, ...]:
    return ({"algorithm.name": algorithm, "task.local_steps": local_steps}, *parts, _BALANCED)


_HALVING: Settings = {"topology.graphs": ["halving"]}  # 4 nodes exchange in pairs
_COMPLETE: Settings = {"topology.graphs": ["complete"]}

# Published methods with about as many bytes as the smallest of edgenode's recipes, and DiLoCo and SparseLoCo with two
# thirds to seven times as many. They have no last phase. SPARTA is better with SGD than with AdamW. DiLoCo with Muon is
# MuLoCo. Local SGD is Sparse-Push with all entries on the complete graph, which averages exactly after several local
# steps.
_PEERS: Mapping[str, tuple[Settings, ...]] = {
    "diloco, all entries, fitted2, 400 local steps, adamw, cosine, balanced, graph complete": _peer(
        "diloco", 400, _COMPLETE, _ADAMW
    ),
    "diloco, all entries, fitted2, 200 local steps, adamw, cosine, balanced, graph complete": _peer(
        "diloco", 200, _COMPLETE, _ADAMW
    ),
    "diloco, all entries, fitted2, 200 local steps, muon, cosine, balanced, graph complete": _peer(
        "diloco", 200, _COMPLETE, _MUON
    ),
    "diloco, all entries, fitted2, 40 local steps, muon, cosine, balanced, graph complete": _peer(
        "diloco", 40, _COMPLETE, _MUON
    ),
    "diloco, top-35%, fitted2, 125 local steps, muon, cosine, balanced, graph complete": _peer(
        "diloco", 125, _COMPLETE, top_k("35"), _values("fitted2"), _MUON
    ),
    "diloco, all entries, fitted2, averaging rate 1, 153 local steps, muon, trapezoid, balanced, graph complete": _peer(
        "diloco", 153, _COMPLETE, {"algorithm.averaging_rate": 1.0}, _TRAPEZOID
    ),
    "diloco, all entries, fitted2, averaging rate 1, 100 local steps, muon, trapezoid, balanced, graph halving": _peer(
        "diloco", 100, _HALVING, {"algorithm.averaging_rate": 1.0}, _TRAPEZOID
    ),
    "diloco, all entries, fitted2, averaging rate 1, 181 local steps, muon, trapezoid, balanced, graph halving": _peer(
        "diloco", 181, _HALVING, {"algorithm.averaging_rate": 1.0}, _TRAPEZOID
    ),
    "sparta, shuffled 0.28%, float32, 4 local steps, balanced": _peer("sparta", 4, {"algorithm.share": 0.0028}),
    "sparse-loco, top-5%, fitted2, 20 local steps, adamw, cosine, balanced": _peer(
        "sparse-loco", 20, {"algorithm.share": 0.05}, _ADAMW
    ),
    "noloco, all entries, fitted4, 200 local steps, adamw, cosine, balanced, graph halving": _peer(
        "noloco", 200, _HALVING, _values("fitted4"), _ADAMW
    ),
    "sp, all entries, fitted4, 500 local steps, adamw, cosine, balanced, graph complete": _peer(
        "sp", 500, _COMPLETE, top_k("100"), _values("fitted4"), _ADAMW
    ),
    "sparse-loco, top-5%, fitted2, 20 local steps, muon, cosine, balanced": _peer(
        "sparse-loco", 20, {"algorithm.share": 0.05}, _MUON
    ),
    "sparse-loco, top-12.5%, fitted2, 20 local steps, muon, cosine, balanced": _peer(
        "sparse-loco", 20, {"algorithm.share": 0.125}, _MUON
    ),
    "sparse-loco, top-12.5%, fitted2, 20 local steps, muon, trapezoid, balanced": _peer(
        "sparse-loco", 20, {"algorithm.share": 0.125}, _TRAPEZOID
    ),
    "noloco, all entries, fitted4, 200 local steps, muon, cosine, balanced, graph halving": _peer(
        "noloco", 200, _HALVING, _values("fitted4"), _MUON
    ),
    "sp, all entries, fitted4, 500 local steps, muon, cosine, balanced, graph complete": _peer(
        "sp", 500, _COMPLETE, top_k("100"), _values("fitted4"), _MUON
    ),
    "choco-sgd, top-0.3%, int8, 4 local steps, adamw, cosine, balanced": _peer(
        "choco-sgd", 4, {"algorithm.share": 0.003}, _ADAMW
    ),
    "choco-jwins, top-0.3%, int8, 4 local steps, adamw, cosine, balanced": _peer(
        "choco-jwins", 4, {"algorithm.share": 0.003}, _ADAMW
    ),
}

# Whole models, about as often as rolling 1.4% has sent each entry once.
_RARELY: tuple[Settings, ...] = (
    top_k("100"), _values("fitted4"), {"task.local_steps": 250}, _ADAMW, _LAST_PHASE,
)  # fmt: skip

FRONTIER: Mapping[str, tuple[Settings, ...]] = {
    "uncompressed": (top_k("100"),),
    "uncompressed, balanced": (top_k("100"), _BALANCED),
    "top-1%, int8": (top_k("1"),),
    "top-1%, fitted1": (top_k("1"), _values("fitted1")),
    "top-1%, fitted1, balanced, last phase int8": (top_k("1"), _values("fitted1"), _SMALL),
    "rolling 1.4%, fitted4, 4 local steps, balanced, last phase int8": (
        rolling(0.014), _values("fitted4"), _SMALL, _FEWER,
    ),
    "rolling 2.8%, fitted4, 4 local steps, balanced, last phase int8": (
        rolling(0.028), _values("fitted4"), _SMALL, _FEWER,
    ),
    "rolling 2.8%, fitted2, 4 local steps, balanced, last phase int8": (
        rolling(0.028), _values("fitted2"), _SMALL, _FEWER,
    ),
    "uncompressed, adamw, cosine": (top_k("100"), _ADAMW),
    "uncompressed, cosine, balanced": (top_k("100"), _BALANCED, _COSINE),
    "uncompressed, muon, cosine, balanced": (top_k("100"), _BALANCED, _MUON),
    "uncompressed, muon, trapezoid, balanced": (top_k("100"), _BALANCED, _TRAPEZOID),
    "rolling 1.4%, fitted4, 4 local steps, adamw, cosine, last phase int8": (RECIPES["recommended"], rolling(0.014)),
    "rolling 2.8%, fitted4, 4 local steps, adamw, cosine, last phase int8": (RECIPES["recommended"],),
    "rolling 1.4%, fitted4, 4 local steps, muon, cosine, balanced, last phase int8": (
        RECIPES["recommended"], rolling(0.014), _MUON, _BALANCED,
    ),
    "rolling 2.8%, fitted4, 4 local steps, muon, cosine, balanced, last phase int8": (
        RECIPES["recommended"], _MUON, _BALANCED,
    ),
    "rolling 1.4%, fitted4, 4 local steps, muon, trapezoid, balanced, last phase int8": (
        RECIPES["recommended"], rolling(0.014), _TRAPEZOID, _BALANCED,
    ),
    "rolling 2.8%, fitted4, 4 local steps, muon, trapezoid, balanced, last phase int8": (
        RECIPES["recommended"], _TRAPEZOID, _BALANCED,
    ),
    "all entries, fitted4, 250 local steps, adamw, cosine, last phase int8": _RARELY,
    "all entries, fitted4, 250 local steps, adamw, cosine, last phase int8, graph halving": (*_RARELY, _HALVING),
    **_PEERS,
}  # fmt: skip
"""Keys of run.toml by the name of the row. The first ones are edgenode's."""
