"""Values come from the strongest source, are read back equal, and are refused in one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode import names
from edgenode.config.load import load
from edgenode.config.recipes import OPTIMISER, RECIPES
from edgenode.config.schema import KEYS, Config
from edgenode.errors import ConfigError
from tests.config.values import OTHER, value_of


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
    "run.cluster": st.from_regex(names.PATTERN),
    "run.nodes": st.integers(1, 1024),
    "run.rounds": st.integers(min_value=1),
    "run.seed": st.integers(0, 2**32 - 1),
    "run.barrier_timeout_s": positive,
    "run.evict_after_s": positive,
    "run.straggler": st.sampled_from(["wait", "drop"]),
    "run.min_nodes": st.integers(1, 1024),
    "task.dataset": any_text,
    "task.data_dir": st.just("") | any_text,
    "task.classes": st.lists(any_text).map(tuple),
    "task.shared": st.lists(any_text).map(tuple),
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


@pytest.mark.parametrize("examples", [30, pytest.param(100, marks=pytest.mark.slow)])
def test_written_config_loads_back_equal(examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.fixed_dictionaries({}, optional=STRATEGIES))
    def check(values: dict[str, Any]) -> None:
        before = load(None, values, {})
        assert {key: value_of(before, key) for key in values} == values
        with tempfile.TemporaryDirectory() as folder:
            path = written(Path(folder), before.to_toml())
            after = load(path, {}, {})
        assert after == before
        assert after.digest() == before.digest()

    check()


@pytest.mark.parametrize("private", [False, True])
def test_written_config_with_no_default_loads_back_equal(tmp_path: Path, private: bool) -> None:
    """[privacy] allows few of the other values."""
    before = load(None, {key: value for key, value in OTHER.items() if key.startswith("privacy.") == private}, {})
    assert load(written(tmp_path, before.to_toml()), {}, {}) == before


# Where a value comes from


def test_load_without_sources_gives_the_defaults() -> None:
    assert load(None, {}, {}) == Config()


def test_options_override_variables_which_override_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nnodes = 2\nrounds = 2\nseed = 2\n")
    environ = {"EDGENODE_RUN_ROUNDS": "3", "EDGENODE_RUN_SEED": "3"}
    run = load(path, {"run.seed": 4}, environ).run
    assert (run.nodes, run.rounds, run.seed, run.window) == (2, 3, 4, 8)


@pytest.mark.parametrize("key", KEYS)
def test_variable_and_option_can_set_every_key(key: str) -> None:
    other = OTHER[key]
    text = ", ".join(map(str, other)) if isinstance(other, tuple) else str(other).replace("True", "true")
    text = json.dumps(other) if isinstance(other, dict) else text
    section, _, name = key.partition(".")
    environ = {f"EDGENODE_{section}_{name}".upper(): text}
    assert value_of(load(None, {}, environ), key) == other
    assert value_of(load(None, {key: text}, {}), key) == other
    assert value_of(load(None, {key: other}, {}), key) == other


@pytest.mark.parametrize(
    ("text", "graphs"),
    [
        ("a,b", ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("['a']", ("a",)),
        ('["a,b",]', ("a,b",)),
        (" a , b", ("a", "b")),
    ],
)
def test_text_of_a_list_is_names_with_commas_or_toml(text: str, graphs: tuple[str, ...]) -> None:
    assert load(None, {"topology.graphs": text}, {}).topology.graphs == graphs
    assert load(None, {}, {"EDGENODE_TOPOLOGY_GRAPHS": text}).topology.graphs == graphs


@pytest.mark.parametrize("text", ["[a]", '["a"', "[1]", "[]"])
def test_text_that_is_no_toml_list_is_refused(text: str) -> None:
    said = f"topology.graphs = {json.dumps(text)}, but it must be a list of one or more names or paths"
    assert message_of(None, {"topology.graphs": text}, {}) == f"command-line option: {said}"


def test_single_options_of_a_task_override_the_table(tmp_path: Path) -> None:
    path = written(tmp_path, "[task.options]\nwidth = 16\nname = 'small'\n")
    assert load(path, {}, {}).task.options == {"width": 16, "name": "small"}
    overrides = {"task.options.width": "32", "task.options.note": "a b", "task.options.deep": "true"}
    expected = {"width": 32, "name": "small", "note": "a b", "deep": True}
    assert load(path, overrides, {}).task.options == expected
    with pytest.raises(ConfigError, match=r"^command-line option: task\.options = .*but it must be a table of numbers"):
        load(path, {"task.options.width": '{"a": {}}'}, {})


def test_recipe_sets_keys_that_are_not_given() -> None:
    config = load(None, {"run.recipe": "recommended", "algorithm.share": 0.01}, {})
    keys = config.as_keys()
    expected = {**RECIPES["recommended"], "algorithm.share": 0.01}
    assert {key: keys[key] for key in expected} == expected
    assert config.as_keys() == {**load(None, expected, {}).as_keys(), "run.recipe": "recommended"}


@pytest.mark.parametrize("key", sorted(OPTIMISER))
def test_recipe_keeps_an_optimiser_of_which_a_key_is_given(key: str) -> None:
    value = load(None, {}, {}).as_keys()[key]
    keys = load(None, {"run.recipe": "recommended", key: value}, {}).as_keys()
    assert {key: keys[key] for key in OPTIMISER} == {key: load(None, {}, {}).as_keys()[key] for key in OPTIMISER}
    assert keys["algorithm.compressor"] == "rolling"


def test_error_about_a_key_of_a_recipe_names_the_recipe() -> None:
    with pytest.raises(
        ConfigError, match=r'^run\.recipe = "recommended": algorithm\.compressor = "rolling", but with d2'
    ):
        load(None, {"run.recipe": "recommended", "algorithm.name": "d2"}, {})


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_used(name: str) -> None:
    assert load(None, {"run.recipe": name}, {}).run.recipe == name


def test_none_as_text_unsets_what_the_file_set(tmp_path: Path) -> None:
    path = written(tmp_path, "[task]\nalpha = 0.5\nmilestones = [3]\n")
    environ = {"EDGENODE_TASK_ALPHA": "none", "EDGENODE_TASK_MILESTONES": ""}
    assert load(path, {}, environ).task == Config().task
    assert load(path, {"task.alpha": None}, {}).task.alpha is None


def test_variables_of_the_command_line_are_ignored() -> None:
    assert load(None, {}, {"EDGENODE_LISTEN": "x", "EDGENODE_STATE_DIR": "x", "RUN_NODES": "x"}) == Config()


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGENODE_RUN_NODES", "6")
    assert load(None).run.nodes == 6


def test_file_may_have_integers_for_floats_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf[task]\r\nlearning_rate = 1\r\n")
    learning_rate = load(path, {}, {}).task.learning_rate
    assert (learning_rate, type(learning_rate)) == (1.0, float)


# Errors

FILE_ERRORS = [
    ("[run]\nnodes = 0", "run.nodes = 0, but it must be a whole number from 1 to 16384"),
    ("[run]\nnodes = 16385", "run.nodes = 16385, but it must be a whole number from 1 to 16384"),
    ("[run]\nnodes = true", "run.nodes = true, but it must be a whole number from 1 to 16384"),
    ('[run]\nnodes = "4"', 'run.nodes = "4", but it must be a whole number from 1 to 16384'),
    ("[run.nodes]\nx = 1", 'run.nodes = {"x": 1}, but it must be a whole number from 1 to 16384'),
    ("[run]\nrounds = -1", "run.rounds = -1, but it must be a whole number, 1 or more"),
    ("[run]\nrounds = 0", "run.rounds = 0, but it must be a whole number, 1 or more"),
    ("[run]\nrounds = 1979-05-27", 'run.rounds = "1979-05-27", but it must be a whole number, 1 or more'),
    ("[run]\nseed = 4294967296", "run.seed = 4294967296, but it must be a whole number from 0 to 4294967295"),
    ("[run]\ncheckpoint_every = 0", "run.checkpoint_every = 0, but it must be a whole number, 1 or more"),
    ("[run]\nbarrier_timeout_s = 0", "run.barrier_timeout_s = 0, but it must be a number above 0"),
    ("[run]\nbarrier_timeout_s = inf", "run.barrier_timeout_s = Infinity, but it must be a number above 0"),
    ('[run]\ncluster = "a b"', f'run.cluster = "a b", but it must be {names.RULE}'),
    ('[run]\ncluster = "a\\n"', f'run.cluster = "a\\n", but it must be {names.RULE}'),
    ('[run]\ncluster = "../x"', f'run.cluster = "../x", but it must be {names.RULE}'),
    ('[run]\ndevice = "tpu"', 'run.device = "tpu", but it must be "auto", "cpu", "cuda" or "mps"'),
    ('[task]\ndataset = ""', 'task.dataset = "", but it must be text that is not empty'),
    ("[task]\ndata_dir = 1", "task.data_dir = 1, but it must be text"),
    ("[task]\nskew = 1.5", "task.skew = 1.5, but it must be a number from 0 to 1"),
    ("[task]\nskew = nan", "task.skew = NaN, but it must be a number from 0 to 1"),
    ("[task]\nvalidation = 1", "task.validation = 1, but it must be a number from 0 to below 1"),
    ("[task]\nalpha = 0", "task.alpha = 0, but it must be a number above 0, or unset"),
    ("[task]\nmomentum = 1", "task.momentum = 1, but it must be a number from 0 to below 1"),
    ("[task]\nweight_decay = -1.0", "task.weight_decay = -1.0, but it must be a number, 0 or more"),
    (
        "[task]\nmilestones = [20, 10]",
        "task.milestones = [20, 10], but it must be a list of increasing whole numbers, 1 or more",
    ),
    ("[task]\naugment = 1", "task.augment = 1, but it must be true or false"),
    ("[algorithm]\nshare = 0", "algorithm.share = 0, but it must be a number above 0 and at most 1"),
    ("[algorithm]\nbits = 3", "algorithm.bits = 3, but it must be 4, 2 or 1"),
    (
        '[algorithm]\nname = "SP"',
        'algorithm.name = "SP", but it must be "sp", "scsp", "sgp", "quant-sgp", "d-psgd", "d2", '
        '"deep-squeeze", "choco-sgd", "diloco", "masked-diloco", "local", "attacked", "choco-jwins", "dsgt", "gut", '
        '"mt", "noloco", "qg-dsgdm", "qg-dsgdm-n", "skew-scout", "sparse-loco" or "sparta"; did you mean "sp"?',
    ),
    (
        '[algorithm]\ngossip_rounds = "all"',
        'algorithm.gossip_rounds = "all", but it must be a whole number, 0 or more, or "auto"',
    ),
    ("[topology]\ngraphs = []", "topology.graphs = [], but it must be a list of one or more names or paths"),
    (
        '[topology]\nevery = "0ep"',
        'topology.every = "0ep", but it must be epochs, as in "6ep", or rounds, as in "100r" or 100',
    ),
    (
        "[topology]\nevery = 1.5",
        'topology.every = 1.5, but it must be epochs, as in "6ep", or rounds, as in "100r" or 100',
    ),
    (
        "[algorithm]\naveraging_rate = 0.06",
        "algorithm.averaging_rate = 0.06, but it must be at most 0.05, five times the kept share 0.01: "
        "training would diverge",
    ),
    (
        '[algorithm]\ncompressor = "random"\nbits = 1\naveraging_rate = 0.2',
        "algorithm.averaging_rate = 0.2, but it must be at most 0.15625, five times the kept share 0.03125: "
        "training would diverge",
    ),
    ("[run]\nnode = 3", "unknown key run.node = 3; did you mean run.nodes?"),
    ("[run]\nlearning_rate = 3", "unknown key run.learning_rate = 3; did you mean task.learning_rate?"),
    ("[run]\n'no\u2028de' = 3", "unknown key run.no de = 3; did you mean run.nodes?"),
    ("rounds = 3", "unknown key rounds = 3; did you mean run.rounds?"),
    ("[algoritm]\nshare = 1", 'unknown key algoritm = {"share": 1}; did you mean algorithm?'),
    (
        f"[run]\nnodes = '{'x' * 100}'",
        f'run.nodes = "{"x" * 76}..., but it must be a whole number from 1 to 16384',
    ),
    ("run = 3", "run = 3, but it must be a section [run]"),
    ("[run]\nnodes = \n", "not valid TOML: Invalid value (at line 2, column 9)"),
    ("[run]\nnodes = ", "not valid TOML: Invalid value (at line 2, the last)"),
    (b"\xff", "not valid TOML: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
]


@pytest.mark.parametrize(("text", "expected"), FILE_ERRORS)
def test_error_in_the_file_is_one_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    path = written(tmp_path, text)
    assert message_of(path, {}, {}) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("RUN_NODES", "many", 'run.nodes = "many", but it must be a whole number from 1 to 16384'),
        ("RUN_NODE", "3", 'unknown key run.node = "3"; did you mean run.nodes?'),
        ("TASK_AUGMENT", "yes", 'task.augment = "yes", but it must be true or false'),
        ("TASK_DATA_DIR", "\udcff", r'task.data_dir = "\udcff", but it must be text'),
        ("TASK_SKEW", "nan", 'task.skew = "nan", but it must be a number from 0 to 1'),
        ("TASK_LEARNING_RATE", "inf", 'task.learning_rate = "inf", but it must be a number above 0'),
        ("TASK_BATCH_SIZE", "none", 'task.batch_size = "none", but it must be a whole number, 1 or more'),
        ("TOPOLOGY_GRAPHS", "", 'topology.graphs = "", but it must be a list of one or more names or paths'),
        (
            "ALGORITHM_AVERAGING_RATE",
            "0.06",
            "algorithm.averaging_rate = 0.06, but it must be at most 0.05, five times the kept share 0.01: "
            "training would diverge",
        ),
    ],
)
def test_error_in_a_variable_names_the_variable(variable: str, value: str, expected: str) -> None:
    environ = {f"EDGENODE_{variable}": value}
    assert message_of(None, {}, environ) == f"environment variable EDGENODE_{variable}: {expected}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("run.nodes", 0, "run.nodes = 0, but it must be a whole number from 1 to 16384"),
        ("run.nodes", None, "run.nodes = null, but it must be a whole number from 1 to 16384"),
        ("run.nodse", 4, "unknown key run.nodse = 4; did you mean run.nodes?"),
        ("nodes", 4, "unknown key nodes = 4; did you mean run.nodes?"),
        ("task.decay", 10**400, None),
    ],
)
def test_error_in_an_option_names_the_command_line(key: str, value: object, expected: str | None) -> None:
    zeros = "0" * 76
    expected = expected or f"task.decay = 1{zeros}..., but it must be a number above 0 and at most 1"
    assert message_of(None, {key: value}, {}) == f"command-line option: {expected}"


@pytest.mark.parametrize("wrong", ["", "ep", "0", 0, -1, True, "1 ep", "1.5ep", "1e", "٣ep", "9" * 10])
def test_text_that_is_not_a_period_is_refused(wrong: str | int) -> None:
    expected = 'but it must be epochs, as in "6ep", or rounds, as in "100r" or 100'
    message = message_of(None, {"topology.every": wrong}, {})
    assert message == f"command-line option: topology.every = {json.dumps(wrong, ensure_ascii=False)}, {expected}"


def test_overridden_wrong_value_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "[run]\nnodes = 0")
    assert message_of(path, {"run.nodes": 4}, {}).startswith(f"{path}: run.nodes = 0")


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.toml"
    assert message_of(path, {}, {}) == f"{path}: cannot be read: {os.strerror(2)}"


# Algorithms


@pytest.mark.parametrize(
    ("name", "compressor", "values"),
    [
        ("sp", "topk", "fitted1"),
        ("scsp", "topk", "fitted1"),
        ("sgp", "identity", "float32"),
        ("quant-sgp", "identity", "int8"),
        ("d-psgd", "identity", "float32"),
        ("d2", "identity", "float32"),
        ("deep-squeeze", "topk", "int8"),
        ("choco-sgd", "topk", "int8"),
        ("masked-diloco", "identity", "int8"),
        ("local", "identity", "float32"),
    ],
)
def test_algorithm_has_a_default_compressor_and_values(name: str, compressor: str, values: str) -> None:
    loaded = load(None, {"algorithm.name": name}, {})
    assert (loaded.algorithm.compressor, loaded.algorithm.values) == (compressor, values)
    assert load(None, {"algorithm.name": name, "algorithm.compressor": compressor}, {}) == loaded


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"share": 0.001}, "fitted1"),
        ({"share": "0.011"}, "int8"),  # the magnitudes of more entries differ
        ({"share": 0.001, "name": "choco-sgd"}, "int8"),
        ({"share": 0.001, "compressor": "rolling"}, "int8"),
        ({"share": 0.001, "values": "int8"}, "int8"),
        ({"compressor": "identity"}, "int8"),
    ],
)
def test_default_values_fit_the_entries(given: dict[str, object], values: str) -> None:
    loaded = load(None, {f"algorithm.{key}": value for key, value in given.items()}, {})
    assert loaded.algorithm.values == values


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (
            {"name": "sgp", "compressor": "topk"},
            'algorithm.compressor = "topk", but with sgp it must be "identity": it sends whole models; sp is the same '
            "with compression",
        ),
        (
            {"name": "d-psgd", "compressor": "random"},
            'algorithm.compressor = "random", but with d-psgd it must be "identity": it sends whole models; '
            "deep-squeeze is the same with compression",
        ),
        (
            {"name": "sgp", "values": "int8"},
            'algorithm.values = "int8", but with sgp it must be "float32": it sends whole models; sp is the same with '
            "compression",
        ),
        (
            {"name": "local", "compressor": "topk"},
            'algorithm.compressor = "topk", but with local it must be "identity": it sends nothing',
        ),
        (
            {"name": "choco-sgd", "compressor": "rolling"},
            'algorithm.compressor = "rolling", but with choco-sgd it must be "topk", "identity" or '
            '"random": it does not exchange blocks',
        ),
        (
            {"name": "sp", "options.width": 3},
            "algorithm.options.width = 3, but with sp it has no options",
        ),
        (
            {"name": "choco-sgd", "liars": 1},
            "algorithm.liars = 1, but with choco-sgd it must be 0: its state depends on every message of a neighbour "
            "as it was",
        ),
        (
            {"gossip_graph": "allreduce", "liars": 1},
            'algorithm.gossip_graph = "allreduce", but with algorithm.liars it must be "auto", "plan", "exponential" '
            'or "complete": a node cannot judge the message of one in-neighbour',
        ),
        (
            {"compressor": "rolling", "share": 1e-5},
            "algorithm.share = 1e-05, but with rolling it must be 1/65536 or more: each block has its own weight",
        ),
        (
            {"compressor": "rolling", "averaging_rate": 1.5},
            "algorithm.averaging_rate = 1.5, but with rolling it must be at most 1: training would diverge",
        ),
        (
            {"name": "choco-sgd", "averaging_rate": 1.5},
            "algorithm.averaging_rate = 1.5, but with choco-sgd it must be at most 1: training would diverge",
        ),
        (
            {"name": "d2", "averaging_rate": 1.5},
            "algorithm.averaging_rate = 1.5, but with d2 it must be at most 1: training would diverge",
        ),
        (
            {"name": "deep-squeeze", "averaging_rate": 0.06},
            "algorithm.averaging_rate = 0.06, but it must be at most 0.05, five times the kept share 0.01: "
            "training would diverge",
        ),
    ],
)
def test_combination_that_does_not_work_is_refused_with_reason(algorithm: dict[str, object], text: str) -> None:
    overrides = {f"algorithm.{key}": value for key, value in algorithm.items()}
    assert message_of(None, overrides, {}) == f"command-line option: {text}"


@pytest.mark.parametrize("share", [count / 1000 for count in range(1, 201)])
def test_averaging_rate_of_five_times_the_kept_share_is_allowed(share: float) -> None:
    load(None, {"algorithm.share": share, "algorithm.averaging_rate": round(5 * share, 6)}, {})


# --- threads


_AT_ONCE = """
import sys, threading
from edgenode.config.load import load

