"""Every test that SECURITY.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", Path("SECURITY.md").read_text())))


@pytest.mark.parametrize(("file", "name"), _NAMED)
def test_named_test_exists(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", Path(file).read_text(), re.MULTILINE)


def test_many_are_named() -> None:
    assert len(_NAMED) > 20
