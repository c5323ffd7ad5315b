"""SPARTA (Beton et al. 2025): each round averages other entries of the model."""

from __future__ import annotations

from dataclasses import replace

from edgenode.extensions import SPARSE_PUSH, AlgorithmDefinition

SPARTA = replace(SPARSE_PUSH, keeps=(), fixed=True, default_rate=lambda kept, contraction: 1.0, largest_rate=1.0)
"""SPARTA (Beton et al. 2025, Sparse Parameter Averaging): x[S] = W x-hat[S] for the entries S of this round, which are
the same at every node. The other entries stay. u counts for all entries, so the members must not change."""

DEFINITION = AlgorithmDefinition(lambda: SPARTA, "shuffled", "float32", doubly_stochastic=True)
