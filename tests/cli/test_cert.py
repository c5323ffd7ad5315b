"""`edgenode cert`: certificates without a controller."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.cli.security import cert
from edgenode.security.authority import Authority
from edgenode.security.secret_files import read_credentials
from edgenode.security.subject import Subject


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cert, [*arguments, "--authority", str(folder / "authority")])


def test_issued_key_gets_another_certificate(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "boards"))
    assert run(tmp_path, "init", "--cluster", "home").exit_code == 0
    assert run(tmp_path, "issue", "pi-1", "pi-2", *out).exit_code == 0
    files = [tmp_path / "boards" / name / "credentials.pem" for name in ("pi-1", "pi-2")]
    old = [read_credentials(path) for path in files]
    assert "valid until" in run(tmp_path, "issue", "pi-1", *out).output
    assert [read_credentials(path) for path in files] == old  # not due yet
    renewed = run(tmp_path, "renew", "pi-1", *out)
    assert renewed.exit_code == 0 and str(files[0]) in renewed.output
    new = read_credentials(files[0])
    assert old[0] and new and new.key_id == old[0].key_id and new.certificate != old[0].certificate
    assert read_credentials(files[1]) == old[1]
    listed = json.loads(run(tmp_path, "list", "--json").output)
    assert {"role": "node", "name": "pi-1", "key": new.key_id} in listed


def test_key_is_revoked_in_the_folder_of_a_stopped_controller(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "home")
    key = authority.make(Subject("node", "pi-3")).key_id
    found = CliRunner().invoke(group, ["revoke", "pi-3", "--yes", "--authority", str(tmp_path / "authority")])
    assert (found.exit_code, found.output) == (0, f"the key {key[:16]} of node pi-3 is revoked\n")
    assert authority.revoked() == {key} and not authority.admits(Subject("node", "pi-3"), key)
    found = CliRunner().invoke(group, ["revoke", "pi-3", "--yes", "--authority", str(tmp_path / "authority")])
    assert (found.exit_code, found.stderr) == (1, "edgenode: node pi-3 has no key\n")
    found = CliRunner().invoke(group, ["revoke", "pi-3", "--yes", "--authority", str(tmp_path / "x")])
    assert found.exit_code == 2 and "x does not exist: a controller's is in its --state-dir" in found.stderr


def test_file_that_is_missing_or_of_another_name_is_refused(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path))
    run(tmp_path, "init")
    run(tmp_path, "issue", "pi-1", *out)
    assert "make one with edgenode cert issue pi-2" in str(run(tmp_path, "renew", "pi-2", *out).exception)
    (tmp_path / "pi-1").rename(tmp_path / "pi-2")
    assert "is not of node pi-2" in str(run(tmp_path, "renew", "pi-2", *out).exception)
    (tmp_path / "pi-2").rename(tmp_path / "old")
    run(tmp_path, "issue", "pi-1", *out)
    (tmp_path / "old" / "credentials.pem").replace(tmp_path / "pi-1" / "credentials.pem")
    assert "revoked or replaced" in str(run(tmp_path, "renew", "pi-1", *out).exception)