sys.setswitchinterval(1e-6)
gate = threading.Barrier(8)
threads = [threading.Thread(target=lambda: (gate.wait(), load(None, environ={}))) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_can_load_their_first_configurations_at_once() -> None:
    """Two instances of `Mesh` in two threads ended the process by a segmentation fault, in 11 of 12 runs of this."""
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", _AT_ONCE], check=False).returncode == 0


# Overlap


@pytest.mark.parametrize("name", ["scsp", "sp", "sgp"])
def test_overlap_is_for_push_sum(name: str) -> None:
    assert load(None, {"run.overlap": 7, "algorithm.name": name}, {}).run.overlap == 7


def test_overlap_must_be_below_the_window() -> None:
    reason = "run.overlap = 8, but it must be below run.window = 8: set run.window = 9 or more"
    with pytest.raises(ConfigError, match=re.escape(f"command-line option: {reason}")):
        load(None, {"run.overlap": 8}, {})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("d-psgd", "it does not define the push-sum weights that messages in flight need"),
        ("deep-squeeze", "it does not define the push-sum weights that messages in flight need"),
        ("d2", "its state has to know every message of a round at once"),
        ("quant-sgp", "its state has to know every message of a round at once"),
        ("choco-sgd", "its state has to know every message of a round at once"),
        ("choco-jwins", "its state has to know every message of a round at once"),
        ("sparta", "its state has to know every message of a round at once"),
        ("diloco", "its state has to know every message of a round at once"),
        ("gut", "its state has to know every message of a round at once"),
        ("qg-dsgdm", "its state has to know every message of a round at once"),
        ("noloco", "its state has to know every message of a round at once"),
        ("sparse-loco", "its state has to know every message of a round at once"),
        ("skew-scout", "it measures all models while they are at rest"),
    ],
)
def test_algorithm_that_cannot_overlap_is_refused_with_the_reason(name: str, why: str) -> None:
    reason = f"run.overlap = 2, but with {name} it must be 0: {why}; use scsp, sp or sgp"
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load(None, {"run.overlap": 2, "algorithm.name": name}, {})


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("task.objective", "samples", '"equal": weights tell the numbers of samples'),
        ("task.loss", "balanced", '"cross_entropy": the loss tells the numbers of samples of each class'),
        ("task.validation", 0.2, "0.0: an evaluation would tell of training samples"),
        ("task.precision", "bfloat16", '"float32": gradients of single samples need it'),
        ("task.local_steps", "auto", "1: privacy.noise follows from the number of steps"),
        ("algorithm.name", "skew-scout", '"scsp": it tests models on training samples'),
    ],
)
def test_what_tells_more_than_privacy_covers_is_refused(key: str, value: object, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"but with [privacy] it must be {why}")):
        load(None, {"privacy.epsilon": 3, key: value}, {})
    load(None, {key: value}, {})


