"""Every scenario draws from a seed: one seed in `make test-all`, many in `make chaos` (`--seeds 0..25`).

A seed repeats a failed scenario: `pytest tests/chaos -k killed_nodes --seeds 7..8`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import mean

import pytest

from tests.e2e.conftest import fleet, pytest_runtest_makereport

__all__ = ["fleet", "pytest_runtest_makereport"]
_ONE = "0..1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", default=_ONE, help="Seeds of the chaos scenarios, from..to (without to).")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(metafunc.config))


def _seeds(config: pytest.Config) -> range:
    text = config.getoption("--seeds", default=_ONE)
    match = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if match is None:
        raise pytest.UsageError(f"--seeds {text}: expected from..to, for example 0..25")
    return range(int(match[1]), int(match[2]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a line for each scenario that ran more than once."""
    if len(_seeds(config)) < 2:
        return
    outcomes: dict[str, list[pytest.TestReport]] = defaultdict(list)
    for report in (r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, [])):
        if "tests/chaos/" in report.nodeid and report.when == "call":
            outcomes[report.nodeid.partition("::")[2].partition("[")[0]].append(report)
    terminalreporter.section("chaos")
    for name, reports in outcomes.items():
        passed, seconds = sum(r.passed for r in reports), [r.duration for r in reports]
        times = f"{min(seconds):.0f} to {max(seconds):.0f} s, {mean(seconds):.0f} on average"
        terminalreporter.line(f"{name}: {passed} of {len(reports)} passed; {times}")
