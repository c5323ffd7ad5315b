"""What is written reads back, what is wrong is named in one line, what must agree is in the digest."""

from __future__ import annotations

import os
import string
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode import config
from edgenode.config import KEYS, LOCAL_KEYS, Config, Every, load, parse_every
from edgenode.errors import ConfigError

DOC = Path(__file__).parents[2] / "docs" / "configuration.md"

# Another valid value for every key: the digest and precedence tests fail when a new key is missing here.
OTHER: dict[str, Any] = {
    "run.cluster": "lab-2", "run.nodes": 5, "run.rounds": 7, "run.seed": 1, "run.checkpoint_every": 3,
    "run.evaluate_every": 0, "run.barrier_timeout_s": 2.5, "run.evict_after_s": 7.5, "run.straggler": "drop",
    "run.min_nodes": 2,
    "run.window": 9, "run.threads": 2, "run.device": "cuda", "task.dataset": "cifar10", "task.data_dir": "/data",
    "task.classes": ("cat", "dog"),
    "task.model": "resnet20", "task.norm": "batch", "task.skew": 0.8, "task.alpha": 0.1, "task.batch_size": 16,
    "task.learning_rate": 0.2, "task.momentum": 0.0, "task.weight_decay": 0.0, "task.milestones": (10, 20),
    "task.decay": 0.5, "task.warmup_epochs": 1, "task.augment": True,
    "task.precision": "bfloat16",
    "algorithm.name": "sp", "algorithm.compressor": "identity",
    "algorithm.share": 0.1, "algorithm.bits": 2, "algorithm.values": "float32",
    "algorithm.averaging_rate": 0.004, "algorithm.gossip_rounds": 40, "algorithm.gossip_tolerance": 0.01,
    "algorithm.gossip_graph": "complete", "algorithm.travel_every": 100, "algorithm.tolerated_loss": 0.1,
    "algorithm.loss_weight": 10.0, "topology.graphs": ("a", "graphs/ring.edges"),
    "topology.every": "100r",
}  # fmt: skip


def value_of(loaded: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return loaded.as_dict()[section][name]


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def message_of(path: Path | None, overrides: dict[str, object], environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, environ)
    return str(caught.value)


# Round trips

any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "run.cluster": st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=40),
    "run.nodes": st.integers(1, 1024),
    "run.rounds": st.integers(min_value=0),
    "run.seed": st.integers(0, 2**32 - 1),
    "run.barrier_timeout_s": positive,
    "run.evict_after_s": positive,
    "run.straggler": st.sampled_from(["wait", "drop"]),
    "run.min_nodes": st.integers(1, 1024),
    "task.dataset": any_text,
    "task.data_dir": st.just("") | any_text,
    "task.classes": st.lists(any_text).map(tuple),
    "task.skew": st.floats(0, 1),
    "task.alpha": st.none() | positive,
    "task.milestones": st.sets(st.integers(1, 10**6)).map(lambda epochs: tuple(sorted(epochs))),
    "task.warmup_epochs": st.integers(0, 9),
    "task.augment": st.booleans(),
    "algorithm.averaging_rate": st.none() | st.floats(0, 0.05, exclude_min=True),
    "algorithm.gossip_rounds": st.just("auto") | st.integers(min_value=0),
    "algorithm.bits": st.sampled_from([4, 2, 1]),
    "topology.graphs": st.lists(any_text, min_size=1).map(tuple),
    "topology.every": st.builds("{}{}".format, st.integers(1, 10**9 - 1), st.sampled_from(["ep", "r"])),
}


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=STRATEGIES))
def test_what_is_written_loads_back_equal(values: dict[str, Any]) -> None:
    before = load(None, values, {})
    assert {key: value_of(before, key) for key in values} == values
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), before.to_toml())
        after = load(path, {}, {})
    assert after == before
    assert after.digest() == before.digest()


def test_every_other_value_loads_back_equal(tmp_path: Path) -> None:
    before = load(None, OTHER, {})
    assert load(written(tmp_path, before.to_toml()), {}, {}) == before


def test_the_written_file_names_every_key() -> None:
    lines = Config().to_toml().splitlines()
    assert "rounds = 1000" in lines
    assert "# alpha is unset" in lines
    names = [line.removeprefix("# ").split(" ")[0] for line in lines if " = " in line or "is unset" in line]
    assert names == [key.partition(".")[2] for key in KEYS]


# Where a value comes from


def test_nothing_given_means_the_defaults() -> None:
    assert load(None, {}, {}) == Config()


