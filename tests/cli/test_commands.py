"""The commands: help, exit codes, and one line for every error."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.cli.shared_options import default_name, load_config
from edgenode.core.topology.graph import PRESETS
from edgenode.errors import ConfigError, RemoteProtocolError
from tests.distributions import install


def run(*words: str) -> Result:
    return CliRunner().invoke(group, words)


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from commands(found, (*path, name))


ALL = sorted(commands(group))


# --- help


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_of_every_command_has_an_example(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    examples = result.output.partition("Example")[2]
    assert " ".join(("edgenode", *words)) in examples


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a command, with one that cannot be imported, and with one that has a name of edgenode."""
    points = {"hello": "acme_tool:hello", "broken": "absent_module:x", "status": "acme_tool:hello"}
    source = "import click\n\n@click.command()\ndef hello():\n    click.echo('hello from acme')\n"
    install(tmp_path, monkeypatch, {"edgenode.commands": points}, source, "acme_tool")


@pytest.mark.usefixtures("acme")
def test_installed_package_adds_a_command() -> None:
    assert re.search(r"\n  hello +Provided by acme 1\.0\.\n", run("--help").output)
    assert run("hello").output == "hello from acme\n"
    assert "hello from acme" not in run("status", "--help").output


@pytest.mark.usefixtures("acme")
def test_command_that_cannot_be_imported_is_named_with_its_package() -> None:
    result = run("broken")
    assert result.exit_code == 2
    assert "broken: acme 1.0 cannot be imported: ModuleNotFoundError: No module named 'absent_module'" in result.output


def test_all_commands_of_the_design_exist() -> None:
    names = {" ".join(words) for words in ALL}
    assert {"demo", "run", "controller", "status", "stop", "pause", "resume", "evict"} <= names
    assert {f"topology {name}" for name in ("show", "list", "set", "rotate")} <= names


def test_help_does_not_import_torch() -> None:
    """Nor does any of these after the others, in one process."""
    code = (
        "import sys; from edgenode.cli import group\n"
        "for line in sys.stdin:\n"
        "    group.main(line.split(), 'edgenode', standalone_mode=False)\n"
        "    if found := {'torch', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules):\n"
        "        sys.exit(f'{line}imports {found}')"
    )
    lines = ("--help", "topology --help", "run --help", "controller --help", "topology list", "watch --help")
    done = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(lines), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"Usage: edgenode {line.removesuffix('--help')}" in done.stdout for line in lines if "--help" in line)
    assert all(name in done.stdout for name in PRESETS)


