"""The example extension: signs with one magnitude per tensor, in one short file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgenode import factory
from edgenode.config.load import load
from edgenode.config.sections import COMPRESSORS
from edgenode.core.algorithm import codec
from edgenode.core.algorithm.compression import Layout
from edgenode_lab.testing import check_algorithm, check_compressor
from tests.distributions import forget, install_project

EXAMPLE = Path(__file__).parents[2] / "examples" / "signum"
LAYOUT = Layout((3, 1000))


@pytest.fixture(autouse=True)
def signum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install_project(EXAMPLE, tmp_path, monkeypatch)
    yield
    forget(COMPRESSORS)


def test_example_passes_the_checks_for_extensions() -> None:
    check_compressor("signum")
    check_algorithm("sp", "chord", compressor="signum")
    check_algorithm("choco-sgd", "two-way", compressor="signum")


def test_number_is_sent_as_its_sign_and_the_mean_magnitude() -> None:
    config = load(EXAMPLE / "run.toml", {}, {})
    vector = np.array([1, -2, 3, *[0.5] * 999, -1.5], dtype=np.float32)
    payload = factory.algorithm_spec(config).compressor(vector, LAYOUT, np.random.default_rng(0))
    assert payload.numbers[:3].tolist() == [2, -2, 2]
    assert payload.numbers[-2:].tolist() == pytest.approx([0.501, -0.501])
    assert len(codec.encode(payload, LAYOUT)) == 5 + 2 * 4 + 126  # header, magnitudes, 1003 bits


def test_example_is_one_file_of_under_forty_lines() -> None:
    assert len((EXAMPLE / "edgenode_signum.py").read_text().splitlines()) < 40
