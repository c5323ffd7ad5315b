"""A whole configuration, and what is derived from the keys of its sections.

Errors, `Config.to_toml` and docs/configuration.md take types, allowed values and meanings from `KEYS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

import msgspec

from edgenode.config.sections import (
    ALGORITHMS,
    COMPRESSORS,
    SECTIONS,
    AlgorithmSection,
    PrivacySection,
    RunSection,
    TaskSection,
    TopologySection,
)
from edgenode.core import canonical
from edgenode.errors import one_of


class Key(NamedTuple):
    """One key of run.toml, as the documentation and the errors describe it."""

    type: Any
    default: object
    allowed: str
    meaning: str


def _key(field: msgspec.structs.FieldInfo) -> Key:
    base, *metas, meaning = get_args(field.type)
    allowed = next((meta.title for meta in metas), "true or false")
    if get_origin(base) is Literal:
        allowed = one_of(get_args(base))
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return Key(field.type, default, allowed, meaning)


def as_toml(value: object) -> str:
    """A value as TOML: JSON, once DEL is escaped, but not ASCII-only JSON (surrogate pairs). A table is in one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{as_toml(name)} = {as_toml(part)}' for name, part in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


KEYS: Mapping[str, Key] = {
    f"{section}.{field.name}": _key(field)
    for section, struct in SECTIONS.items()
    for field in msgspec.structs.fields(struct)
}

# May differ between nodes. The digest covers all others.
LOCAL_KEYS = frozenset(
    {
        "run.threads",
        "run.device",
        "run.checkpoint_every",
        "run.publish_every",
        "run.barrier_timeout_s",
        "run.log_every_s",
        "run.straggler",
        "task.data_dir",
    }
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run."""

    run: RunSection = RunSection()
    task: TaskSection = TaskSection()
    privacy: PrivacySection = PrivacySection()
    algorithm: AlgorithmSection = AlgorithmSection()
    topology: TopologySection = TopologySection()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and key. Lists stay tuples and unset stays None."""
        return {section: msgspec.structs.asdict(getattr(self, section)) for section in SECTIONS}

    def as_keys(self) -> dict[str, Any]:
        """Plain values by key, as in "run.nodes"."""
        return {f"{section}.{name}": v for section, keys in self.as_dict().items() for name, v in keys.items()}

    def shared(self, rounds: bool = False) -> str:
        """Return the part that must be equal on every node, as a canonical text: keys, and versions of extensions.

        With an overlap, checkpoints decide when a round is mixed.

        Args:
            rounds: include ``run.rounds``. It is in the plan of a run, which a controller makes and later makes longer.
                Only without a controller must it be equal on every node.
        """
        local = LOCAL_KEYS - {"run.checkpoint_every"} if self.run.overlap else LOCAL_KEYS
        local = local if rounds else local | {"run.rounds"}
        keys = {key: value for key, value in self.as_keys().items() if key not in local}
        return canonical.canonical(keys | self.extensions())

    def digest(self, rounds: bool = False) -> str:
        """SHA-256, in hex, of `shared`."""
        return canonical.digest(self.shared(rounds))

    def lasting(self, rounds: int | None) -> Config:
        """The configuration of a run that the plan has made so many rounds long. None changes nothing."""
        if rounds is None:
            return self
        return msgspec.structs.replace(self, run=msgspec.structs.replace(self.run, rounds=rounds))

    def extensions(self) -> dict[str, str]:
        """The package and version of every algorithm, compressor and graph that a package provides, by name."""
        from edgenode.config.graphs import GRAPHS
        from edgenode.core.topology.networks import preset_of

        return {
            **ALGORITHMS.providers([self.algorithm.name]),
            **COMPRESSORS.providers([self.algorithm.compressor]),
            **GRAPHS.providers(map(preset_of, self.topology.graphs)),
        }

    def warnings(self) -> list[str]:
        """Return one line for each valid but suspicious setting."""
        lines = []
        rate, kept = self.algorithm.averaging_rate, self.algorithm.kept_share
        if rate is not None and 0 < kept < rate and self.algorithm.definition.rule().error_feedback:
            lines.append(
                f"algorithm.averaging_rate = {rate:g} is above the kept share {kept:g}: "
                "the nodes' models may drift apart"
            )
        if self.task.has_own_data and (self.task.alpha is not None or self.task.skew > 0):
            lines.append("task.skew and task.alpha are not used, because every node trains on all of its own data")
        elif self.task.alpha is not None and self.task.skew > 0:
            lines.append(f"task.skew = {self.task.skew:g} is not used, because task.alpha is set")
        given, default = self.algorithm, AlgorithmSection()
        if given.share != default.share and given.compressor in ("identity", "random"):
            sends = (
                f"{given.compressor} sends every entry"
                if given.definition.communicates
                else f"{given.name} sends nothing"
            )
            lines.append(f"algorithm.share = {given.share:g} is not used: {sends}")
        if given.bits != default.bits and given.compressor in ("identity", "topk", "rolling"):
            lines.append(f"algorithm.bits = {given.bits} is not used: with {given.compressor}, algorithm.values counts")
        if self.run.min_nodes > self.run.nodes:
            limit = f"run.min_nodes = {self.run.min_nodes} is above run.nodes = {self.run.nodes}"
            lines.append(f"{limit}: no member can leave or be evicted")
        if self.task.buffers == "average" and not self.algorithm.definition.gossips:
            lines.append(f"task.buffers is not used, because {self.algorithm.name} has no last phase that averages")
        return lines

    def to_toml(self) -> str:
        """A complete run.toml with the meaning of each key. `load` reads it back equal."""
        lines = ["# A run of edgenode, with every key. Flags and EDGENODE_* variables override it."]
        for section, values in self.as_dict().items():
            lines += ["", f"[{section}]"]
            for name, value in values.items():
                key = KEYS[f"{section}.{name}"]
                lines.append(f"# {key.meaning} ({key.allowed})")
                lines.append(f"# {name} is unset" if value is None else f"{name} = {as_toml(value)}")
        return "\n".join(lines) + "\n"
