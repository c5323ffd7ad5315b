"""``edgenode new``: the files of a project with the user's own task."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from edgenode import names
from edgenode.errors import ConfigError

_FILES = {
    "{module}.py": "task.py.txt",
    "run.toml": "run.toml.txt",
    "test_{module}.py": "test_task.py.txt",
    "README.md": "README.md.txt",
}


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Create a project with a task of your own: a module, run.toml, a test and a README.md.

    The project works as it is. Replace its model and its data by your own.

    \b
    Examples:
      edgenode new birds                           creates the folder birds
      cd birds && edgenode simulate                trains it on four nodes in one process
    """
    folder = Path(name)
    module = re.sub(r"\W", "_", folder.name).lower()
    if not names.is_name(folder.name) or not module.isidentifier() or keyword.iskeyword(module):
        raise ConfigError(f"{folder.name!r} does not fit a Python module: choose letters, digits, - or _")
    if folder.exists():
        raise ConfigError(f"{folder} exists already: choose another name, or remove it")
    class_name = "".join(word.capitalize() for word in module.split("_")) or module
    folder.mkdir(parents=True)
    for target, source in _FILES.items():
        text = Template((files("edgenode.cli") / "project" / source).read_text(encoding="utf-8"))
        written = text.substitute(name=folder.name, module=module, class_name=class_name)
        (folder / target.format(module=module)).write_text(written, encoding="utf-8")
    click.echo(f"created {folder}; try it with: cd {folder} && edgenode simulate")
