"""docs/limits.md has every limit of the code, and its numbers. Each row names its constants in a comment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/limits.md").read_text()
ROWS = re.findall(r"^\| (.+ \| .+) \| .*<!--(.+)--> \|$", PAGE, re.MULTILINE)
NAMED = {constant: shown for shown, constants in ROWS for constant in constants.split(",")}
FOLDERS = ("net", "security", "dashboard", "controller", "storage", "observability", "inference")
IS_A_LIMIT = re.compile(r"_?(MOST|MAX|LONGEST|LARGEST)(_\w+)?|_?(HELLO|REQUEST|OPENING|HANDSHAKE|STALL|STALLED)_M?S")
NOT_LIMITS = {
    "inference.image_model._MOST",  # what a model can be
    "net.dialling._MOST_EXPLAINED",  # of an error text
    "net.http._HELLO_S",  # between two looks
    "net.peer_client._MOST_CHECK_WAIT_S",  # between two probes
    "net.peer_client._STALLED_S",  # until the first probe
    "net.push_wire._MOST_PARTS",  # of an encoding
    "net.report_size._LONGEST_VARINT",  # of protobuf
    "observability.status_view._MOST_LINKS",  # that are shown
    "observability.status_view._MOST_PEERS",  # with a line each on a terminal
    "net.text_wire._LONGEST_ADDRESS",  # a longer text is no address
    "security.invite._MAX_CHARS",  # a longer line is no invite
    "security.public_address.LONGEST_HOST",  # a longer one makes no short invite
    "security.signing.MAX_SIGNATURE_CHARS",  # a longer text is no signature
    "storage.run_history._MOST_INTEGER",  # of SQLite
    "storage.state_folder._LONGEST_OWNER",  # of what this process wrote
}


def test_each_row_has_the_numbers_of_its_constants() -> None:
    assert len(ROWS) == PAGE.count("<!--")
    assert [(constant, shown) for constant, shown in NAMED.items() if not has_numbers_of(shown, constant)] == []


def test_page_has_every_limit() -> None:
    found = {f"{module}.{name}" for module, name in constants() if IS_A_LIMIT.fullmatch(name)}
    assert found - NAMED.keys() == NOT_LIMITS


def has_numbers_of(shown: str, constant: str) -> bool:
    module, _, name = constant.rpartition(".")
    values = numbers(getattr(import_module(f"edgenode.{module}"), name))
    tokens = ((rf"(?<![\d.,^]){re.escape(form)}(?![,.^]?\d)" for form in forms(value)) for value in values)
    return all(any(re.search(token, shown) for token in of_value) for of_value in tokens)


def constants() -> Iterator[tuple[str, str]]:
    """Each name that a module assigns at its top level, with the module."""
    for path in [ROOT / "edgenode/names.py", *(p for f in FOLDERS for p in (ROOT / "edgenode" / f).glob("*.py"))]:
        module = ".".join(path.relative_to(ROOT / "edgenode").with_suffix("").parts)
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                yield from ((module, node.id) for node in ast.walk(statement) if _is_assigned(node))


def _is_assigned(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def numbers(value: object) -> list[float]:
    """The numbers of a constant, in seconds if it is a time."""
    match value:
        case timedelta():
            return [value.total_seconds()]
        case range():
            return [max(value)]
        case Mapping():
            return list(value.values())
        case int() | float():
            return [value]
    raise TypeError(value)


def forms(value: float) -> set[str]:
    """What a page may show of a number: it as it is, in other units, or as a power."""
    units = {"KiB": 2**10, "MiB": 2**20, "min": 60, "h": 3600, "days": 86400, "s": 1000}
    found = {f"{value:,g}" if value < 1 else f"{value:,.0f}", *(f"{value / n:g} {unit}" for unit, n in units.items())}
    return found | {f"{base}^{n}" for base in (2, 10) for n in range(15, 64) if base**n == value}
