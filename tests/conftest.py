"""The order of the tests, for workers that share them: a long test that starts last leaves the others idle."""

from __future__ import annotations

import os

import pytest

# Several tests run at once, each on one processor: read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_LONGEST_FIRST = ("tests/chaos/", "tests/simulation/test_faults", "tests/e2e/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        found = (i for i, room in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(room))
        return next(found, len(_LONGEST_FIRST))

    items.sort(key=place)
