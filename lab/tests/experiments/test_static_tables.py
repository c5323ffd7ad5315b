"""Message sizes are at least as small as the paper's, and the footprint shrinks with the number of nodes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgenode.core.algorithm.compression import Layout
from edgenode.tasks import models
from edgenode_lab.experiments import static_tables


@pytest.fixture(scope="module")
def resnet20() -> Layout:
    return static_tables.layout_of("resnet20")


@pytest.mark.parametrize(
    ("name", "factor"),
    [("top-10%", 6.7), ("top-1%", 66.8), ("top-0.1%", 595), ("4 bits", 7.96), ("2 bits", 15.8), ("1 bit", 31.4)],
)
def test_resnet20_message_is_as_small_as_in_tables_2_and_7(resnet20: Layout, name: str, factor: float) -> None:
    dense = 4 * resnet20.size
    assert resnet20.size == 269_722
    assert dense / static_tables.message_bytes(resnet20, static_tables.compressor(name, "float32")) >= factor
    assert dense / static_tables.message_bytes(resnet20, static_tables.compressor(name, "int8")) >= factor


@pytest.mark.parametrize(("name", "factor"), [("top-1%", 64.3), ("top-0.1%", 466)])
def test_whole_run_is_as_small_as_in_table_4(resnet20: Layout, name: str, factor: float) -> None:
    message = static_tables.message_bytes(resnet20, static_tables.compressor(name, "float32"))
    assert static_tables.whole_run_factor(resnet20, message, 40) >= factor


@pytest.mark.parametrize(("name", "values", "bits"), [
    ("top-1%", "fitted1", 9.5), ("top-0.1%", "fitted1", 16), ("rolling 1%", "fitted4", 4.1),
])  # fmt: skip
def test_bits_per_kept_entry_of_a_resnet20(resnet20: Layout, name: str, values: str, bits: float) -> None:
    """Header, positions and scales included."""
    compress, blocks = static_tables.compressor(name, values), 100 if name == "rolling 1%" else 1
    assert static_tables.message_size(resnet20, compress, blocks)[1] < bits


@pytest.mark.parametrize(("rounds", "share", "values", "megabytes"), [
    (2000, 0.003, "int8", 0.1512), (2000, 0.006, "fitted4", 0.1492), (500, 0.014, "fitted4", 0.0942),
])  # fmt: skip
def test_whole_run_of_rolling_and_an_8_bit_last_phase(rounds: int, share: float, values: str, megabytes: float) -> None:
    """The bytes of a node on Fashion-MNIST with small-cnn, headers included."""
    model = models.build("small-cnn", 10, 1, 28, "group")
    layout = Layout(tuple(parameter.numel() for parameter in model.parameters()))
    message = static_tables.message_bytes(layout, static_tables.compressor("rolling", values), math.ceil(1 / share))
    last = static_tables.message_bytes(layout, static_tables.compressor("rolling", "int8"))
    assert (rounds * message + 2 * last) / 1e6 == pytest.approx(megabytes, abs=0.0005)


@pytest.mark.parametrize(("nodes", "models", "rounds"), [(2, 1.0, 3), (4, 1.5, 6), (5, 1.6, 9), (16, 1.875, 12)])
def test_allreduce_sends_less_than_two_models(resnet20: Layout, nodes: int, models: float, rounds: int) -> None:
    """Parts differ by one entry, and each message has a header of 5 bytes."""
    dense = 4 * resnet20.size
    sent = static_tables.allreduce_bytes(resnet20, nodes) - 5 * rounds
    assert sent == pytest.approx(models * dense, abs=4 * nodes)
    assert static_tables.allreduce_bytes(resnet20, nodes, "bfloat16") - 5 * rounds == pytest.approx(sent / 2)
    assert static_tables.allreduce_bytes(resnet20, nodes, "int8") < 0.9 * sent / 4


def test_one_of_sixteen_nodes_needs_a_sixteenth() -> None:
    model = models.build("resnet20", 10, 3, 32)
    alone, shared = static_tables.footprint(model, 32), static_tables.footprint(model, 2)
    assert [a / b for a, b in zip(alone, shared, strict=True)] == pytest.approx([16, 16, 16], rel=5e-3)
    assert alone[1] / 32 == pytest.approx(2 * 40.55e6, rel=1e-3)  # He et al.: 40.6 M multiplications an image
    assert alone[0] / 32 == pytest.approx(1.52e6, rel=0.01)


@pytest.mark.parametrize("name", ["fig3", "sizes"])
def test_markdown_csv_and_figure_are_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_tables, "EFFECTIVE_BATCH", 16)
    only = {"ResNet-20": static_tables._PAPER_FACTORS["ResNet-20"]}
    monkeypatch.setattr(static_tables, "_PAPER_FACTORS", only)
    table = static_tables.TABLES[name]
    static_tables.write(table, tmp_path)
    rows = (tmp_path / f"{name}.csv").read_text().splitlines()
    assert len(rows) == {"fig3": 3, "sizes": 16}[name]
    assert (tmp_path / f"{name}.png").is_file() == (table.draw is not None)
    assert (tmp_path / f"{name}.md").read_text().count("\n| ") == len(rows) + 1
