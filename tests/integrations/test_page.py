"""The scripts of docs/integrations.md run as they are, with the commands of the page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text()
EXAMPLES = ROOT / "examples" / "frameworks"
COMMANDS = {name: line for line, name in re.findall(r"^    (edgenode launch .*? (\w+_example\.py) .*)$", PAGE, re.M)}
EXPECTED = {
    "lightning_example.py": ("lightning", r"accuracy 0\.[6-9]"),
    "trainer_example.py": ("transformers", r"accuracy (?:0\.[5-9]|1\.0)"),
    "lora_example.py": ("peft", r"exchanges 2048 of 107264 parameters\n.*sent 9\d{3} bytes in 43 messages"),
}


def test_every_script_has_its_command_and_its_test() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == COMMANDS.keys() == EXPECTED.keys()


@pytest.mark.slow
@pytest.mark.parametrize("script", EXPECTED)
def test_script_of_the_page_trains(script: str, tmp_path: Path) -> None:
    package, printed = EXPECTED[script]
    pytest.importorskip(package)
    for name in ("run.toml", script):
        shutil.copy(EXAMPLES / name, tmp_path)
    environ = {**os.environ, "EDGENODE_RUN_CLUSTER": f"page-{os.getpid()}"}
    command = [sys.executable, "-m", *shlex.split(COMMANDS[script])]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(re.findall(printed, ended.stdout)) == 2, ended.stdout
