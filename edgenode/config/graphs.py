"""The graphs that run.toml and operators can name: the presets of the core, and those of extensions."""

from __future__ import annotations

from edgenode.core.topology.graph import PRESETS, Preset
from edgenode.entry_points import Group

GRAPHS = Group("edgenode.graphs", Preset, PRESETS)