def test_options_override_variables_which_override_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nnodes = 2\nrounds = 2\nseed = 2\n")
    environ = {"EDGENODE_RUN_ROUNDS": "3", "EDGENODE_RUN_SEED": "3"}
    run = load(path, {"run.seed": 4}, environ).run
    assert (run.nodes, run.rounds, run.seed, run.window) == (2, 3, 4, 8)


@pytest.mark.parametrize("key", KEYS)
def test_a_variable_and_a_text_option_can_set_every_key(key: str) -> None:
    other = OTHER[key]
    text = ", ".join(map(str, other)) if isinstance(other, tuple) else str(other).replace("True", "true")
    section, _, name = key.partition(".")
    environ = {f"EDGENODE_{section}_{name}".upper(): text}
    assert value_of(load(None, {}, environ), key) == other
    assert value_of(load(None, {key: text}, {}), key) == other
    assert value_of(load(None, {key: other}, {}), key) == other


def test_none_as_text_unsets_what_the_file_set(tmp_path: Path) -> None:
    path = written(tmp_path, "[task]\nalpha = 0.5\nmilestones = [3]\n")
    environ = {"EDGENODE_TASK_ALPHA": "none", "EDGENODE_TASK_MILESTONES": ""}
    assert load(path, {}, environ).task == Config().task
    assert load(path, {"task.alpha": None}, {}).task.alpha is None


def test_other_variables_are_left_to_the_command_line() -> None:
    assert load(None, {}, {"EDGENODE_LISTEN": "x", "EDGENODE_STATE_DIR": "x", "RUN_NODES": "x"}) == Config()


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENODE_RUN_NODES", "6")
    assert load(None).run.nodes == 6


def test_whole_numbers_may_stand_for_floats_and_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf[task]\r\nlearning_rate = 1\r\n")
    learning_rate = load(path, {}, {}).task.learning_rate
    assert (learning_rate, type(learning_rate)) == (1.0, float)


# Errors

