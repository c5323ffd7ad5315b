"""The hooks of tests/conftest.py that hold only below their own folder."""

from __future__ import annotations

from tests.conftest import pytest_collection_finish, pytest_ignore_collect, state_folder

__all__ = ["pytest_collection_finish", "pytest_ignore_collect", "state_folder"]
