"""The `fleet` fixture, and the logs of its processes when a test fails."""

from __future__ import annotations

from tests.e2e.conftest import fleet, pytest_runtest_makereport

__all__ = ["fleet", "pytest_runtest_makereport"]