FILE_ERRORS = [
    ("[run]\nnodes = 0", "run.nodes = 0, but allowed is a whole number from 1 to 1024"),
    ("[run]\nnodes = 1025", "run.nodes = 1025, but allowed is a whole number from 1 to 1024"),
    ("[run]\nnodes = true", "run.nodes = true, but allowed is a whole number from 1 to 1024"),
    ('[run]\nnodes = "4"', 'run.nodes = "4", but allowed is a whole number from 1 to 1024'),
    ("[run.nodes]\nx = 1", 'run.nodes = {"x": 1}, but allowed is a whole number from 1 to 1024'),
    ("[run]\nrounds = -1", "run.rounds = -1, but allowed is a whole number, 0 or more"),
    ("[run]\nrounds = 1979-05-27", 'run.rounds = "1979-05-27", but allowed is a whole number, 0 or more'),
    ("[run]\nseed = 4294967296", "run.seed = 4294967296, but allowed is a whole number from 0 to 4294967295"),
    ("[run]\ncheckpoint_every = 0", "run.checkpoint_every = 0, but allowed is a whole number, 1 or more"),
    ("[run]\nbarrier_timeout_s = 0", "run.barrier_timeout_s = 0, but allowed is a number above 0"),
    ("[run]\nbarrier_timeout_s = inf", "run.barrier_timeout_s = Infinity, but allowed is a number above 0"),
    ('[run]\ncluster = "a b"', 'run.cluster = "a b", but allowed is 1 to 40 letters, digits or -_.'),
    ('[run]\ncluster = "a\\n"', 'run.cluster = "a\\n", but allowed is 1 to 40 letters, digits or -_.'),
    ('[run]\ndevice = "tpu"', 'run.device = "tpu", but allowed is "auto" or "cpu" or "cuda" or "mps"'),
    ('[task]\ndataset = ""', 'task.dataset = "", but allowed is text that is not empty'),
    ("[task]\ndata_dir = 1", "task.data_dir = 1, but allowed is text"),
    ("[task]\nskew = 1.5", "task.skew = 1.5, but allowed is a number from 0 to 1"),
    ("[task]\nskew = nan", "task.skew = NaN, but allowed is a number from 0 to 1"),
    ("[task]\nalpha = 0", "task.alpha = 0, but allowed is a number above 0, or unset"),
    ("[task]\nmomentum = 1", "task.momentum = 1, but allowed is a number from 0 to 1, without 1"),
    ("[task]\nweight_decay = -1.0", "task.weight_decay = -1.0, but allowed is a number, 0 or more"),
    (
        "[task]\nmilestones = [20, 10]",
        "task.milestones = [20, 10], but allowed is a list of increasing whole numbers, 1 or more",
    ),
    ("[task]\naugment = 1", "task.augment = 1, but allowed is true or false"),
    ("[algorithm]\nshare = 0", "algorithm.share = 0, but allowed is a number above 0, at most 1"),
    ("[algorithm]\nbits = 3", "algorithm.bits = 3, but allowed is 4 or 2 or 1"),
    (
        '[algorithm]\nname = "SP"',
        'algorithm.name = "SP", but allowed is "sp" or "scsp" or "sgp" or "quant-sgp" or "d-psgd" or "d2" or '
        '"deep-squeeze" or "choco-sgd" or "skew-scout" or "local"',
    ),
    (
        '[algorithm]\ngossip_rounds = "all"',
        'algorithm.gossip_rounds = "all", but allowed is a whole number, 0 or more, or "auto"',
    ),
    ("[topology]\ngraphs = []", "topology.graphs = [], but allowed is a list of one or more names or paths"),
    (
        '[topology]\nevery = "0ep"',
        'topology.every = "0ep", but allowed is training epochs as "6ep", or rounds as "100r" or 100',
    ),
    (
        "[topology]\nevery = 1.5",
        'topology.every = 1.5, but allowed is training epochs as "6ep", or rounds as "100r" or 100',
    ),
    (
        "[algorithm]\naveraging_rate = 0.06",
        "algorithm.averaging_rate = 0.06, but allowed is at most 0.05, five times the kept share 0.01: "
        "training would diverge",
    ),
    (
        '[algorithm]\ncompressor = "random"\nbits = 1\naveraging_rate = 0.2',
        "algorithm.averaging_rate = 0.2, but allowed is at most 0.15625, five times the kept share 0.03125: "
        "training would diverge",
    ),
    ("[run]\nnode = 3", "unknown key run.node = 3; the nearest is run.nodes"),
    ("[run]\nlearning_rate = 3", "unknown key run.learning_rate = 3; the nearest is task.learning_rate"),
    ("[run]\n'no\u2028de' = 3", "unknown key run.no de = 3; the nearest is run.nodes"),
    ("rounds = 3", "unknown key rounds = 3; the nearest is run.rounds"),
    ("[algoritm]\nshare = 1", 'unknown key algoritm = {"share": 1}; the nearest is algorithm'),
    (
        f"[run]\nnodes = '{'x' * 100}'",
        f'run.nodes = "{"x" * 76}..., but allowed is a whole number from 1 to 1024',
    ),
    ("run = 3", "run = 3, but allowed is a section [run]"),
    ("[run]\nnodes = \n", "not valid TOML: Invalid value (at line 2, column 9)"),
    ("[run]\nnodes = ", "not valid TOML: Invalid value (at line 2, the last)"),
    (b"\xff", "not valid TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
]


@pytest.mark.parametrize(("text", "expected"), FILE_ERRORS)
def test_an_error_in_the_file_is_one_whole_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    path = written(tmp_path, text)
    assert message_of(path, {}, {}) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RUN_NODES", "many", 'run.nodes = "many", but allowed is a whole number from 1 to 1024'),
        ("RUN_NODE", "3", 'unknown key run.node = "3"; the nearest is run.nodes'),
        ("TASK_AUGMENT", "yes", 'task.augment = "yes", but allowed is true or false'),
        ("TASK_DATA_DIR", "\udcff", r'task.data_dir = "\udcff", but allowed is text'),
        ("TASK_SKEW", "nan", 'task.skew = "nan", but allowed is a number from 0 to 1'),
        ("TASK_LEARNING_RATE", "inf", 'task.learning_rate = "inf", but allowed is a number above 0'),
        ("TASK_BATCH_SIZE", "none", 'task.batch_size = "none", but allowed is a whole number, 1 or more'),
        ("TOPOLOGY_GRAPHS", "", 'topology.graphs = "", but allowed is a list of one or more names or paths'),
        (
            "ALGORITHM_AVERAGING_RATE",
            "0.06",
            "algorithm.averaging_rate = 0.06, but allowed is at most 0.05, five times the kept share 0.01: "
            "training would diverge",
        ),
    ],
)
def test_an_error_in_a_variable_names_the_variable(variable: str, value: str, expected: str) -> None:
    environ = {f"EDGENODE_{variable}": value}
    assert message_of(None, {}, environ) == f"environment variable EDGENODE_{variable}: {expected}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("run.nodes", 0, "run.nodes = 0, but allowed is a whole number from 1 to 1024"),
        ("run.nodes", None, "run.nodes = null, but allowed is a whole number from 1 to 1024"),
        ("run.nodse", 4, "unknown key run.nodse = 4; the nearest is run.nodes"),
        ("nodes", 4, "unknown key nodes = 4; the nearest is run.nodes"),
        ("task.decay", 10**400, None),
    ],
)
def test_an_error_in_an_option_says_so(key: str, value: object, expected: str | None) -> None:
    zeros = "0" * 76
    expected = expected or f"task.decay = 1{zeros}..., but allowed is a number above 0, at most 1"
    assert message_of(None, {key: value}, {}) == f"command-line option: {expected}"


