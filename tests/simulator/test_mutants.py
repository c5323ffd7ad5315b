"""The simulator on a protocol that lacks something: else it would prove nothing about the one that does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from edgenode.simulator.mutants import MUTANTS, Mutant, catch


@pytest.fixture(scope="session")
def caught(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """What becomes of every mutant that is asked for, on all processors."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {p["mutant"].name: pool.submit(catch, p["mutant"]) for p in parameters if "mutant" in p}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_simulator_notices_what_is_missing(mutant: Mutant, caught: dict[str, Future[str]]) -> None:
    assert caught[mutant.name].result()
