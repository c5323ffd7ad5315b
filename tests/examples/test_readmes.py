"""Every example that is compared with other ways of training is short, listed, and says what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPARED = sorted(
    page.parent.name for page in EXAMPLES.glob("*/README.md") if "examples/compare.py" in page.read_text()
)
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
