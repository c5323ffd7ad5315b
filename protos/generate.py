"""Generate edgenode/net/proto from the .proto files here; with --check, fail if the checked-in code is stale."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS.parent / "edgenode" / "net" / "proto"


def generate(out: Path) -> None:
    """Run protoc; the package's files appear under out/edgenode/v1."""
    sources = sorted(str(p.relative_to(PROTOS)) for p in PROTOS.rglob("*.proto"))
    flags = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    include = Path(protoc.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{include}", *flags, *sources]):
        raise SystemExit("protoc failed")


def tree(package: Path) -> dict[str, str]:
    """The generated files by name; services that a file has none of leave an empty stub, which is dropped."""
    files = {p.name: _moved(p.read_text()) for p in package.glob("*_pb2*")}
    return {n: t for n, t in files.items() if not (n.endswith("_grpc.py") and "Stub" not in t)}


def _moved(text: str) -> str:
    """protoc imports by the path of the .proto file, which names the version; the code lies in its own package."""
    return text.replace("from edgenode.v1 import", "from edgenode.net.proto import")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = tree(Path(scratch) / "edgenode" / "v1")
    if "--check" in sys.argv:
        if fresh != tree(PACKAGE):
            raise SystemExit("edgenode/net/proto is stale: run make protos")
        return
    PACKAGE.mkdir(exist_ok=True)
    for old in PACKAGE.glob("*_pb2*"):
        old.unlink()
    for name, text in fresh.items():
        (PACKAGE / name).write_text(text)
    (PACKAGE / "__init__.py").write_text('"""Generated from protos/edgenode/v1; see protos/generate.py."""\n')


if __name__ == "__main__":
    main()
