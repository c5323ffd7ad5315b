"""A reader finds a whole model at every moment, whatever happens to the writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from edgenode.errors import CheckpointError, ConfigError
from edgenode.storage import model_file
from edgenode.storage.filesystem import REAL_DISK

WRITER = """
import sys, torch
from pathlib import Path
from edgenode.storage import model_file
number = int(sys.argv[2])
while True:
    number += 1
    model_file.write(Path(sys.argv[1]), {"w": torch.full((300_000,), float(number))}, {"round": str(number)})
    print(number, flush=True)
"""


def write(path: Path, value: float = 1.0) -> None:
    model_file.write(path, {"w": torch.full((3,), value)}, {"round": "7"})


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "model.safetensors"
    assert model_file.version(path) is None
    write(path, 2.0)
    found = model_file.read(path)
    assert found.tensors["w"].tolist() == [2.0] * 3
    assert found.metadata == {"round": "7"}
    assert found.version == model_file.version(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_tensors_of_every_kind_are_read_as_they_were_written(tmp_path: Path) -> None:
    tied = torch.randn(3, 4)
    formats = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e5m2)
    tensors = {
        "one": tied, "two": tied, "across": tied.t(), "number": torch.tensor(3), "nothing": torch.zeros(0, 3),
        **{str(dtype): torch.arange(5).to(dtype) for dtype in formats},
    }  # fmt: skip
    model_file.write(tmp_path / "m", tensors, {"round": "7", "node": "é"})
    found = model_file.read(tmp_path / "m")
    assert found.metadata == {"round": "7", "node": "é"} and found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name].float(), tensor.float())


def test_model_is_written_without_a_copy(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(500, 500), "v": torch.zeros(500, 500)}
    write(tmp_path / "m")
    tracemalloc.start()
    model_file.write(tmp_path / "m", tensors, {"round": "7"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.1 * sum(tensor.nbytes for tensor in tensors.values())


def test_every_write_makes_another_version(tmp_path: Path) -> None:
    path = tmp_path / "m"
    versions = []
    for _ in range(5):
        write(path)  # the same content
        versions.append(model_file.version(path))
    assert all(a != b for a, b in pairwise(versions))


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "m")
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o640


def test_open_file_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write(path, 1.0)
    before = model_file.read(path)
    write(path, 2.0)
    assert before.tensors["w"].tolist() == [1.0] * 3


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    write(path, 1.0)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(REAL_DISK, "flush", full)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*No space left"):
        write(path, 2.0)
    assert model_file.read(path).tensors["w"].tolist() == [1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_unusable_place_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--publish .* is a folder: name a file"):
        model_file.check_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: "):
        model_file.check_writable(tmp_path / "file" / "m")
    model_file.check_writable(tmp_path / "new" / "m")
    assert list((tmp_path / "new").iterdir()) == []


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist: a node writes it every run\.publish_every rounds"):
        model_file.read(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"\x10\0\0\0\0\0\0\0not a header")
    with pytest.raises(ConfigError, match="is not a model in safetensors format"):
        model_file.read(tmp_path / "m")
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(ConfigError, match="is not a model in safetensors format"):
        model_file.read(tmp_path / "m")


@pytest.mark.slow
def test_reader_finds_whole_models_while_writers_are_killed(tmp_path: Path) -> None:
    path, last, reads = tmp_path / "m", 0, 0
    for delay_s in (0.0, 0.003, 0.011):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(last)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        until = time.monotonic() + 0.5 + delay_s
        while time.monotonic() < until:
            last, reads = max(last, _read_whole(path)), reads + 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        last = max(last, _read_whole(path))
    assert reads > 10
    assert last > 3


def _read_whole(path: Path) -> int:
    found = model_file.read(path)
    values = found.tensors["w"]
    assert values.shape == (300_000,)
    assert (values == float(found.metadata["round"])).all()
    return int(found.metadata["round"])
