"""What `mkdocs build` does besides: pages from the files of the root, links to files outside docs/, commands' examples.

1. README.md, CONTRIBUTING.md and CHANGELOG.md are pages of the site, and stay where GitHub and package indexes look.
2. A link to a file outside docs/ becomes one to the repository. A file that does not exist fails the build.
3. The examples in a command's help become code blocks.
"""

from __future__ import annotations

import inspect
import logging
import os.path
import re
import textwrap
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from edgenode.cli import group

log = logging.getLogger("mkdocs.plugins.site")  # whose warnings fail a strict build

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/edgenode/edgenode/blob/main/"
RAW = "https://raw.githubusercontent.com/edgenode/edgenode/main/"
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_NAMES = {path: name for name, path in PAGES.items()}
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_EXAMPLES = re.compile(r"\x08\n(\w+:)\n((?:  .*\n?)+)")


def on_startup(command: str, dirty: bool) -> None:
    _show_examples(group)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, path in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = PAGES.get(page.file.src_path, f"docs/{page.file.src_path}")
    return _LINK.sub(lambda found: link(found[1], source, files), markdown)


def link(target: str, source: str, files: Files) -> str:
    """A link of a file of the repository, as the site has it. One to a file that does not exist is a warning."""
    folder = Path(source).parent
    if target.startswith((REPOSITORY, RAW)):
        target, folder = target.removeprefix(REPOSITORY).removeprefix(RAW), Path()
    elif re.match(r"\w+:|#", target):
        return target
    path, mark, anchor = target.partition("#")
    path = os.path.normpath(folder / path)
    if not (ROOT / path).exists():
        log.warning("%s has a link to %s, which does not exist", source, path)
    here = _NAMES.get(path) or os.path.relpath(path, "docs")
    page = files.get_file_from_path(here)
    return (here if page and page.inclusion.is_included() else REPOSITORY + path) + mark + anchor


def _show_examples(command: click.Command) -> None:
    """Indent the examples in a command's help, and in that of its subcommands, so that Markdown shows them as code."""
    text = inspect.cleandoc(command.help or "")
    command.help = _EXAMPLES.sub(lambda found: f"{found[1]}\n\n{textwrap.indent(found[2], '  ')}", text)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if nested := command.get_command(context, name):
                _show_examples(nested)