@pytest.mark.parametrize(
    ("values", "key", "value", "must_be"),
    [
        ("int8", "algorithm.compressor", "topk", '"identity": all messages have the same entries'),
        ("int8", "algorithm.values", "fitted2", '"int4" or "int8": masks are added to integers'),
        ("int8", "run.nodes", 2, "3 to 126: fewer would know each other's change"),
        ("int8", "run.nodes", 127, "3 to 126: fewer would know each other's change"),
        ("int4", "run.nodes", 7, "3 to 6: fewer would know each other's change, and the sum of more does not fit int4"),
        ("int8", "run.on_poison", "pause", '"report": masks cancel in the sum of all messages only'),
    ],
)
def test_messages_whose_masks_would_not_cancel_are_refused(values: str, key: str, value: object, must_be: str) -> None:
    reason = f"option: {key} = {json.dumps(value)}, but with masked-diloco it must be {must_be}"
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load(None, {"algorithm.name": "masked-diloco", "algorithm.values": values, key: value}, {})
    load(None, {"algorithm.values": values, key: value}, {})


def test_privacy_is_on_if_a_budget_or_a_noise_is_set() -> None:
    given = ({}, {"privacy.delta": 1e-6}, {"privacy.epsilon": 8}, {"privacy.noise": 1})
    assert [load(None, keys, {}).privacy.on for keys in given] == [False, False, True, True]
