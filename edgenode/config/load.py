"""Reading a configuration from the file, the environment and the options, and refusing what is wrong.

Every value passes through `load`, together with its source. So each error is one line that names the source, the
key, the value, and what is allowed.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from edgenode import names
from edgenode.config.combinations import refused
from edgenode.config.recipes import OPTIMISER, RECIPES
from edgenode.config.schema import KEYS, Config, Key
from edgenode.config.sections import ALGORITHMS, COMPRESSORS, SECTIONS, AlgorithmSection, RunSection
from edgenode.core.topology.period import Period
from edgenode.entry_points import Group
from edgenode.errors import ConfigError, one_of

_GROUPS: Mapping[str, Group[Any]] = {"algorithm.name": ALGORITHMS, "algorithm.compressor": COMPRESSORS}
_MAX_BLOCKS = 65536
_ONE_IN_NEIGHBOUR = ("allreduce", "halving", "one-peer-exponential")  # in each round of the last phase
_OPTIONS = "task.options.", "algorithm.options."

# msgspec examines a class when it first converts to it, and crashes if two threads do that at once. An import is done
# by one thread.
msgspec.convert({}, Config)


class _Given(NamedTuple):
    """A value as it was written, and where."""

    source: str
    key: str
    value: object
    lax: bool  # text from a shell may stand for a number or a list, and text in a file may not


def load(
    path: Path | None,
    overrides: Mapping[str, object] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
    source: str = "command-line option",
) -> Config:
    """`overrides` (dotted keys, from flags or ``source``) over EDGENODE_* variables over the file over defaults.

    The defaults of a recipe take the place of those of the keys.

    Text in `overrides` may stand for a number or a list, as in a variable. Every given value is checked,
    even if another one overrides it.

    Raises:
        ConfigError: a value is not allowed, a key is unknown, or the file cannot be read.
    """
    sections: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    source_of = {}
    options = (_Given(source, key, value, True) for key, value in overrides.items())
    for given in (*_from_file(path), *_from_environ(environ), *options):
        section, _, name = given.key.partition(".")
        if given.key.startswith(_OPTIONS):
            name, known = "options", sections[section].get("options", {})
            sections[section][name] = _checked(_one_option(given, known))
        else:
            sections[section][name] = _checked(given)
        source_of[given.key] = given.source
    _add_recipe(sections, source_of)
    _choose_compressor(sections["algorithm"])
    _add_options(sections["algorithm"], source_of)
    config = msgspec.convert(sections, Config)
    _check_algorithm(config.algorithm, source_of)
    _check_overlap(config, source_of)
    for key, reason in refused(config):
        value = _shown(config.as_keys()[key])
        raise _error(f"{source_of.get(key, 'default')}: {key} = {value}, but {reason}")
    return config


def _one_option(given: _Given, known: object) -> _Given:
    """A single option, as in --set task.options.width=32, as the whole table."""
    assert isinstance(known, dict)
    value = given.value
    with suppress(ValueError):
        value = json.loads(str(value))
    section, _, name = given.key.split(".", 2)
    return given._replace(key=f"{section}.options", value=known | {name: value})


def _from_file(path: Path | None) -> Iterator[_Given]:
    for name, content in ({} if path is None else read_toml(path)).items():
        if name in SECTIONS and not isinstance(content, dict):
            raise _error(f"{path}: {name} = {_shown(content)}, but it must be a section [{name}]")
        if name in SECTIONS:
            yield from (_Given(str(path), f"{name}.{key}", value, False) for key, value in content.items())
        else:
            raise _error(f"{path}: {_unknown(name, content)}")


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
        return tomllib.loads(text)
    except OSError as exc:
        raise _error(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except ValueError as exc:  # bad TOML, or bytes that are not UTF-8
        reason = str(exc).replace("at end of document", f"at line {text.count(chr(10)) + 1}, the last")
        raise _error(f"{path}: not valid TOML: {reason}") from exc


def _from_environ(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable in sorted(environ):
        section, _, name = variable.removeprefix("EDGENODE_").lower().partition("_")
        # Other EDGENODE_* variables belong to options of the command line.
        if variable.startswith("EDGENODE_") and section in SECTIONS and name:
            yield _Given(f"environment variable {variable}", f"{section}.{name}", environ[variable], True)


def _checked(given: _Given) -> object:
    key = KEYS.get(given.key)
    if key is None:
        raise _error(f"{given.source}: {_unknown(given.key, given.value)}")
    try:
        value = _converted(given, key)
    except (msgspec.ValidationError, ConfigError, ValueError, OverflowError) as exc:
        raise _error(f"{given.source}: {given.key} = {_shown(given.value)}, but it must be {key.allowed}") from exc
    try:
        if given.key in _GROUPS:
            _GROUPS[given.key][str(value)]  # raises if there is none
    except ConfigError as exc:
        raise _error(f"{given.source}: {given.key} = {_shown(given.value)}, but {exc}") from exc
    return value


def _converted(given: _Given, key: Key) -> object:
    value: Any = given.value
    if given.lax and isinstance(value, str):
        value = _from_text(value, key)
    if given.key == "topology.every" and isinstance(value, str | int):
        value = str(Period.parse(str(value)))  # 100, "100" and "100r" are equal, and must have one digest
    value = msgspec.convert(value, key.type, strict=not given.lax)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not finite")
    if given.key == "task.milestones" and list(value) != sorted(set(value)):
        raise ValueError("not increasing")
    return value


def _from_text(text: str, key: Key) -> object:
    text.encode()  # the bytes of an environment variable need not be text: a ValueError here
    if key.default is None and text == "none":
        return None
    if isinstance(key.default, dict):
        return json.loads(text)
    if isinstance(key.default, tuple):
        if text.startswith("["):
            return tomllib.loads(f"list = {text}")["list"]  # as in run.toml
        return [item.strip() for item in text.split(",")] if text else []
    return text


def checked_name(source: str, name: str) -> str:
    """A name of a node or a cluster that was given outside of run.toml.

    Raises:
        ConfigError: it is not a name.
    """
    if not names.is_name(name):
        raise _error(f"{source} = {_shown(name)}, but it must be {names.RULE}")
    return name


def _add_recipe(sections: dict[str, dict[str, object]], source_of: dict[str, str]) -> None:
    """Set the keys of the recipe that are not given, and those of its optimiser only if none of them is given."""
    recipe = str(sections["run"].get("recipe", RunSection().recipe))
    given = {f"{section}.{name}" for section, keys in sections.items() for name in keys}
    kept = given | OPTIMISER if given & OPTIMISER else given
    for key, value in RECIPES[recipe].items():
        if key not in kept:
            section, _, name = key.partition(".")
            sections[section][name] = value
            source_of[key] = f'run.recipe = "{recipe}"'


def _choose_compressor(given: dict[str, object]) -> None:
    """Set the algorithm's default compressor and values where none are given."""
    definition = ALGORITHMS[str(given.get("name", AlgorithmSection().name))]
    given.setdefault("compressor", definition.compressor)
    if definition.values is not None:
        given.setdefault("values", definition.values)
    elif "values" not in given:
        share = float(str(given.get("share", AlgorithmSection().share)))
        given["values"] = COMPRESSORS[str(given["compressor"])].values(share)


