"""What the fuzzer once found stays mended, valid inputs decode, and a short run of the fuzzer finds nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.fuzz.catalogue import CORPUS, DECODERS

_INPUTS = [(path.parent.name, path.name) for path in sorted(CORPUS.glob("*/*"))]


@pytest.mark.parametrize("name", DECODERS)
def test_valid_inputs_decode(name: str) -> None:
    for data in DECODERS[name].valid:
        DECODERS[name].decode(data)


@pytest.mark.parametrize(("name", "file"), _INPUTS)
def test_inputs_that_were_found_stay_harmless(name: str, file: str) -> None:
    DECODERS[name].check((CORPUS / name / file).read_bytes())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this machine")
def test_a_short_run_of_the_fuzzer_finds_nothing() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--runs", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert "0 failures" in done.stdout
