"""Objects of installed packages are found by name, and a package that cannot be used is named in one line."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest

from edgenode import entry_points
from edgenode.entry_points import Group
from edgenode.errors import ConfigError
from tests.distributions import install

GROUP = "edgenode.numbers"


def a_group() -> Group[int]:
    return Group(GROUP, int, {"one": 1, "two": 2})


def error_of(name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        a_group()[name]
    return str(caught.value)


def test_own_name_is_found_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgenode.entry_points.entry_points", None)
    assert a_group()["two"] == 2


def test_name_of_a_package_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {GROUP: {"three": "numbers_a:THREE"}}, "THREE = 3\n", "numbers_a")
    group = a_group()
    assert group["three"] == 3
    monkeypatch.setattr("edgenode.entry_points.entry_points", None)
    assert group["three"] == 3


def test_packages_are_searched_once_for_all_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, {GROUP: {"three": "numbers_e:THREE"}}, "THREE = 3\n", "numbers_e")
    expected = {"package of edgenode.numbers:three": "acme 1.0"}
    assert a_group().providers(["three"]) == expected
    monkeypatch.setattr("edgenode.entry_points.metadata", None)
    assert a_group().providers(["three"]) == expected


def test_package_cannot_replace_an_own_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path, monkeypatch, {GROUP: {"one": "numbers_b:ONE", "three": "numbers_b:ONE"}}, "ONE = 11\n", "numbers_b"
    )
    group = a_group()
    assert group["one"] == 1
    assert group.names() == ("one", "two", "three")
    assert group.providers(["one", "three", "absent"]) == {"package of edgenode.numbers:three": "acme 1.0"}


def test_unknown_name_lists_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of("tow") == 'it must be "one" or "two"; did you mean "two"?'
    install(tmp_path, monkeypatch, {GROUP: {"three": "numbers_c:THREE"}}, "THREE = 3\n", "numbers_c")
    assert error_of("tree") == 'it must be "one", "two" or "three"; did you mean "three"?'


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        (
            "import absent_module",
            "broken:X",
            "cannot be imported: ModuleNotFoundError: No module named 'absent_module'",
        ),
        ("raise OSError('no\\nroom')", "broken:X", "cannot be imported: OSError: no room"),
        ("1 / 0", "broken:X", "cannot be imported: ZeroDivisionError: division by zero"),
        ("X = 1 +", "broken:X", "cannot be imported: SyntaxError: invalid syntax (broken.py, line 1)"),
        ("", "broken:X", "cannot be imported: AttributeError: module 'broken' has no attribute 'X'"),
        ("X = 'text'", "broken:X", "provides broken:X, which is not of type int"),
    ],
)
def test_package_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, value: str, reason: str
) -> None:
    install(tmp_path, monkeypatch, {GROUP: {"x": value}}, source, "broken")
    assert error_of("x") == f"acme 1.0 {reason}"


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("acme", "bolt"):
        install(tmp_path / package, monkeypatch, {GROUP: {"x": "numbers_d:X"}}, "X = 1", "numbers_d", package)
    assert error_of("x") == "acme 1.0 and bolt 1.0 both provide it: uninstall one of them"


def test_name_of_the_laboratory_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithms = Group("edgenode.algorithms", object, {"sp": object()})
    assert algorithms.in_laboratory("sparta") == ""  # it is installed
    monkeypatch.setattr("edgenode.entry_points.entry_points", lambda group: EntryPoints(()))
    with pytest.raises(ConfigError) as caught:
        algorithms["sparta"]
    assert str(caught.value) == "it is part of edgenode-lab, which is not installed: pip install edgenode-lab"
    with pytest.raises(ConfigError, match="did you mean"):
        algorithms["spartan"]


def test_names_of_the_laboratory_are_those_that_it_adds() -> None:
    declared = tomllib.loads(Path("lab/pyproject.toml").read_text())["project"]["entry-points"]
    assert {group: set(names) for group, names in declared.items()} == entry_points._LABORATORY
