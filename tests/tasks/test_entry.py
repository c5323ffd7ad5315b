"""A task of one's own: found by its name, checked piece by piece, and identified by its code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenode.errors import ConfigError
from edgenode.tasks import entry

BIRDS = """
import edgenode
from torch import nn

class Birds(edgenode.Task):
    def __init__(self, width: int = 4) -> None:
        self.width = width

    def model(self):
        return nn.Linear(8, self.width)

    def train_data(self, node):
        return [0]

class Half(edgenode.Task):
    def model(self):
        return nn.Linear(1, 1)

class Other:
    pass
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that can be imported from, with a module and a package."""
    (tmp_path / "birds_one.py").write_text(BIRDS)
    (tmp_path / "birds_many").mkdir()
    (tmp_path / "birds_many" / "__init__.py").write_text("")
    (tmp_path / "birds_many" / "task.py").write_text(BIRDS)
    (tmp_path / "birds_torn.py").write_text("import absent_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("birds_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["birds_one:Birds", "birds_many.task:Birds"])
def test_task_is_built_from_its_options(name: str) -> None:
    assert entry.load(name, {}).model().weight.shape == (4, 8)
    assert entry.load(name, {"width": 7}).model().weight.shape == (7, 8)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("birds_none:Birds", {}, "No module named 'birds_none': it must be installed, or lie next to run.toml"),
        ("birds_torn:Birds", {}, "fails with ModuleNotFoundError: No module named 'absent_package'"),
        ("birds_one:Brids", {}, "birds_one has no Brids; its tasks are Birds, Half"),
        ("birds_many:Birds", {}, "birds_many has no Birds; it has no task"),
        ("birds_one:Other", {}, "is not a class derived from edgenode.Task"),
        ("birds_one:Half", {}, "it does not define train_data, which every task needs"),
        ("birds_one:Birds", {"depth": 2}, "unexpected keyword argument 'depth', from task.options (it takes width)"),
    ],
)  # fmt: skip
def test_each_missing_piece_is_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        entry.load(name, options)
    assert str(caught.value).startswith(f"task.entry = {name!r}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_identity_follows_the_source_of_module_and_package(folder: Path) -> None:
    for name, file in (("birds_one:Birds", "birds_one.py"), ("birds_many.task:Birds", "birds_many/helper.py")):
        entry.load(name, {})
        before = entry.identity(name)
        assert before.keys() == {"source of the task"} and entry.identity(name) == before
        with (folder / file).open("a") as source:
            source.write("# another version\n")
        assert entry.identity(name) != before


def test_identity_names_the_version_of_an_installed_task(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "edgenode.tasks.image_task:ImageTask"
    identity = entry.identity(name)
    assert identity["version of the task"].startswith("edgenode ")
    monkeypatch.setattr("importlib.metadata.packages_distributions", None)  # packages are searched once for all nodes
    assert entry.identity(name) == identity