def _add_options(given: dict[str, object], source_of: Mapping[str, str]) -> None:
    """Add the defaults of the algorithm's own keys, and refuse keys that it does not have."""
    name = str(given.get("name", AlgorithmSection().name))
    defaults, options = ALGORITHMS[name].options, given.get("options", {})
    assert isinstance(options, dict)
    for option, value in options.items():
        key = f"algorithm.options.{option}"
        source = source_of.get(key) or source_of.get("algorithm.options", "default")
        if option not in defaults:
            known = f"it must be {one_of(defaults)}" if defaults else "it has no options"
            raise _error(f"{source}: {key} = {_shown(value)}, but with {name} {known}")
        default = defaults[option]
        kinds = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            raise _error(f"{source}: {key} = {_shown(value)}, but it must be a value like {_shown(default)}")
    if defaults:
        given["options"] = {**defaults, **options}


def _check_algorithm(algorithm: AlgorithmSection, source_of: Mapping[str, str]) -> None:
    """Refuse combinations that do not work. The error names a key that was given: own defaults fit each other."""

    def refuse(key: str, reason: str) -> ConfigError:
        key, value = f"algorithm.{key}", _shown(getattr(algorithm, key))
        return _error(f"{source_of.get(key) or f'default of {name}'}: {key} = {value}, but {reason}")

    name, definition, rate = algorithm.name, algorithm.definition, algorithm.averaging_rate
    try:
        compressor = COMPRESSORS[algorithm.compressor]
    except ConfigError as exc:
        raise refuse("compressor", str(exc)) from exc
    if not definition.takes(algorithm.compressor, compressor):
        allowed = one_of(other for other in COMPRESSORS.own if definition.takes(other, COMPRESSORS[other]))
        why = definition.only or "it does not exchange blocks"
        why = "it chooses the share that topk keeps" if definition.searches_share else why
        raise refuse("compressor", f"with {name} it must be {allowed}: {why}")
    if definition.only and algorithm.values != definition.values:
        raise refuse("values", f"with {name} it must be {_shown(definition.values)}: {definition.only}")
    if algorithm.blocks > _MAX_BLOCKS:
        least = f"1/{_MAX_BLOCKS} or more: each block has its own weight"
        raise refuse("share", f"with {algorithm.compressor} it must be {least}")
    if algorithm.liars and definition.rule().fixed:
        raise refuse("liars", f"with {name} it must be 0: its state depends on every message of a neighbour as it was")
    if algorithm.liars and len(definition.rule().sends) > 1:
        raise refuse("liars", f"with {name} it must be 0: distances are judged of messages of one vector")
    if algorithm.liars and definition.gossips and algorithm.gossip_graph in _ONE_IN_NEIGHBOUR:
        others = '"auto", "plan", "exponential" or "complete"'
        why = "a node cannot judge the message of one in-neighbour"
        raise refuse("gossip_graph", f"with algorithm.liars it must be {others}: {why}")
    if definition.searches_share and rate is not None:
        raise refuse("averaging_rate", f"with {name} it must be unset: it follows the share")
    if rate is None or not definition.communicates:
        return
    rule = definition.rule()
    if rate > 1 and compressor.blocks is not None:
        raise refuse("averaging_rate", f"with {algorithm.compressor} it must be at most 1: training would diverge")
    if rule.largest_rate is not None and rate > rule.largest_rate:
        raise refuse("averaging_rate", f"with {name} it must be at most {rule.largest_rate:g}: training would diverge")
    # The iteration diverges near rate / kept = 6 to 10. The last factor allows for the rounding of 5 * kept.
    kept = algorithm.kept_share
    if rule.error_feedback and rate > 5 * kept * (1 + 1e-9):
        raise refuse(
            "averaging_rate",
            f"it must be at most {5 * kept:g}, five times the kept share {kept:g}: training would diverge",
        )


