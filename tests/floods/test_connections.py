"""Connections without end at the ports of a node, of the controller and of the page, under a limit of open files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import netns
from tests.e2e.conftest import fleet
from tests.e2e.fleet import Fleet
from tests.e2e.netns import Bridge
from tests.floods.flood import MORE_ADDRESSES, NODES, AttackedRun, table, worst_growth

__all__ = ["fleet"]
_WHY_NOT = netns.unavailable()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
    pytest.mark.timeout(600),
]
FLOOD = "tests/floods/connections.py"
LINKS = ("{controller}:7700", "{node}:7600")
OTHERS = ("{controller}:8080", "{controller}:7701")


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with Bridge(NODES + 2) as bridge:
        yield bridge


@pytest.mark.parametrize(
    ("kind", "targets", "sources", "files"),
    [
        ("silent", LINKS, (), 1024),
        ("hello", LINKS, MORE_ADDRESSES, 1024),
        ("silent", OTHERS, MORE_ADDRESSES, 1024),
        ("request", OTHERS, (), 1024),
        ("hello", OTHERS[1:], MORE_ADDRESSES, 16_384),  # of which strangers get all places that they ever get
    ],
)
def test_run_trains_and_answers_under_1500_renewed_connections(
    bridge: Bridge, fleet: Fleet, kind: str, targets: tuple[str, ...], sources: tuple[str, ...], files: int
) -> None:
    run = AttackedRun(bridge, fleet, files=files, controller=("--http", "0.0.0.0:8080"))
    run.until_trains()
    moments = {"before": run.measure(10)}
    with run.attacked_by(FLOOD, kind, *targets, *(("--sources", *sources) if sources else ())):
        moments["during"] = run.measure(20)
    print(table(moments))
    run.none_has_ended()
    before, during = moments.values()
    assert during.rate > 0.75 * before.rate
    assert worst_growth(before, during) < 32
    assert max(during.descriptors.values()) < files - 256
    assert during.failures == 0
    assert "without a history" not in run.run.controller.stderr
