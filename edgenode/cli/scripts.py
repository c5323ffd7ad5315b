"""A training script that one command runs as several nodes: its words and its environment."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from edgenode.cli.shared_options import overrides
from edgenode.config.sections import SECTIONS

module_option = click.option("-m", "--module", is_flag=True, help="SCRIPT is the name of a module, as of python -m.")


@dataclass(frozen=True)
class Script:
    """A script or module.

    Attributes:
        arguments: its arguments, with placeholders.
    """

    name: str
    is_module: bool
    arguments: tuple[str, ...]

    def words(self, index: int, node: str, nodes: int) -> list[str]:
        """Return what follows ``python`` in the command of a node."""
        places = {"{index}": str(index), "{nodes}": str(nodes), "{name}": node}
        return [*(["-m"] if self.is_module else []), self.name, *(_filled(word, places) for word in self.arguments)]


def script_of(name: str, is_module: bool, arguments: tuple[str, ...]) -> Script:
    """Return the script that the words of a command line name.

    Raises:
        click.UsageError: it is not a file.
    """
    if not is_module and not Path(name).is_file():
        raise click.UsageError(f"{name} is not a file; a module needs -m")
    return Script(name, is_module, arguments[1:] if arguments[:1] == ("--",) else arguments)


def environ_of_run(config_path: Path | None, settings: tuple[str, ...]) -> dict[str, str]:
    """The environment of every process: this one's, with the run that the command line describes.

    A script that names its run.toml gets the same run: variables override the file.
    """
    run = tuple(f"EDGENODE_{section.upper()}_" for section in SECTIONS)
    ours = (*run, "EDGENODE_LOG_FORMAT", "EDGENODE_VERBOSE")
    environ = {k: v for k, v in os.environ.items() if k.startswith(ours) or not k.startswith("EDGENODE_")}
    if config_path is not None:
        environ["EDGENODE_CONFIG"] = str(config_path.resolve())
    for key, value in overrides(settings).items():
        environ[f"EDGENODE_{key.upper().replace('.', '_')}"] = value
    return {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **environ}


def how_it_ended(code: int) -> str:
    """Say how a process ended, by its exit code as of `subprocess`."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _filled(argument: str, places: Mapping[str, str]) -> str:
    for place, value in places.items():
        argument = argument.replace(place, value)
    return argument
