"""The simulator detects every missing precaution. Otherwise it would prove nothing about the complete protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.simulation.mutation import MUTANTS, Mutant, catch, delete, precautions


@pytest.fixture(scope="session")
def caught(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[str]]]:
    """The first violation of every selected mutant, on all processors."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {p["mutant"].name: pool.submit(catch, p["mutant"]) for p in parameters if "mutant" in p}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_simulator_detects_the_missing_precaution(mutant: Mutant, caught: dict[str, Future[str]]) -> None:
    assert caught[mutant.name].result()


def test_every_precaution_in_the_source_has_a_mutant() -> None:
    assert sorted(name for name, _, _ in precautions()) == sorted(name for m in MUTANTS for name, _ in m.edits)


def test_unknown_precaution_raises() -> None:
    with pytest.raises(ValueError, match="'# precaution: nothing of the kind' is in the source 0 times"):
        catch(Mutant((("nothing of the kind", delete),), ("faults",)))


def test_mutant_that_does_not_run_raises() -> None:
    name = "what was pushed to an evicted node is taken back"
    with pytest.raises(ValueError, match="does not run"):
        catch(Mutant(((name, lambda place: __import__("ast").parse("missing_name()").body[0]),), MUTANTS[0].play))
