"""Fuzz every decoder of bytes from outside with atheris, each in a process of its own: python -m tests.fuzz

An input that breaks a promise of `tests.fuzz.decoder` is written to tests/fuzz/found. With --only NAME and files, these
are decoded once, without atheris. Inputs that once broke a promise lie in tests/fuzz/corpus, where every run begins.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import atheris
import psutil
import structlog

with atheris.instrument_imports(include=["edgenode"]):
    from edgenode.errors import EdgenodeError
    from tests.fuzz.catalogue import CORPUS, DECODERS

_FOUND = Path(__file__).parent / "found"
_MIB = 1 << 20
_MOST_GROWN_BYTES = 256 * _MIB
_REPORT_EVERY = 100


class Outcome(NamedTuple):
    """What the process of one decoder did. ``failure`` is the last part of its output, or empty."""

    name: str
    runs: int
    grown_mib: int
    failure: str


def fuzz(name: str, options: list[str]) -> NoReturn:
    """Fuzz one decoder, and end the process."""
    decoder = DECODERS[name]
    for data in decoder.valid:
        with suppress(EdgenodeError):
            decoder.decode(data)  # what is loaded at the first use is neither growth nor slow
    idle_bytes = psutil.Process().memory_info().rss
    runs = 0

    def one(data: bytes) -> None:
        nonlocal runs
        decoder.check(data)
        runs += 1
        if runs % _REPORT_EVERY == 0:
            grown_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle_bytes
            print(f"{runs} runs, grown by {max(0, grown_bytes // _MIB)} MiB", flush=True)
            if grown_bytes > _MOST_GROWN_BYTES:
                raise MemoryError(f"grown by {grown_bytes // _MIB} MiB")

    with tempfile.TemporaryDirectory() as folder:  # libFuzzer adds to it what reaches new code
        for number, data in enumerate(decoder.valid):
            (Path(folder) / f"valid-{number}").write_bytes(data)
        corpora = [folder, *(str(found) for found in [CORPUS / name] if found.exists())]
        atheris.Setup([sys.argv[0], f"-max_len={decoder.max_bytes}", *options, *corpora], one)
        atheris.Fuzz()
    sys.exit("atheris returned")


def begin(name: str, options: list[str], log: Path) -> int:
    """Fuzz a decoder in a child, which has imported everything already. Returns its process id."""
    child = os.fork()
    if child == 0:
        with log.open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        try:
            fuzz(name, options)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def outcome(name: str, status: int, log: Path) -> Outcome:
    """What a child did that has ended."""
    text = log.read_text(errors="replace")
    reports = re.findall(r"(\d+) runs, grown by (\d+) MiB", text)
    done = re.search(r"Done (\d+) runs", text)
    failure = "" if status == 0 and done else re.sub(r"(?m)^.* runs, grown by .*\n|^#.*\n|^INFO.*\n", "", text)[-2500:]
    runs, grown = (reports or [("0", "0")])[-1]
    return Outcome(name, int(done[1] if done else runs), int(grown), failure)


def fuzz_all(runs: int, seed: int, seconds: int) -> list[Outcome]:
    """Fuzz all decoders, as many at a time as there are processors. They share the runs."""
    shares = sum(decoder.share for decoder in DECODERS.values())
    waiting, running, outcomes = list(DECODERS), dict[int, str](), list[Outcome]()
    with tempfile.TemporaryDirectory() as logs:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                name = waiting.pop(0)
                own = -(-runs * DECODERS[name].share // shares)
                prefix = f"-artifact_prefix={_FOUND}/{name}-"
                options = [f"-runs={own}", f"-seed={seed}", f"-timeout={seconds}", prefix]
                running[begin(name, options, Path(logs) / name)] = name
            child, status = os.wait()
            name = running.pop(child)
            outcomes.append(outcome(name, status, Path(logs) / name))
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500_000, help="executions of all decoders together")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--only", choices=sorted(DECODERS), help="one decoder")
    parser.add_argument("files", nargs="*", type=Path, help="inputs for it")
    options = parser.parse_args()
    for file in options.files:
        DECODERS[options.only].check(file.read_bytes())
    if options.files:
        return
    if options.only:
        for name in set(DECODERS) - {options.only}:
            del DECODERS[name]
    _FOUND.mkdir(exist_ok=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # handlers log refusals
    began = time.monotonic()
    outcomes = fuzz_all(options.runs, options.seed, seconds=60)
    took_s = time.monotonic() - began
    for one in sorted(outcomes):
        print(f"{one.name:18}{one.runs:9,} runs, grown by {one.grown_mib} MiB{one.failure and '  FAILED'}")
    failed = [one for one in outcomes if one.failure]
    for one in failed:
        print(f"\n{one.name}:\n{one.failure}\nAgain: python -m tests.fuzz --only {one.name} FILE", file=sys.stderr)
    total = sum(one.runs for one in outcomes)
    print(f"{total:,} runs in {took_s:.0f} s, {total / took_s:,.0f} a second, {len(failed)} failures")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
