"""Every example that is compared with other ways of training is short, listed, and says what was measured."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPARED = sorted(
    page.parent.name for page in EXAMPLES.glob("*/README.md") if "examples/compare.py" in page.read_text()
)
BEFORE_AND_AFTER = sorted(path.parent.name for path in EXAMPLES.glob("*/plain.py"))
LOOPS_PAGE = (EXAMPLES.parent / "docs" / "your-own-loop.md").read_text()
WAYS = ["together, with edgenode", "each node alone", "one node with all data"]


@pytest.mark.parametrize("name", COMPARED)
def test_example_has_under_120_lines_of_python_in_a_file(name: str) -> None:
    for script in (EXAMPLES / name).glob("*.py"):
        assert len(script.read_text().splitlines()) < 120


@pytest.mark.parametrize("name", COMPARED)
def test_readme_has_each_way_and_the_command_that_measures(name: str) -> None:
    text = (EXAMPLES / name / "README.md").read_text()
    assert f"python examples/compare.py {name}\n" in text
    rows = re.findall(r"^\| (.+?) \| [\d.]+% \| [\d.]+% to [\d.]+% \| [\d.]+% \| [\d.]+ MB \|$", text, re.MULTILINE)
    assert rows == WAYS


def test_index_links_every_example() -> None:
    assert COMPARED
    index = (EXAMPLES / "README.md").read_text()
    folders = sorted(folder.name for folder in EXAMPLES.iterdir() if folder.is_dir() and any(folder.glob("run.toml")))
    linked = re.findall(r"\]\((\w+)[/)]", index)
    assert sorted(set(linked)) == folders


def readme_of(name: str) -> Path:
    """The page that shows the diff of an example: its own, or that of the project."""
    own = EXAMPLES / name / "README.md"
    return own if own.exists() else EXAMPLES.parent / "README.md"


@pytest.mark.parametrize("name", BEFORE_AND_AFTER)
def test_readme_shows_the_diff_of_at_most_five_lines(name: str) -> None:
    plain, mesh = ((EXAMPLES / name / script).read_text().splitlines() for script in ("plain.py", "train.py"))
    assert len(mesh) < 120
    block = re.search(r"```diff\n(.*?)```", readme_of(name).read_text(), re.S)
    assert block is not None
    lines = block[1].splitlines()
    added, removed = ([line[1:] for line in lines if line[0] == sign] for sign in "+-")
    assert 1 <= len(added) <= 5
    assert added == [line for line in mesh if line not in plain]
    assert removed == [line for line in plain if line not in mesh]
    shown = [line[1:] for line in lines if line[:1] in ("+", " ") and line.strip() != "..."]
    places = [len(mesh) - mesh[::-1].index(line) for line in shown if line]
    assert all(one < other for one, other in pairwise(places)), "the lines stand in their order"


def test_page_of_loops_links_every_diff() -> None:
    assert len(BEFORE_AND_AFTER) == 5
    assert all(f"../examples/{name}" in LOOPS_PAGE for name in BEFORE_AND_AFTER)