def test_a_wrong_value_is_refused_even_where_it_is_overridden(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nnodes = 0")
    assert message_of(path, {"run.nodes": 4}, {}).startswith(f"{path}: run.nodes = 0")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    assert message_of(path, {}, {}) == f"{path}: cannot be read: {os.strerror(2)}"


# Algorithms


@pytest.mark.parametrize(
    ("name", "compressor", "values"),
    [
        ("sp", "topk", "int8"),
        ("scsp", "topk", "int8"),
        ("sgp", "identity", "float32"),
        ("quant-sgp", "identity", "int8"),
        ("d-psgd", "identity", "float32"),
        ("d2", "identity", "float32"),
        ("deep-squeeze", "topk", "int8"),
        ("choco-sgd", "topk", "int8"),
        ("skew-scout", "topk", "int8"),
        ("local", "identity", "float32"),
    ],
)
def test_every_algorithm_has_a_compressor_that_is_usual_for_it(name: str, compressor: str, values: str) -> None:
    loaded = load(None, {"algorithm.name": name}, {})
    assert (loaded.algorithm.compressor, loaded.algorithm.values) == (compressor, values)
    assert load(None, {"algorithm.name": name, "algorithm.compressor": compressor}, {}) == loaded


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (
            {"name": "sgp", "compressor": "topk"},
            'algorithm.compressor = "topk", but allowed with sgp is "identity": it sends whole models; sp is the same '
            "with compression",
        ),
        (
            {"name": "d-psgd", "compressor": "random"},
            'algorithm.compressor = "random", but allowed with d-psgd is "identity": it sends whole models; '
            "deep-squeeze is the same with compression",
        ),
        (
            {"name": "sgp", "values": "int8"},
            'algorithm.values = "int8", but allowed with sgp is "float32": it sends whole models; sp is the same with '
            "compression",
        ),
        (
            {"name": "local", "compressor": "topk"},
            'algorithm.compressor = "topk", but allowed with local is "identity": it sends nothing',
        ),
        (
            {"name": "choco-sgd", "compressor": "rolling"},
            'algorithm.compressor = "rolling", but allowed with choco-sgd is "topk" or "identity" or "random": '
            "no other algorithms than sp and scsp exchange blocks",
        ),
        (
            {"name": "skew-scout", "compressor": "identity"},
            'algorithm.compressor = "identity", but allowed with skew-scout is "topk": the share that topk keeps is '
            "what it chooses",
        ),
        (
            {"name": "skew-scout", "averaging_rate": 0.01},
            "algorithm.averaging_rate = 0.01, but allowed with skew-scout is unset: it follows the share",
        ),
        (
            {"compressor": "rolling", "share": 1e-5},
            "algorithm.share = 1e-05, but allowed with rolling is 1/65536 or more: every block has a weight of its own",
        ),
        (
            {"compressor": "rolling", "averaging_rate": 1.5},
            "algorithm.averaging_rate = 1.5, but allowed with rolling is at most 1: training would diverge",
        ),
        (
            {"name": "choco-sgd", "averaging_rate": 1.5},
            "algorithm.averaging_rate = 1.5, but allowed with choco-sgd is at most 1: training would diverge",
        ),
        (
            {"name": "d2", "averaging_rate": 1.5},
            "algorithm.averaging_rate = 1.5, but allowed with d2 is at most 1: training would diverge",
        ),
        (
            {"name": "deep-squeeze", "averaging_rate": 0.06},
            "algorithm.averaging_rate = 0.06, but allowed is at most 0.05, five times the kept share 0.01: "
            "training would diverge",
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused_with_the_reason(algorithm: dict[str, object], text: str) -> None:
    overrides = {f"algorithm.{key}": value for key, value in algorithm.items()}
    assert message_of(None, overrides, {}) == f"command-line option: {text}"


@pytest.mark.parametrize(
    ("share", "blocks"), [(1.0, 1), (0.99, 2), (0.5, 2), (0.3, 4), (0.1, 10), (0.001, 1000), (1 / 3, 3), (0.07, 15)]
)
def test_blocks_are_as_large_as_the_share_or_a_little_smaller(share: float, blocks: int) -> None:
    algorithm = load(None, {"algorithm.compressor": "rolling", "algorithm.share": share}, {}).algorithm
    assert algorithm.blocks == blocks
    assert load(None, {"algorithm.share": share}, {}).algorithm.blocks == 1


# Warnings


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"algorithm.averaging_rate": 0.01}, []),
        (
            {"algorithm.averaging_rate": 0.05},
            ["algorithm.averaging_rate = 0.05 is above the kept share 0.01: the nodes' models may drift apart"],
        ),
        ({"algorithm.averaging_rate": 1.0, "algorithm.compressor": "identity"}, []),
        ({"algorithm.averaging_rate": 9.0, "algorithm.name": "local"}, []),
        ({"algorithm.averaging_rate": 0.04, "algorithm.name": "choco-sgd"}, []),
        (
            {"task.alpha": 0.1, "task.skew": 0.8},
            ["task.skew = 0.8 is not used, because task.alpha is set"],
        ),
    ],
)
def test_warnings(values: dict[str, object], expected: list[str]) -> None:
    assert load(None, values, {}).warnings() == expected


