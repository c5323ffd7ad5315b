"""Settings that all tests share, and their order: a long test that starts last leaves the other workers idle."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

# All that is collected stays, so a pass over it takes time and frees nothing.
gc.disable()

# Plugins of other packages import those packages, for instance trio.
os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"
from hypothesis import settings  # noqa: E402

# On a busy machine one example may take any time. Each test has its own time-out.
settings.register_profile("edgenode", deadline=None)
settings.load_profile("edgenode")

# Several tests run at once, each on one processor: read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads of a test that asks for more sleep while they wait, and leave the processors to the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# gRPC's fork handlers can deadlock a worker of a DataLoader that is forked beside its threads. `edgenode.mesh` sets the
# same before it imports gRPC: here another test may have imported it by then.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the credentials and runs of the user who starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def default_log() -> Iterator[None]:
    """A command and a Mesh configure the log of their process, with the standard error of one test."""
    yield
    structlog.reset_defaults()


_ALL_SLOW = re.compile(r"^pytestmark = \[?\s*[^\n]*\bmark\.slow\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no module all of whose tests would be deselected: some import frameworks for seconds."""
    chosen = config.getoption("markexpr")
    if collection_path.suffix != ".py" or chosen not in ("slow", "not slow"):
        return None
    text = collection_path.read_text()
    deselected = _ALL_SLOW.search(text) if chosen == "not slow" else "mark.slow" not in text
    return True if deselected else None


_LONGEST_FIRST = ("tests/chaos/", "tests/simulation/test_faults", "tests/e2e/", "tests/test_installation")
_LAST = "tests/simulation/test_mutation"  # many short ones, with which all workers end at the same time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        found = (i for i, room in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(room))
        return next(found, len(_LONGEST_FIRST) + item.nodeid.startswith(_LAST))

    items.sort(key=place)
