"""README shows how the two scripts of the example differ."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_gru"


def test_the_readme_shows_the_difference_of_the_scripts() -> None:
    plain, mesh = ((EXAMPLE / name).read_text().splitlines() for name in ("plain.py", "train.py"))
    readme = (EXAMPLE.parents[1] / "README.md").read_text()
    block = re.search(r"```diff\n(.*?)```", readme, re.S)
    assert block is not None
    changed = [line for line in block[1].splitlines() if line.startswith(("+", "-"))]
    added, removed = ([line[1:] for line in changed if line[0] == sign] for sign in "+-")
    assert len(added) <= 5
    assert added == [line for line in mesh if line not in plain]
    assert removed == [line for line in plain if line not in mesh]
    shown = [line[1:] for line in block[1].splitlines() if line[:1] in ("+", " ") and line.strip() != "..."]
    places = [mesh.index(line) for line in shown if line]
    assert all(one < other for one, other in pairwise(places)), "the lines stand in their order"
