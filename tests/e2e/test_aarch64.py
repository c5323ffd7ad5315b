"""What `pip install -c deploy/cpu.txt .` brings to a Raspberry Pi."""

from __future__ import annotations

import re

import pytest

from tests.e2e import aarch64
from tests.e2e.aarch64 import ROOT

_WHY_NOT = aarch64.unavailable()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
    pytest.mark.xdist_group("aarch64"),  # of two at once, one would wait for the other
    pytest.mark.timeout(900),
]

_CUDA = re.compile(r"^(nvidia|cuda|triton)\b", re.MULTILINE)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_constraints_select_wheels_without_cuda(python: str) -> None:
    options = ("--only-binary", ":all:", "--no-annotate", "--no-header", *aarch64.for_board(python))
    selected = aarch64.uv("pip", "compile", "--quiet", *options, str(ROOT / "pyproject.toml"))
    assert {"torch==2.10.0", "torchvision==0.25.0"} <= set(selected.splitlines())
    assert not _CUDA.search(selected), selected
