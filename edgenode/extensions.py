"""The names for packages that extend edgenode. docs/extending.md describes each."""

from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import (
    Compressor,
    Floats,
    Ints,
    Layout,
    Payload,
    PayloadFormat,
    TopK,
    Values,
    keep_all,
)
from edgenode.core.algorithm.definitions import AlgorithmDefinition, CompressorDefinition, Settings
from edgenode.core.algorithm.diloco import begin_at_start, remember_start
from edgenode.core.algorithm.rounding import QUANTISE, per_tensor
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    Sent,
    State,
    Weights,
    compress_with_feedback,
    descend,
    mix_contributions,
)
from edgenode.core.algorithm.update_rules import DIFFERENCE, SPARSE_PUSH, UpdateRule, compress_difference, mix_known
from edgenode.core.topology.graph import Digraph, Preset
from edgenode.errors import ConfigError, GraphError

__all__ = [
    "DIFFERENCE",
    "QUANTISE",
    "SPARSE_PUSH",
    "AlgorithmDefinition",
    "Compressor",
    "CompressorDefinition",
    "ConfigError",
    "Contribution",
    "Digraph",
    "Floats",
    "GraphError",
    "Ints",
    "Layout",
    "Payload",
    "PayloadFormat",
    "Preset",
    "Sent",
    "Settings",
    "State",
    "TopK",
    "UpdateRule",
    "Values",
    "Weights",
    "begin_at_start",
    "codec",
    "compress_difference",
    "compress_with_feedback",
    "descend",
    "keep_all",
    "mix_contributions",
    "mix_known",
    "per_tensor",
    "remember_start",
]