def test_node_starts_at_once_and_imports_only_what_it_uses(tmp_path: Path) -> None:
    """A whole run of one node, from its start to result.json."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["run", "--insecure", "--listen", address, "--peers", address, "--state-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "edgenode", *words, "--set", "run.nodes=1", "--set", "run.rounds=2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = done.stderr.split("starting  ")  # torch alone takes seconds on a small board
    imported, later = (set(re.findall(r"^import time:.*\| +(\S+)$", part, re.MULTILINE)) for part in (before, after))
    assert "torch" in later - imported
    unused = {"torchvision", "sklearn", "networkx", "matplotlib", "PIL", "pandas", "scipy", "sympy", "sqlite3"}
    unused |= {"prometheus_client", "starlette", "uvicorn", "zeroconf"}  # for --metrics and for mDNS
    assert (imported | later) & unused == set()


def test_list_of_commands_imports_almost_nothing() -> None:
    """Imports take most of the time of `edgenode --help`: without these it takes under 0.2 s on an idle machine."""
    code = (
        "import sys; from edgenode.cli import group; group.main(['--help'], standalone_mode=False)\n"
        "sys.exit(len({'torch', 'numpy', 'grpc', 'rich', 'msgspec', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_imports_no_numpy() -> None:
    """It took a fifth of the time of a command for a running cluster."""
    code = (
        "import sys; from edgenode.cli import group; group.main(sys.argv[1:], standalone_mode=False)\n"
        "print({'torch', 'numpy', 'grpc'} & set(sys.modules))"
    )
    words = ("status", "--insecure", "--controller", "127.0.0.1:1", "--wait", "0.1")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "{'grpc'}\n"), done.stderr
    assert "no controller answers at 127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_works_in_every_documented_shell(shell: str) -> None:
    documented = f"_EDGENODE_COMPLETE={shell}_source edgenode"
    assert documented in Path("docs/operating.md").read_text()
    script = CliRunner().invoke(group, [], prog_name="edgenode", env={"_EDGENODE_COMPLETE": f"{shell}_source"})
    assert "_EDGENODE_COMPLETE" in script.output
    typed = {"COMP_WORDS": "edgenode pa", "COMP_CWORD": "pa" if shell == "fish" else "1"}
    asked = {"_EDGENODE_COMPLETE": f"{shell}_complete", **typed}
    answer = CliRunner().invoke(group, [], prog_name="edgenode", env=asked).output
    assert "pause" in answer
    assert "resume" not in answer


def test_version_is_printed() -> None:
    assert run("--version").output.startswith("edgenode, version ")


def test_presets_are_listed_with_their_meaning() -> None:
    lines = run("topology", "list").output.splitlines()
    assert [line.split()[0] for line in lines] == list(PRESETS)
    assert all(line.endswith(preset.meaning) for line, preset in zip(lines, PRESETS.values(), strict=True))


def options(words: tuple[str, ...]) -> list[click.Option]:
    command: click.Command = group
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return [option for option in command.params if isinstance(option, click.Option)]


@pytest.mark.parametrize("words", [words for words in ALL if words], ids=" ".join)
def test_help_names_the_variables_of_the_daemons_options(words: tuple[str, ...]) -> None:
    """The options of both daemons have a variable, in every command that has them, and so has who may call where."""
    text = " ".join(run(*words, "--help").output.split())
    daemons = {o.opts[-1] for daemon in ("run", "controller") for o in options((daemon,))} - {"--set"}
    for option in options(words):
        named = option.opts[-1] in daemons | {"--cluster", "--credentials"}
        assert named == (f"[env var: {option.envvar}" in text), option.opts


def test_an_option_means_the_same_in_every_command() -> None:
    meanings: dict[str, set[str]] = {}
    for words in ALL:
        for option in options(words):
            kind = "flag" if option.is_flag else option.type.name
            meanings.setdefault(option.opts[-1], set()).add(f"{kind} {option.envvar}")
    several = {option for option, found in meanings.items() if len(found) > 1}
    assert several == {"--listen", "--out"}  # the other daemon's address; the file or the folder that is written
    (listen,) = (option.envvar for option in options(("controller",)) if option.name == "listen")
    assert listen == "EDGENODE_CONTROLLER_LISTEN"  # the address of a node beside it is another one


def test_help_groups_the_commands_by_purpose() -> None:
    text = run("--help").output
    groups = re.findall(
        r"^([A-Z][a-z ]+):\n((?:  .*\n)+)", text.partition("\nTrain:")[1] + text.partition("\nTrain:")[2], re.M
    )
    found = {purpose: re.findall(r"^  ([a-z]+) ", lines, re.M) for purpose, lines in groups}
    assert list(found) == ["Train", "Watch", "Steer", "Secure", "Check", "Use", "Installed packages"]
    assert found["Steer"] == ["pause", "resume", "stop", "extend", "evict", "topology"]
    assert sorted(name for names in found.values() for name in names) == sorted(
        group.list_commands(click.Context(group))
    )


def test_help_names_the_exit_codes_and_the_page_of_errors() -> None:
    end = " ".join(run("--help").output.partition("Exit codes: ")[2].split())
    assert end.startswith("0 done, 1 a run or a check failed, 2 not possible as given, 3 not admitted")
    assert "docs/errors.md" in end


# --- errors


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "--config", "nowhere.toml"), "nowhere.toml: cannot be read: No such file or directory"),
        (("run", "--set", "run.rounds"), "--set run.rounds: expected KEY=VALUE"),
        (("run", "--set", "run.round=1"), "command-line option: unknown key run.round"),
        (("run", "--set", "run.rounds=many"), 'run.rounds = "many", but it must be a whole number'),
        (("run", "--controller", "none"), "--controller none needs --peers"),
        (("run", "--listen", "7600"), "'7600' is not an address: expected host:port"),
        (("run", "--peers", "10.0.0.1:7600,10.0.0.2"), "'10.0.0.2' is not an address"),
        (("controller", "--listen", "here"), "'here' is not an address"),
        (("status", "--controller", "here"), "'here' is not an address"),
        (("stop", "--controller", "here:port"), "'here:port' is not an address"),
        (("health", "here"), "'here' is not an address"),
        (("doctor", "--listen", "7600"), "'7600' is not an address"),
        (("doctor", "--controller", "here"), "'here' is not an address"),
        (("doctor", "--peers", "10.0.0.1:7600,there"), "'there' is not an address"),
        (("topology", "set", "chrod"), "no graph named 'chrod'; did you mean 'chord'"),
        (("topology", "rotate", "a,d"), "no graph named 'd'"),
        (("topology", "rotate", ","), "a rotation needs at least one graph"),
        (("topology", "rotate", "a", "--every", "0ep"), "'0ep' is not a period"),
    ],
)
def test_usage_error_is_one_line_with_exit_code_2(words: tuple[str, ...], text: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("edgenode: ")
    assert text in line


@pytest.mark.parametrize("words", [("strat",), ("status", "--jsno"), ("demo", "--nodes", "1"), ("topology", "set")])
def test_usage_error_found_by_click_has_exit_code_2(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_malformed_edge_list_is_rejected_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "office.txt"
    path.write_text("x y\nx\n")
    result = run("topology", "set", str(path))
    assert (result.exit_code, result.stderr) == (
        2,
        "edgenode: office has 1 error: line 2: expected 'sender receiver' or 'a -- b', and maybe a weight, got 'x'\n",
    )


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("no"), 2, "edgenode: no"),
        (RemoteProtocolError("no"), 1, "edgenode: no"),
        (PermissionError(13, "Permission denied", "/out"), 1, "edgenode: /out: Permission denied"),
        (OSError("odd"), 1, "edgenode: the system: odd"),
        (KeyboardInterrupt(), 130, "edgenode: interrupted"),
    ],
)
def test_every_kind_of_error_has_its_exit_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("edgenode.cli.status_commands.with_operator", fail)
    result = run("status")
    assert (result.exit_code, result.stderr) == (code, f"{line}\n")


@pytest.mark.parametrize("words", [("stop",), ("pause",), ("evict", "n1")], ids=" ".join)
def test_interrupted_wait_warns_that_the_request_stands(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgenode.cli.steering.with_operator", interrupted)
    result = run(*words)
    assert (result.exit_code, result.stderr) == (
        130,
        "edgenode: interrupted; the request may still take effect (see edgenode status)\n",
    )


def test_impossible_output_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("demo", "--out", str(tmp_path / "file" / "demo"))
    assert result.exit_code == 1
    assert result.stderr == f"edgenode: {tmp_path / 'file' / 'demo'}: Not a directory\n"


# --- options


def test_set_option_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[run]\nrounds = 3\nnodes = 5\n")
    monkeypatch.setenv("EDGENODE_RUN_NODES", "6")
    config = load_config(path, ("run.rounds = 7",))
    assert (config.run.rounds, config.run.nodes) == (7, 6)


def test_configuration_warning_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    load_config(None, ("algorithm.averaging_rate=0.02",))
    assert capsys.readouterr().err.startswith("edgenode: warning: algorithm.averaging_rate = 0.02 is above")


def test_default_name_is_the_host_name_made_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    for host, name in (("pi-4.local", "pi-4.local"), ("büro pi", "b-ro-pi"), ("x" * 99, "x" * 63), ("", "node")):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        assert default_name() == name
