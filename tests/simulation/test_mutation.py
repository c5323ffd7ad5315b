"""The simulator detects every missing precaution. Otherwise it would prove nothing about the complete protocol."""

from __future__ import annotations

import pytest

from tests.simulation.mutation import MUTANTS, Mutant, catch, delete, precautions


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_simulator_detects_the_missing_precaution(mutant: Mutant) -> None:
    assert catch(mutant)


def test_every_precaution_in_the_source_has_a_mutant() -> None:
    assert len(names := [name for name, _, _ in precautions()]) == len(set(names))
    assert set(names) == {name for mutant in MUTANTS for name, _ in mutant.edits}


def test_unknown_precaution_raises() -> None:
    with pytest.raises(ValueError, match="'# precaution: nothing of the kind' is in the source 0 times"):
        catch(Mutant((("nothing of the kind", delete),), ("faults",)))


def test_mutant_that_does_not_run_raises() -> None:
    name = "what was pushed to an evicted node is taken back"
    with pytest.raises(ValueError, match="does not run"):
        catch(
            Mutant(
                ((name, lambda place: __import__("ast").parse("missing_name()").body[0]),),
                ("faults", "--seeds", "0..20"),
            )
        )
