"""The simulator on a protocol that lacks something: else it would prove nothing about the one that does not."""

from __future__ import annotations

import pytest

from edgenode.simulator.mutants import MUTANTS, Mutant, catch


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_the_simulator_notices_what_is_missing(mutant: Mutant) -> None:
    assert catch(mutant)
