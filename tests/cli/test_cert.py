"""`edgenode cert`: certificates without a controller."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from edgenode.cli.security import cert
from edgenode.security.secret_files import read_credentials


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