@pytest.mark.parametrize("share", [count / 1000 for count in range(1, 201)])
def test_exactly_five_times_the_kept_share_is_allowed(share: float) -> None:
    load(None, {"algorithm.share": share, "algorithm.averaging_rate": round(5 * share, 6)}, {})


@pytest.mark.parametrize(
    ("compressor", "kept"), [("topk", 0.01), ("identity", 1.0), ("random", 0.125), ("rolling", 1.0)]
)
def test_the_kept_share_of_each_compressor(compressor: str, kept: float) -> None:
    assert load(None, {"algorithm.compressor": compressor}, {}).algorithm.kept_share == kept


def test_without_communication_nothing_is_kept() -> None:
    assert load(None, {"algorithm.name": "local"}, {}).algorithm.kept_share == 0


# Digest


@pytest.mark.parametrize("key", KEYS)
def test_the_digest_covers_all_but_the_local_keys(key: str) -> None:
    changed = load(None, {key: OTHER[key]}, {})
    assert changed != Config()
    assert (changed.digest() == Config().digest()) == (key in LOCAL_KEYS)


def test_the_local_keys() -> None:
    expected = "run.threads run.device run.checkpoint_every run.barrier_timeout_s run.straggler task.data_dir"
    assert set(expected.split()) == LOCAL_KEYS


def test_the_digest_is_hex_and_blind_to_spelling() -> None:
    digests = {load(None, {"topology.every": every}, {}).digest() for every in (100, "100", "100r")}
    assert len(digests) == 1
    assert set(digests.pop()) <= set(string.hexdigits)


# Every


@pytest.mark.parametrize(
    ("text", "every", "rounds"),
    [("1ep", Every(1, "epochs"), 30), ("6ep", Every(6, "epochs"), 180), (7, Every(7, "rounds"), 7)],
)
def test_every(text: str | int, every: Every, rounds: int) -> None:
    assert parse_every(text) == every == parse_every(str(every))
    assert every.rounds(30) == rounds


@pytest.mark.parametrize("wrong", ["", "ep", "0", 0, -1, True, "1 ep", "1.5ep", "1e", "٣ep", "9" * 10])
def test_every_refuses(wrong: str | int) -> None:
    with pytest.raises(ConfigError, match=r"topology\.every = .*, but allowed is "):
        parse_every(wrong)


# The house


def test_the_documentation_lists_every_key_with_its_default_and_meaning() -> None:
    rows = [line for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows == [row(*key) for key in KEYS.items()]


def row(key: str, described: config.Key) -> str:
    cells = (f"`{key.partition('.')[2]}`", default(described.default), described.allowed, described.meaning)
    return f"| {' | '.join(cells)} |"


def default(value: object) -> str:
    return "unset" if value is None else f"`{config._toml(value)}`"


def test_the_example_in_the_documentation_loads_without_a_warning(tmp_path: Path) -> None:
    example = DOC.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    loaded = load(written(tmp_path, example), {}, {})
    assert loaded != Config()
    assert loaded.warnings() == []


def test_importing_it_loads_no_heavy_module() -> None:
    code = "import sys, edgenode.config; print({'torch', 'numpy', 'grpc', 'networkx'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
