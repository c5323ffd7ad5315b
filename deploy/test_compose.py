"""compose.yaml in real containers: `make test-compose` needs a Docker engine with `docker compose`.

The variable DOCKER_BUILD passes flags to the build, for example "--network host".
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

HERE = Path(__file__).parent
NODES = [f"node-{i}" for i in range(4)]
SHORT = 200  # rounds


class Ring:
    """The containers of one test. Its end removes them with their volumes, and a failure prints their logs."""

    def __init__(self, rounds: int | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])
        self._environ = os.environ | {"HTTP_PORT": self._port}
        if rounds is not None:
            self._environ["EDGENODE_RUN_ROUNDS"] = str(rounds)

    def __enter__(self) -> Self:
        self("down", "-v")  # removes what an interrupted test left
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(self("ps", "-a"), self("logs", "--no-color"), sep="\n")
        self("down", "-v", "--timeout", "5")

    def __call__(self, *words: str) -> str:
        """Run a docker compose command, and return its output."""
        command = ["docker", "compose", "-p", "edgenode-test", "-f", str(HERE / "compose.yaml"), *words]
        done = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def edgenode(self, *words: str) -> str:
        """Run an operator's command in the controller's container."""
        return self("exec", "-T", "controller", "edgenode", *words)

    def page(self, path: str) -> str:
        """Sign in to the controller's page on this machine, and fetch from it."""
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        token = self("exec", "-T", "controller", "cat", "/var/lib/edgenode/metrics-token")
        browser.addheaders = [("Authorization", f"Bearer {token}")]
        link = self.edgenode("page").strip()
        assert link.startswith(f"http://localhost:{self._port}/")
        browser.open(link, timeout=10).close()
        with browser.open(f"http://localhost:{self._port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what docker reports of each service's container."""
        lines = self("ps", "-a", "--format", "json").splitlines()
        return {container["Service"]: container for container in map(json.loads, lines)}

    def log(self, service: str) -> str:
        return self("logs", "--no-color", "--no-log-prefix", service)

    def result(self, node: str, folder: Path) -> dict[str, Any]:
        """Copy the result.json from a node's volume."""
        self("cp", f"{node}:/var/lib/edgenode/result.json", str(folder / f"{node}.json"))
        found: dict[str, Any] = json.loads((folder / f"{node}.json").read_text())
        return found


def until(what: Callable[[], Any], timeout_s: float, why: str) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {why}"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="module", autouse=True)
def _image() -> None:
    flags = shlex.split(os.environ.get("DOCKER_BUILD", ""))
    command = ["docker", "build", *flags, "-t", "edgenode", "-f", str(HERE / "Dockerfile"), str(HERE.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
def test_compose_up_trains_to_the_end(tmp_path: Path) -> None:
    with Ring(SHORT) as ring:
        ring("up")  # returns when all have ended
        codes = {name: container["ExitCode"] for name, container in ring.containers().items()}
        assert codes == dict.fromkeys([*NODES, "controller", "certificates"], 0)
        for node in NODES:
            (row,) = ring.result(node, tmp_path)["nodes"]
            assert row["node"] == node
            assert row["rounds"] >= SHORT
            assert row["messages"] >= SHORT
            assert row["test_accuracy"] > 0.5
            assert row["peak_memory_bytes"] > 50e6


@pytest.mark.timeout(600)
def test_ring_is_healthy_and_a_killed_node_rejoins(tmp_path: Path) -> None:
    with Ring() as ring:
        ring("up", "-d", "--wait", "--wait-timeout", "120")  # until all are healthy

        def states() -> dict[str, str]:
            return {n["node"]: n["state"] for n in json.loads(ring.edgenode("status", "--json"))["nodes"]}

        until(lambda: states() == dict.fromkeys(NODES, "running"), 60, "all train")
        page = ring.page("/")
        assert all(node in page for node in NODES)
        assert "edgenode_sent_bytes_total" in ring.page("/metrics")

        answer = ring.edgenode("topology", "set", "b")
        change = re.fullmatch(r"graph b takes effect at round (\d+) at every node\n", answer)
        assert change
        until(lambda: all(f"at_round={change[1]} " in ring.log(n) for n in NODES), 60, "all know of graph b")
        until(lambda: "graph b" in ring.edgenode("topology", "show"), 60, "graph b is shown")

        ring("kill", "node-2")
        until(lambda: "without=['node-2']" in ring.log("node-0"), 90, "node-2 is evicted")
        ring("up", "-d", "node-2")
        until(lambda: "fetched the model" in ring.log("node-2"), 90, "node-2 is a newcomer")
        until(lambda: states() == dict.fromkeys(NODES, "running"), 60, "all train again")

        ring.edgenode("stop")
        until(lambda: all(ring.containers()[n]["State"] == "exited" for n in NODES), 60, "all have stopped")
        assert [ring.containers()[n]["ExitCode"] for n in NODES] == [0] * 4
        rounds = {ring.result(n, tmp_path)["nodes"][0]["rounds"] for n in NODES}
        assert len(rounds) == 1
