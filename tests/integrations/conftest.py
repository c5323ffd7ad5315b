"""A node in this process, alone in its run, which a framework trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgenode.addresses import free_ports

Arguments = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes are on loopback."""
    monkeypatch.setenv("EDGENODE_INSECURE", "1")


@pytest.fixture(autouse=True)
def restore_global_state() -> Iterator[None]:
    """These tests run on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def alone(tmp_path: Path) -> Arguments:
    """Arguments of a MeshCallback whose node is alone in its run. Keys of run.toml are arguments of the function."""

    def arguments(**keys: object) -> dict[str, Any]:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        run = {"run.nodes": 1, "run.rounds": 12, "run.checkpoint_every": 5, "run.evaluate_every": 4}
        settings = {**run, "algorithm.name": "sp", **{key.replace("__", "."): value for key, value in keys.items()}}
        return {"name": "n0", "listen": address, "peers": address, "state_dir": tmp_path / "n0", "settings": settings}

    return arguments
