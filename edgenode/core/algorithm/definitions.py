"""The definitions behind the names of algorithms and compressors in run.toml.

A definition states the facts that a configuration is checked against, and builds the arithmetic when a run needs it.
This module imports neither numpy nor the arithmetic, so that a wrong configuration is rejected at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgenode.core.algorithm.compression import Compressor
    from edgenode.core.algorithm.update_rules import UpdateRule


Option = bool | int | float | str
"""A value in [algorithm.options]."""


class Settings(Protocol):
    """The keys of [algorithm] that a compressor may use."""

    @property
    def share(self) -> float: ...
    @property
    def bits(self) -> int: ...
    @property
    def values(self) -> str: ...


@dataclass(frozen=True)
class CompressorDefinition:
    """A compressor that run.toml can name.

    Attributes:
        build: makes the compressor.
        keys: the keys of [algorithm] that it uses, in the order in which results name them.
        kept: p, the share of what is exchanged that a message keeps, in (0, 1]. With error feedback, the averaging rate
            must match it.
        contraction: delta in (0, 1], with |C[v] - v|^2 <= (1 - delta) |v|^2. Algorithms that send differences derive
            their averaging rate from it. None means p.
        blocks: into how many blocks the model is divided, if a round exchanges one of them. None exchanges all of it.
        values: returns the default of algorithm.values for a share, in algorithms that leave it to the compressor.
    """

    build: Callable[[Settings], Compressor]
    keys: tuple[str, ...] = ()
    kept: Callable[[Settings], float] = lambda settings: 1.0
    contraction: Callable[[Settings], float] | None = None
    blocks: Callable[[Settings], int] | None = None
    values: Callable[[float], str] = lambda share: "int8"


@dataclass(frozen=True)
class AlgorithmDefinition:
    """An algorithm that run.toml can name.

    Attributes:
        rule: returns its update rule.
        compressor: the default of algorithm.compressor.
        values: the default of algorithm.values. None leaves it to the compressor.
        only: the reason why it allows only the default compressor and values. Empty if it allows others.
        blocks: a round may exchange one block of the model.
        doubly_stochastic: the rows of W must sum to 1 as its columns do, because the algorithm has no push-sum weights.
        gossips: it ends with algorithm.gossip_rounds rounds without training and compression.
        communicates: nodes exchange messages.
        masked: a message tells nothing but its part of the sum of all, so the plan has each member's key for masks.
        options: its own keys, with their defaults, which [algorithm.options] overrides.
        searches_share: makes what chooses the share that its compressor keeps, for a simulation
            (`edgenode.simulate.share_search.ShareSearch`). Devices cannot run it. None if the share stays.
        prepares: changes the nodes of a simulation before its first event, given the configuration and the replicas
            by name. Devices cannot run it. None changes nothing.
    """

    rule: Callable[[], UpdateRule]
    compressor: str = "topk"
    values: str | None = "int8"
    only: str = ""
    blocks: bool = False
    doubly_stochastic: bool = False
    gossips: bool = False
    communicates: bool = True
    masked: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    searches_share: Callable[..., Any] | None = None
    prepares: Callable[..., None] | None = None

    def takes(self, name: str, compressor: CompressorDefinition) -> bool:
        """Return whether a compressor of that name can be used."""
        if self.only or self.searches_share:
            return name == self.compressor
        return self.blocks or compressor.blocks is None


def _top_k(settings: Settings) -> Compressor:
    from edgenode.core.algorithm.compression import Compressor, TopK
    from edgenode.core.algorithm.rounding import QUANTISE

    return Compressor(TopK(settings.share), QUANTISE[settings.values])


def _everything(settings: Settings) -> Compressor:
    from edgenode.core.algorithm.compression import Compressor, keep_all
    from edgenode.core.algorithm.rounding import QUANTISE

    return Compressor(keep_all, QUANTISE[settings.values])


def _random(settings: Settings) -> Compressor:
    from edgenode.core.algorithm.compression import Compressor, keep_all
    from edgenode.core.algorithm.rounding import Random

    return Compressor(keep_all, Random(settings.bits))


_FEW = 0.01  # the largest share of which error feedback leaves entries of nearly equal magnitudes

COMPRESSORS: dict[str, CompressorDefinition] = {
    "topk": CompressorDefinition(
        _top_k,
        ("share", "values"),
        kept=lambda settings: settings.share,
        values=lambda share: "fitted1" if share <= _FEW else "int8",
    ),
    "identity": CompressorDefinition(_everything, ("values",)),
    "random": CompressorDefinition(
        _random,
        ("bits",),
        kept=lambda settings: settings.bits / 32,
        contraction=lambda settings: settings.bits / 128,  # of a large tensor, random rounding keeps far less than p
    ),
    "rolling": CompressorDefinition(
        _everything, ("share", "values"), blocks=lambda settings: math.ceil(round(1 / settings.share, 6))
    ),
}


def _sparse_push() -> UpdateRule:
    from edgenode.core.algorithm.update_rules import SPARSE_PUSH

    return SPARSE_PUSH


def _difference() -> UpdateRule:
    from edgenode.core.algorithm.update_rules import DIFFERENCE

    return DIFFERENCE


def _d2() -> UpdateRule:
    from edgenode.core.algorithm.d2 import D2

    return D2


def _diloco() -> UpdateRule:
    from edgenode.core.algorithm.diloco import DILOCO

    return DILOCO


def _masked_diloco() -> UpdateRule:
    from edgenode.core.algorithm.masked_sum import MASKED

    return MASKED


_WHOLE = "it sends whole models; {} is the same with compression"

ALGORITHMS: dict[str, AlgorithmDefinition] = {
    "sp": AlgorithmDefinition(_sparse_push, values=None, blocks=True),
    "scsp": AlgorithmDefinition(_sparse_push, values=None, blocks=True, gossips=True),
    "sgp": AlgorithmDefinition(_sparse_push, "identity", "float32", only=_WHOLE.format("sp")),
    "quant-sgp": AlgorithmDefinition(_difference, "identity"),
    "d-psgd": AlgorithmDefinition(
        _sparse_push, "identity", "float32", only=_WHOLE.format("deep-squeeze"), doubly_stochastic=True
    ),
    "d2": AlgorithmDefinition(_d2, "identity", "float32", doubly_stochastic=True),
    "deep-squeeze": AlgorithmDefinition(_sparse_push, doubly_stochastic=True),
    "choco-sgd": AlgorithmDefinition(_difference, doubly_stochastic=True),
    "diloco": AlgorithmDefinition(_diloco, "identity", "fitted2"),
    "masked-diloco": AlgorithmDefinition(_masked_diloco, "identity", masked=True),
    "local": AlgorithmDefinition(_sparse_push, "identity", "float32", only="it sends nothing", communicates=False),
}
