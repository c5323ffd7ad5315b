"""`make docs`: the site builds, a broken link fails, and a reader finds pages by search, without the internet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import click
import pytest

import edgenode
import edgenode.extensions
from edgenode.cli import group
from tests.e2e import browser
from tests.e2e.fleet import until

pytestmark = [pytest.mark.slow, pytest.mark.group("site")]

ROOT = Path(__file__).parents[1]
SETTINGS = (ROOT / "mkdocs.yml").read_text()


def build(root: Path, site: Path) -> str:
    """What the command of `make docs` prints: empty text if it succeeds."""
    (command,) = re.findall(r"^docs:.*\n\t.*\$\(BIN\)/python (.+)$", (ROOT / "Makefile").read_text(), re.M)
    words = [sys.executable, *command.split(), "--site-dir", str(site)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=root, env=environ, capture_output=True, text=True, timeout=280, check=False)
    return done.stdout + done.stderr if done.returncode else ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert build(ROOT, folder) == ""
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_every_command_and_option_is_on_its_page(site: Path) -> None:
    page = (site / "cli" / "index.html").read_text()

    def check(command: click.Command, context: click.Context) -> int:
        assert f'id="{context.command_path.replace(" ", "-")}"' in page
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert not [name for option in options for name in option.opts if name not in page]
        nested = command.list_commands(context) if isinstance(command, click.Group) else []
        found = {name: command.get_command(context, name) for name in nested}  # type: ignore[attr-defined]
        return 1 + sum(check(each, click.Context(each, context, name)) for name, each in found.items())

    assert check(group, click.Context(group, info_name="edgenode")) > 25


@pytest.mark.parametrize("module", [edgenode, edgenode.extensions])
def test_every_public_name_is_on_its_page(site: Path, module: ModuleType) -> None:
    page = (site / "api" / "index.html").read_text()
    names = [name for name in module.__all__ if name != "__version__"]
    shown = {name for name in names if f'id="{module.__name__}.{name}"' in page or f"<code>{name}</code>" in page}
    assert len(names) > 5
    assert shown == {*names}


def test_links_lead_to_what_is_there_or_fail(tmp_path: Path) -> None:
    settings = re.sub(
        r"^nav:\n(?: .*\n)+", "nav: [page.md, index.md, contributing.md, changelog.md]\n", SETTINGS, flags=re.M
    )
    (tmp_path / "mkdocs.yml").write_text(settings)
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).write_text("# A page\n")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "site.py", tmp_path / "docs")
    page = tmp_path / "docs" / "page.md"
    repository = "https://github.com/edgenode/edgenode/blob/main"

    (tmp_path / "docs" / "results").mkdir()
    (tmp_path / "docs" / "results" / "table.md").write_text("# A table that is not a page of the site\n")
    page.write_text(
        f"# Page\n\n[1](#page), [2](../README.md), [3]({repository}/docs/page.md#page), [4](../mkdocs.yml), "
        "[5](results/table.md)\n"
    )
    assert build(tmp_path, tmp_path / "site") == ""
    assert f'"{repository}/docs/results/table.md"' in (tmp_path / "site" / "page" / "index.html").read_text()
    page.write_text(f"# Page\n\n[1](#part), [2](../none.py), [3]({repository}/docs/none.md), [4](index.md#part)\n")
    complaints = build(tmp_path, tmp_path / "site")
    assert "there is no such anchor on this page" in complaints
    assert "docs/page.md has a link to none.py, which does not exist" in complaints
    assert "docs/page.md has a link to docs/none.md, which does not exist" in complaints
    assert "a link to docs/index.md, which does not exist" in complaints


@pytest.mark.skipif(browser.unavailable() is not None, reason=str(browser.unavailable()))
def test_reader_finds_a_page_and_nothing_comes_from_elsewhere(address: str, tmp_path: Path) -> None:
    with browser.chromium(tmp_path) as driver:
        driver.get(f"{address}?q=enrol+a+device+with+an+invite")
        found = "return [...document.querySelectorAll('.md-search-result__link')].map(link => link.href)"
        until(lambda: driver.execute_script(found), "the search answers")
        assert driver.execute_script(found)[0].startswith(address)
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert len(loaded) > 3
        assert [name for name in loaded if not name.startswith(address)] == []
        assert browser.complaints(driver) == []
