"""One `run.toml` describes a run; this module reads, checks and writes it.

It never imports torch or the network, so the command line can refuse a bad value at once. Every value passes
one door, `load`, which knows where it came from: each error is one line that names the source, the key, the
value and what is allowed. The type of a key carries what is allowed and what it means: errors, `to_toml`
and docs/configuration.md say the same because they read it there.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from edgenode.errors import ConfigError

AtLeast0 = Annotated[int, Meta(ge=0, title="a whole number, 0 or more")]
AtLeast1 = Annotated[int, Meta(ge=1, title="a whole number, 1 or more")]
UpTo1024 = Annotated[int, Meta(ge=1, le=1024, title="a whole number from 1 to 1024")]
Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1, title="a whole number from 0 to 4294967295")]
Positive = Annotated[float, Meta(gt=0, title="a number above 0")]
NotNegative = Annotated[float, Meta(ge=0, title="a number, 0 or more")]
Fraction = Annotated[float, Meta(ge=0, le=1, title="a number from 0 to 1")]
FractionBelow1 = Annotated[float, Meta(ge=0, lt=1, title="a number from 0 to 1, without 1")]
FractionAbove0 = Annotated[float, Meta(gt=0, le=1, title="a number above 0, at most 1")]
PositiveOrUnset = Annotated[Positive | None, Meta(title="a number above 0, or unset")]
ThreadsOrAuto = Annotated[AtLeast1 | Literal["auto"], Meta(title='a whole number, 1 or more, or "auto"')]
RoundsOrAuto = Annotated[AtLeast0 | Literal["auto"], Meta(title='a whole number, 0 or more, or "auto"')]
Text = Annotated[str, Meta(title="text")]
Name = Annotated[str, Meta(min_length=1, title="text that is not empty")]
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,40}\Z", title="1 to 40 letters, digits or -_.")]
Epochs = Annotated[tuple[AtLeast1, ...], Meta(title="a list of increasing whole numbers, 1 or more")]
Names = Annotated[tuple[Name, ...], Meta(min_length=1, title="a list of one or more names or paths")]
Classes = Annotated[tuple[Name, ...], Meta(title="a list of names")]
Period = Annotated[str, Meta(title='training epochs as "6ep", or rounds as "100r" or 100')]


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who takes part, for how long, and how patiently."""

    cluster: Annotated[Label, "name of the run; nodes that name another are refused"] = "edgenode"
    nodes: Annotated[UpTo1024, "number of nodes that take part"] = 4
    rounds: Annotated[AtLeast0, "training rounds"] = 1000
    seed: Annotated[Unsigned32, "seed of everything that is drawn at random"] = 0
    checkpoint_every: Annotated[AtLeast1, "rounds between two checkpoints"] = 50
    evaluate_every: Annotated[AtLeast0, "rounds between two evaluations; 0 means only at the end"] = 50
    barrier_timeout_s: Annotated[
        Positive, "seconds a round waits for its in-neighbours before a node says so; without a controller, gives up"
    ] = 120.0
    evict_after_s: Annotated[Positive, "seconds of silence after which a member is taken for dead"] = 30.0
    straggler: Annotated[
        Literal["wait", "drop"], "what becomes of a member that answers and holds the others up for evict_after_s"
    ] = "wait"
    min_nodes: Annotated[UpTo1024, "members that must stay, whoever leaves or dies"] = 1
    window: Annotated[UpTo1024, "rounds a node may be ahead of an unacknowledged push"] = 8
    threads: Annotated[ThreadsOrAuto, "torch threads of one node; auto means one for each physical core"] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], "where a node trains; auto means cuda if there is one, else cpu"
    ] = "auto"


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is learned: data, model, optimiser. Whether a data set or model exists is asked later."""

    dataset: Annotated[Name, "name of the data set"] = "digits"
    data_dir: Annotated[Text, "folder of the data; empty means the default folder"] = ""
    classes: Annotated[Classes, "if given, the classes an imagefolder must have, the same on every node"] = ()
    model: Annotated[Name, "name of the model"] = "small-cnn"
    norm: Annotated[Literal["batch", "group"], "normalisation layers of the model"] = "group"
    skew: Annotated[Fraction, "share of the data that is dealt by label; the rest is dealt evenly"] = 0.0
    alpha: Annotated[PositiveOrUnset, "if set, deal by a Dirichlet distribution of this alpha, not by skew"] = None
    batch_size: Annotated[AtLeast1, "samples in one batch of one node"] = 32
    learning_rate: Annotated[Positive, "learning rate of SGD at the start"] = 0.1
    momentum: Annotated[FractionBelow1, "momentum of SGD"] = 0.9
    weight_decay: Annotated[NotNegative, "weight decay of SGD"] = 1e-4
    milestones: Annotated[Epochs, "epochs at which the learning rate is multiplied by decay"] = ()
    decay: Annotated[FractionAbove0, "factor of the learning rate at each milestone"] = 0.1
    warmup_epochs: Annotated[AtLeast0, "epochs in which the learning rate rises, linearly, to its start"] = 0
    augment: Annotated[bool, "whether training images are varied at random"] = False
    precision: Annotated[
        Literal["float32", "bfloat16"], "what layers compute in; parameters and gradients are float32"
    ] = "float32"


class Algorithm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the nodes agree, and what a push carries. Which compressors an algorithm takes is checked by `load`."""

    name: Annotated[
        Literal["sp", "scsp", "sgp", "quant-sgp", "d-psgd", "d2", "deep-squeeze", "choco-sgd", "skew-scout", "local"],
        "the algorithm; docs/algorithms.md describes them",
    ] = "scsp"
    compressor: Annotated[
        Literal["topk", "identity", "random", "rolling"],
        "what a push carries: the largest entries, all, all rounded at random, or one block of the model after another",
    ] = "topk"
    share: Annotated[
        FractionAbove0, "share of each tensor that topk keeps; of the model that a block of rolling is"
    ] = 0.01
    bits: Annotated[Literal[4, 2, 1], "bits of one value of the random compressor"] = 4
    values: Annotated[
        Literal["int8", "int4", "bfloat16", "float32"], "how values of topk, identity and rolling travel"
    ] = "int8"
    averaging_rate: Annotated[PositiveOrUnset, "the paper's η; unset means the algorithm's default"] = None
    gossip_rounds: Annotated[
        RoundsOrAuto, "rounds of SCSP's last phase; auto means as many as gossip_tolerance needs"
    ] = "auto"
    gossip_tolerance: Annotated[Positive, "share of the disagreement that may outlast the last phase"] = 1e-3
    gossip_graph: Annotated[
        Literal["plan", "exponential", "one-peer-exponential", "complete"],
        "graph of the last phase; plan means the run's own graphs",
    ] = "plan"
    travel_every: Annotated[AtLeast1, "rounds between two travels of skew-scout's models"] = 500
    tolerated_loss: Annotated[Fraction, "accuracy that a travelling model may lose with skew-scout"] = 0.05
    loss_weight: Annotated[NotNegative, "what skew-scout counts lost accuracy, against 1 for uncompressed messages"] = (
        50.0
    )

    @property
    def kept_share(self) -> float:
        """p, the share of what is exchanged that a message keeps; the averaging rate must match it."""
        if self.name == "local":
            return 0.0
        return {"topk": self.share, "identity": 1.0, "random": self.bits / 32, "rolling": 1.0}[self.compressor]

    @property
    def blocks(self) -> int:
        """Into how many blocks the model is cut, each exchanged in its turn."""
        return math.ceil(round(1 / self.share, 6)) if self.compressor == "rolling" else 1