def _check_overlap(config: Config, source_of: Mapping[str, str]) -> None:
    """Refuse an overlap that the window does not allow, or for which the algorithm has no meaning."""
    overlap, window, definition = config.run.overlap, config.run.window, config.algorithm.definition
    if not overlap:
        return
    given = f"{source_of.get('run.overlap', 'default')}: run.overlap = {overlap}, but"
    if overlap >= window:
        raise _error(f"{given} it must be below run.window = {window}: set run.window = {overlap + 1} or more")
    why = ""
    if definition.searches_share:
        why = "it measures all models while they are at rest"
    elif not definition.rule().overlaps:
        why = "its state has to know every message of a round at once"
    elif definition.doubly_stochastic:
        why = "it does not define the push-sum weights that messages in flight need"
    if why:
        raise _error(f"{given} with {config.algorithm.name} it must be 0: {why}; use scsp, sp or sgp")


def _unknown(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    # The right name in the wrong section is nearer than any similar spelling.
    same_name = [known for known in KEYS if known.endswith(f".{name}")]
    nearest = same_name or difflib.get_close_matches(key, [*KEYS, *SECTIONS], n=1, cutoff=0.0)
    return f"unknown key {key} = {_shown(value)}; did you mean {nearest[0]}?"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(text: str) -> ConfigError:
    one_line = " ".join(text.splitlines())
    return ConfigError(one_line.encode("utf-8", "backslashreplace").decode())
