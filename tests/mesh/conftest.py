"""A node in this process: a small loop of one's own, alone in its run unless a test adds others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgenode import Mesh
from edgenode.addresses import free_ports
from edgenode.mesh import misuse

MakeMesh = Callable[..., Mesh]


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes are on loopback."""
    monkeypatch.setenv("EDGENODE_INSECURE", "1")


@pytest.fixture(autouse=True)
def restore_global_state() -> Iterator[None]:
    """A Mesh warns once in a process, and these tests run on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    misuse.not_looped.clear()


@pytest.fixture
def make_mesh(tmp_path: Path) -> MakeMesh:
    """Make a node that is alone in its run. Keys of run.toml go into ``settings``."""

    def make(model: nn.Module, *kept: Any, settings: dict[str, object] | None = None, **arguments: Any) -> Mesh:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        run = {"run.nodes": 1, "run.rounds": 12, "run.checkpoint_every": 5, "run.evaluate_every": 4}
        where = {"name": "n0", "listen": address, "peers": address, "state_dir": tmp_path / "n0", **arguments}
        return Mesh(model, None, *kept, settings={**run, "algorithm.name": "sp", **(settings or {})}, **where)

    return make