# What each algorithm can send, the first if nobody says; and how values then travel.
_COMPRESSORS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "sp": (("topk", "identity", "random", "rolling"), "int8"),
    "scsp": (("topk", "identity", "random", "rolling"), "int8"),
    "sgp": (("identity",), "float32"),
    "quant-sgp": (("identity", "random", "topk"), "int8"),
    "d-psgd": (("identity",), "float32"),
    "d2": (("identity", "topk", "random"), "float32"),
    "deep-squeeze": (("topk", "identity", "random"), "int8"),
    "choco-sgd": (("topk", "identity", "random"), "int8"),
    "skew-scout": (("topk",), "int8"),
    "local": (("identity",), "float32"),
}
_ONLY = {
    "sgp": "it sends whole models; sp is the same with compression",
    "d-psgd": "it sends whole models; deep-squeeze is the same with compression",
    "skew-scout": "the share that topk keeps is what it chooses",
    "local": "it sends nothing",
}
_BY_DIFFERENCES = ("choco-sgd", "quant-sgp")  # no error is fed back there, so the kept share bounds nothing
_MAX_BLOCKS = 65536


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who pushes to whom, and when that changes. Whether a graph of that name exists is asked later."""

    graphs: Annotated[Names, "presets or edge-list files, used in turn"] = ("a",)
    every: Annotated[Period, "how long each graph is used before the next"] = "1ep"


class Every(msgspec.Struct, frozen=True):
    """A period, in rounds or in training epochs."""

    count: int
    unit: Literal["rounds", "epochs"]

    def rounds(self, rounds_per_epoch: int) -> int:
        return self.count * (rounds_per_epoch if self.unit == "epochs" else 1)

    def __str__(self) -> str:
        return f"{self.count}{'ep' if self.unit == 'epochs' else 'r'}"


class Key(NamedTuple):
    """One key of run.toml, as the documentation and the errors describe it."""

    type: Any
    default: object
    allowed: str
    meaning: str


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "run": Run,
    "task": Task,
    "algorithm": Algorithm,
    "topology": Topology,
}


def _key(field: msgspec.structs.FieldInfo) -> Key:
    base, *metas, meaning = get_args(field.type)
    allowed = next((meta.title for meta in metas), "true or false")
    if get_origin(base) is Literal:
        allowed = " or ".join(_toml(choice) for choice in get_args(base))
    return Key(field.type, field.default, allowed, meaning)


def _toml(value: object) -> str:
    # A JSON scalar or list is TOML too, once DEL is escaped; ASCII-only JSON is not (surrogate pairs).
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


KEYS: Mapping[str, Key] = {
    f"{section}.{field.name}": _key(field)
    for section, struct in SECTIONS.items()
    for field in msgspec.structs.fields(struct)
}

# May differ from node to node; everything else is in the digest.
LOCAL_KEYS = frozenset(
    {
        "run.threads",
        "run.device",
        "run.checkpoint_every",
        "run.barrier_timeout_s",
        "run.straggler",
        "task.data_dir",
    }
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run. Values are checked by `load`, not by this constructor."""

    run: Run = Run()
    task: Task = Task()
    algorithm: Algorithm = Algorithm()
    topology: Topology = Topology()

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values by section and key; lists stay tuples and unset stays None."""
        return {section: msgspec.structs.asdict(getattr(self, section)) for section in SECTIONS}

    def digest(self) -> str:
        """SHA-256, in hex, over what must be equal at every node: all but LOCAL_KEYS."""
        shared = {key: value for key, value in _values(self).items() if key not in LOCAL_KEYS}
        return hashlib.sha256(json.dumps(shared, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def warnings(self) -> list[str]:
        """What is allowed and yet probably not meant, one line each."""
        lines = []
        rate, kept = self.algorithm.averaging_rate, self.algorithm.kept_share
        if rate is not None and 0 < kept < rate and self.algorithm.name not in _BY_DIFFERENCES:
            lines.append(
                f"algorithm.averaging_rate = {rate:g} is above the kept share {kept:g}: "
                "the nodes' models may drift apart"
            )
        if self.task.alpha is not None and self.task.skew > 0:
            lines.append(f"task.skew = {self.task.skew:g} is not used, because task.alpha is set")
        return lines

    def to_toml(self) -> str:
        """A complete run.toml, each key under its meaning; `load` reads it back equal."""
        lines = ["# A run of edgenode, with every key. Flags and EDGENODE_* variables override it."]
        for section, values in self.as_dict().items():
            lines += ["", f"[{section}]"]
            for name, value in values.items():
                key = KEYS[f"{section}.{name}"]
                lines.append(f"# {key.meaning} ({key.allowed})")
                lines.append(f"# {name} is unset" if value is None else f"{name} = {_toml(value)}")
        return "\n".join(lines) + "\n"


class _Given(NamedTuple):
    """A value as somebody wrote it, and where."""

    source: str
    key: str
    value: object
    lax: bool  # text from a shell may stand for a number or a list; in a file it may not


def load(
    path: Path | None,
    overrides: Mapping[str, object] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """`overrides` (dotted keys, from flags) over EDGENODE_* variables over the file over defaults.

    Text in `overrides` may stand for a number or a list, as in a variable. Every given value is checked,
    also one that is overridden. Raises ConfigError.
    """
    sections: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    source_of = {}
    options = (_Given("command-line option", key, value, True) for key, value in overrides.items())
    for given in (*_from_file(path), *_from_environ(environ), *options):
        value = _checked(given)
        section, _, name = given.key.partition(".")
        sections[section][name] = value
        source_of[given.key] = given.source
    _choose_compressor(sections["algorithm"])
    config = msgspec.convert(sections, Config)
    _check_algorithm(config.algorithm, source_of)
    return config


def parse_every(value: str | int) -> Every:
    """`"6ep"`, `"100r"`, `"100"` or `100`. Raises ConfigError."""
    match = None if isinstance(value, bool) else re.fullmatch(r"([0-9]{1,9})(ep|r|)", str(value))
    if match is None or int(match[1]) == 0:
        raise ConfigError(_refusal("topology.every", value))
    return Every(int(match[1]), "epochs" if match[2] == "ep" else "rounds")


def _values(config: Config) -> dict[str, Any]:
    return {f"{section}.{name}": v for section, keys in config.as_dict().items() for name, v in keys.items()}


def _from_file(path: Path | None) -> Iterator[_Given]:
    for name, content in ({} if path is None else _read(path)).items():
        if name in SECTIONS and not isinstance(content, dict):
            raise _error(f"{path}: {name} = {_shown(content)}, but allowed is a section [{name}]")
        if name in SECTIONS:
            yield from (_Given(str(path), f"{name}.{key}", value, False) for key, value in content.items())
        else:
            raise _error(f"{path}: {_unknown(name, content)}")


def _read(path: Path) -> dict[str, Any]:
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
        return _converted(given, key)
    except (msgspec.ValidationError, ConfigError, ValueError, OverflowError) as exc:
        raise _error(f"{given.source}: {_refusal(given.key, given.value)}") from exc


def _converted(given: _Given, key: Key) -> object:
    value: Any = given.value
    if given.lax and isinstance(value, str):
        value = _from_text(value, key)
    if given.key == "topology.every" and isinstance(value, str | int):
        value = str(parse_every(value))  # 100, "100" and "100r" are one thing, and must have one digest
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
    if isinstance(key.default, tuple):
        return [item.strip() for item in text.split(",")] if text else []
    return text


def _choose_compressor(given: dict[str, object]) -> None:
    """Give an algorithm the compressor and the values that are usual for it, where nobody chose any."""
    (usual, *_), values = _COMPRESSORS[str(given.get("name", Algorithm().name))]
    given.setdefault("compressor", usual)
    given.setdefault("values", values)


def _check_algorithm(algorithm: Algorithm, source_of: Mapping[str, str]) -> None:
    """Refuse what makes no sense together; the key to blame is one that somebody wrote."""

    def refuse(key: str, allowed: str) -> ConfigError:
        source, value = source_of.get(f"algorithm.{key}", ""), _shown(getattr(algorithm, key))
        return _error(f"{source}: algorithm.{key} = {value}, but allowed {allowed}".removeprefix(": "))

    name, rate = algorithm.name, algorithm.averaging_rate
    allowed, values = _COMPRESSORS[name]
    if algorithm.compressor not in allowed:
        why = _ONLY.get(name, "no other algorithms than sp and scsp exchange blocks")
        raise refuse("compressor", f"with {name} is {' or '.join(map(_shown, allowed))}: {why}")
    if allowed == ("identity",) and algorithm.values != values:
        raise refuse("values", f"with {name} is {_shown(values)}: {_ONLY[name]}")
    if algorithm.blocks > _MAX_BLOCKS:
        raise refuse("share", f"with rolling is 1/{_MAX_BLOCKS} or more: every block has a weight of its own")
    if name == "skew-scout" and rate is not None:
        raise refuse("averaging_rate", "with skew-scout is unset: it follows the share")
    if rate is None or name == "local":
        return
    if rate > 1 and (name in (*_BY_DIFFERENCES, "d2") or algorithm.compressor == "rolling"):
        what = name if algorithm.compressor != "rolling" else "rolling"
        raise refuse("averaging_rate", f"with {what} is at most 1: training would diverge")
    if name not in _BY_DIFFERENCES:
        _check_averaging_rate(rate, algorithm.kept_share, source_of.get("algorithm.averaging_rate", ""))


def _check_averaging_rate(rate: float, kept: float, source: str) -> None:
    # The iteration diverges near rate / kept = 6 to 10; the last factor forgives the rounding of 5 * kept.
    if rate > 5 * kept * (1 + 1e-9):
        raise _error(
            f"{source}: algorithm.averaging_rate = {_shown(rate)}, but allowed is at most {5 * kept:g}, "
            f"five times the kept share {kept:g}: training would diverge"
        )


def _refusal(key: str, value: object) -> str:
    return f"{key} = {_shown(value)}, but allowed is {KEYS[key].allowed}"


def _unknown(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    # The right name in the wrong section is nearer than any similar spelling.
    same_name = [known for known in KEYS if known.endswith(f".{name}")]
    nearest = same_name or difflib.get_close_matches(key, [*KEYS, *SECTIONS], n=1, cutoff=0.0)
    return f"unknown key {key} = {_shown(value)}; the nearest is {nearest[0]}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(text: str) -> ConfigError:
    one_line = " ".join(text.splitlines())
    return ConfigError(one_line.encode("utf-8", "backslashreplace").decode())
