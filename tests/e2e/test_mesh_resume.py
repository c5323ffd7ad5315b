"""A training loop that is stopped, and loses its power, at random places ends with the bits of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import random
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgenode.addresses import free_ports

pytest.importorskip("lightning.pytorch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NODES, PLACES = 2, 10
_DEADLINE_S = 120.0
_TO_STOP = 30  # rounds, at most, from the request to the stop
_processes = multiprocessing.get_context("forkserver")  # which imports the frameworks once
_processes.set_forkserver_preload(["tests.e2e.resumed_loops"])


class Run:
    """The processes of a run, life after life."""

    def __init__(self, form: str, folder: Path) -> None:
        folder.mkdir()
        self.form, self.folder = form, folder
        self.cluster = f"{form}-{uuid.uuid4().hex[:8]}"  # mDNS finds those of other tests

    def live(self, place: int, end: str) -> None:
        """Start all processes. When the first node has reached a round, end them: "stop", "kill", or when they end."""
        from tests.e2e import resumed_loops

        controller = f"127.0.0.1:{free_ports(1)[0]}"
        reached, go_on = _processes.Event(), _processes.Event()
        keys = resumed_loops.keys(self.cluster, NODES)
        run = [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]
        where = ("--listen", controller, "--http", "none", "--state-dir", str(self.folder / "controller"))
        log, stops = self.folder / "controller.log", self.stops()
        server = self.start(resumed_loops.run_command, log, "controller", *run, *where)
        nodes = [
            self.start(resumed_loops.run_node, self.form, i, keys, controller, self.folder, place, reached, go_on)
            for i in range(NODES)
        ]
        try:
            if end:
                self.wait(reached.is_set, [*nodes, server])
            if end == "stop":
                command = self.start(resumed_loops.run_command, log, "stop", "--controller", controller)
                self.wait(lambda: self.stops() > stops, [command])
                go_on.set()
                command.join(_DEADLINE_S)
                assert command.exitcode == 0, self.logs()
            if end != "kill":
                self.wait(lambda: not any(node.is_alive() for node in nodes), [] if end else [server])
                assert [node.exitcode for node in nodes] == [0] * NODES, self.logs()
        finally:
            for process in [*nodes, server]:
                process.kill()
                process.join()

    def start(self, work: Any, *arguments: Any) -> Any:
        process = _processes.Process(target=work, args=arguments)
        process.start()
        return process

    def wait(self, condition: Any, alive: Any = ()) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not condition():
            ended = [process.exitcode for process in alive if not process.is_alive()]
            assert time.monotonic() < deadline and not ended, f"ended with {ended}\n{self.logs()}"
            time.sleep(0.01)

    def stops(self) -> int:
        """How often the controller has taken the request."""
        log = self.folder / "controller.log"
        return log.read_text().count("request=stop") if log.exists() else 0

    def logs(self) -> str:
        return "\n".join(f"--- {log}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("*.log")))

    def models(self) -> dict[str, Tensor]:
        files = {f"n{i}": load_file(self.folder / f"n{i}" / "model.safetensors") for i in range(NODES)}
        return {f"{node}.{name}": value for node, file in files.items() for name, value in file.items()}


@pytest.mark.parametrize("form", ["plain", "lightning", "trainer"])
def test_interrupted_loop_ends_with_the_same_bits(tmp_path: Path, form: str) -> None:
    from tests.e2e import resumed_loops

    seed = int(uuid.uuid4().int % 10**6)
    print(f"seed {seed}")
    numbers = random.Random(seed)
    places = sorted(numbers.sample(range(1, resumed_loops.STEPS - _TO_STOP), PLACES))
    ends = numbers.sample(["stop", "kill"] * (PLACES // 2), PLACES)
    whole, broken = Run(form, tmp_path / "whole"), Run(form, tmp_path / "broken")
    whole.live(resumed_loops.STEPS * 2, "")
    for place, end in zip(places, ends, strict=True):
        print(f"{end} in round {place}")
        broken.live(place, end)
    broken.live(resumed_loops.STEPS * 2, "")
    expected, found = whole.models(), broken.models()
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
