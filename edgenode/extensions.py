"""What a package imports to extend edgenode. docs/extending.md describes each part."""

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
from edgenode.core.algorithm.rounding import QUANTISE, per_tensor
from edgenode.core.algorithm.sparse_push import (
    Contribution,
    State,
    Weights,
    compress_with_feedback,
    descend,
    mix_contributions,
)
from edgenode.core.algorithm.update_rules import SPARSE_PUSH, UpdateRule
from edgenode.core.topology.graph import Digraph, Preset
from edgenode.errors import ConfigError, GraphError

__all__ = [
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
    "Settings",
    "State",
    "TopK",
    "UpdateRule",
    "Values",
    "Weights",
    "compress_with_feedback",
    "descend",
    "keep_all",
    "mix_contributions",
    "per_tensor",
]
