"""The keys agree with their documentation, the digest covers the shared ones, and doubtful values give warnings."""

from __future__ import annotations

import string
import subprocess
import sys
from pathlib import Path

import pytest

from edgenode.config.load import load, read_toml
from edgenode.config.schema import KEYS, LOCAL_KEYS, Config, Key, as_toml
from edgenode.core.topology.period import Period
from tests.config.values import another

DOC = Path(__file__).parents[2] / "docs" / "configuration.md"


# Values that follow from others


@pytest.mark.parametrize(
    ("share", "blocks"), [(1.0, 1), (0.99, 2), (0.5, 2), (0.3, 4), (0.1, 10), (0.001, 1000), (1 / 3, 3), (0.07, 15)]
)
def test_blocks_are_as_large_as_the_share_or_slightly_smaller(share: float, blocks: int) -> None:
    algorithm = load(None, {"algorithm.compressor": "rolling", "algorithm.share": share}, {}).algorithm
    assert algorithm.blocks == blocks
    assert load(None, {"algorithm.share": share}, {}).algorithm.blocks == 1


@pytest.mark.parametrize(
    ("compressor", "kept"), [("topk", 0.01), ("identity", 1.0), ("random", 0.125), ("rolling", 1.0)]
)
def test_kept_share_of_each_compressor(compressor: str, kept: float) -> None:
    assert load(None, {"algorithm.compressor": compressor}, {}).algorithm.kept_share == kept


def test_kept_share_without_communication_is_zero() -> None:
    assert load(None, {"algorithm.name": "local"}, {}).algorithm.kept_share == 0


@pytest.mark.parametrize(
    ("every", "period"), [("6ep", Period(6, "epochs")), ("100r", Period(100, "rounds")), (7, Period(7, "rounds"))]
)
def test_period_is_typed_and_kept_as_text(every: str | int, period: Period) -> None:
    topology = load(None, {"topology.every": every}, {}).topology
    assert (topology.period, topology.every) == (period, str(period))


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
        (
            {"algorithm.share": 0.1, "algorithm.compressor": "identity"},
            ["algorithm.share = 0.1 is not used: identity sends every entry"],
        ),
        (
            {"algorithm.share": 0.1, "algorithm.name": "local"},
            ["algorithm.share = 0.1 is not used: local sends nothing"],
        ),
        ({"algorithm.bits": 1}, ["algorithm.bits = 1 is not used: with topk, algorithm.values counts"]),
        ({"algorithm.bits": 1, "algorithm.compressor": "random"}, []),
        (
            {"run.min_nodes": 5},
            ["run.min_nodes = 5 is above run.nodes = 4: no member can leave or be evicted"],
        ),
    ],
)
def test_warnings(values: dict[str, object], expected: list[str]) -> None:
    assert load(None, values, {}).warnings() == expected


# Digest


@pytest.mark.parametrize("key", KEYS)
def test_digest_covers_all_but_the_local_keys(key: str) -> None:
    changed = load(None, another(key), {})
    default = load(None, {name: value for name, value in another(key).items() if name != key}, {})
    assert changed != default
    assert (changed.digest() == default.digest()) == (key in LOCAL_KEYS | {"run.rounds"})


def test_length_of_a_run_is_shared_where_no_controller_plans_it() -> None:
    longer = Config().lasting(7)
    assert (longer.run.rounds, longer.shared() == Config().shared()) == (7, True)
    assert longer.shared(rounds=True) != Config().shared(rounds=True)
    assert Config().lasting(None) == Config()


def test_local_keys() -> None:
    run = "threads device checkpoint_every publish_every barrier_timeout_s log_every_s straggler"
    assert {*(f"run.{name}" for name in run.split()), "task.data_dir"} == LOCAL_KEYS


def test_nodes_with_an_overlap_take_checkpoints_in_the_same_rounds() -> None:
    for overlap in (0, 1):
        every = [load(None, {"run.overlap": overlap, "run.checkpoint_every": every}, {}) for every in (5, 50)]
        assert len({config.digest() for config in every}) == 1 + overlap


def test_digest_is_hex_and_ignores_how_a_period_is_spelled() -> None:
    digests = {load(None, {"topology.every": every}, {}).digest() for every in (100, "100", "100r")}
    assert len(digests) == 1
    assert set(digests.pop()) <= set(string.hexdigits)


# Files and documentation


def test_written_file_names_every_key() -> None:
    lines = Config().to_toml().splitlines()
    assert "rounds = 1000" in lines
    assert "# alpha is unset" in lines
    names = [line.removeprefix("# ").split(" ")[0] for line in lines if " = " in line or "is unset" in line]
    assert names == [key.partition(".")[2] for key in KEYS]


def test_documentation_lists_every_key_default_and_meaning() -> None:
    rows = [line for line in DOC.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows == [row(*key) for key in KEYS.items()]


def row(key: str, described: Key) -> str:
    cells = (f"`{key.partition('.')[2]}`", default(described.default), described.allowed, described.meaning)
    return f"| {' | '.join(cells)} |"


def default(value: object) -> str:
    return "unset" if value is None else f"`{as_toml(value)}`"


def test_examples_of_the_page_load_and_show_every_key(tmp_path: Path) -> None:
    path, shown = tmp_path / "run.toml", set()
    for part in DOC.read_text(encoding="utf-8").split("```toml\n")[1:]:
        path.write_text(part.split("```")[0])
        assert load(path, {}, {}).warnings() == []
        shown |= {f"{section}.{key}" for section, keys in read_toml(path).items() for key in keys}
    assert shown == set(KEYS)


def test_import_loads_no_heavy_module() -> None:
    code = "import sys, edgenode.config.load; print({'torch', 'numpy', 'grpc'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
