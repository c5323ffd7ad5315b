"""The page and its routes: what they show, which requests they pass on, and which they refuse."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgenode.core.protocol.events import Reply
from edgenode.core.protocol.status import ClusterStatus, NodeState, PendingChange
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import Period
from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.dashboard.sign_in import SignIn
from edgenode.errors import ConfigError
from edgenode.observability.status_view import cluster_json
from edgenode.security.subject import Caller
from tests.cli.test_status_table import a_node, a_plan, a_status

STATIC = {path.name: path.read_text() for path in Path("edgenode/dashboard/static").iterdir()}

TOKEN = "0123456789abcdef"


class OperatorService:
    """Accepts every request at round 42, or rejects it with ``error``."""

    def __init__(self) -> None:
        self.error, self.asked, self.by = "", list[tuple[Any, ...]](), ""

    def status(self) -> ClusterStatus:
        nodes = [
            a_node(f"n{i}", round=5, rounds=9, accuracy=0.5, payload_bytes=2000, dense_bytes=9000) for i in range(3)
        ]
        return a_status(*nodes, a_node("<b>evil</b>"), plan=a_plan())

    def open_page(self, who: Caller | None) -> str:
        return ""

    async def rotate(self, by: str, graphs: tuple[GraphSpec, ...], period: Period, wait: bool = False) -> Reply:
        return Reply(1, self._note(by, "rotate", graphs, period))

    async def stop(self, by: str, wait: bool = False) -> Reply:
        return Reply(1, self._note(by, "stop"))

    async def extend(self, by: str, rounds: int, wait: bool = False) -> Reply:
        return Reply(1, self._note(by, "extend", rounds))

    async def pause(self, by: str) -> int:
        return self._note(by, "pause")

    async def resume(self, by: str) -> int:
        return self._note(by, "resume")

    async def evict(self, by: str, node: str, force: bool) -> Reply:
        return Reply(1, self._note(by, "evict", node, force))

    def _note(self, by: str, *asked: Any) -> int:
        self.by = by
        if self.error:
            raise ConfigError(self.error)
        self.asked.append(asked)
        return 42


class History:
    """One moment and one event."""

    def curve(self) -> list[dict[str, Any]]:
        return [{"round": 5, "accuracy": 0.5}]

    def events(self) -> list[dict[str, Any]]:
        return [{"at": 1e9, "round": 5, "kind": "joined", "text": "n3"}]


@pytest.fixture
def operator_service() -> OperatorService:
    return OperatorService()


@pytest.fixture
async def browser(operator_service: OperatorService) -> AsyncIterator[httpx.AsyncClient]:
    def status() -> dict[str, Any]:
        return cluster_json(operator_service.status())

    app = dashboard(operator_service, History(), Feed(status), SignIn("home"), TOKEN, "127.0.0.1:8080")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080") as client:
        yield client


# --- the page


async def test_page_without_script_is_a_table_of_escaped_names(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/")).text
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "<td>n0</td><td>unspecified</td><td>5/9</td><td>50.0%</td>" in page
    assert "round 5 of 9, graph a, then b from round 10" in page
    assert "<td>&lt;b&gt;evil&lt;/b&gt;</td>" in page
    assert "<b>evil" not in page
    snapshot = page.partition('<script type="application/json" id="snapshot">')[2].partition("</script>")[0]
    assert json.loads(snapshot)["nodes"][3]["node"] == "<b>evil</b>"


async def test_page_without_script_names_the_cluster_once_and_the_time_left(
    browser: httpx.AsyncClient, operator_service: OperatorService
) -> None:
    status = replace(operator_service.status(), cluster="edgenode", time_left_s=61)
    operator_service.status = lambda: status  # type: ignore[method-assign]
    page = (await browser.get("/")).text
    assert re.findall(r"<h1.*</h1>", page) == ['<h1 id="cluster">edgenode</h1>']
    title = "round 5 of 9, graph a, then b from round 10, about 1 min 01 s left"
    assert f"<title>edgenode: {title}</title>" in page
    assert f'<p id="title">{title}</p>' in page


async def test_page_before_the_start_counts_the_missing_nodes(
    browser: httpx.AsyncClient, operator_service: OperatorService
) -> None:
    operator_service.status = a_status  # type: ignore[method-assign]
    assert "waiting for 2 more nodes" in (await browser.get("/")).text


async def test_page_without_script_lists_requests_that_wait(
    browser: httpx.AsyncClient, operator_service: OperatorService
) -> None:
    pending = (PendingChange("graph <b>", "the run resumes", 12),)
    status = replace(operator_service.status(), requested="mine", difference="graph a is used", pending=pending)
    operator_service.status = lambda: status  # type: ignore[method-assign]
    page = (await browser.get("/")).text
    assert "<li>Requested: graph mine. Graph a is used.</li>" in page
    assert "<li>Pending: graph &lt;b&gt;, after the run resumes.</li>" in page


async def test_page_without_script_names_a_node_that_cannot_save(
    browser: httpx.AsyncClient, operator_service: OperatorService
) -> None:
    node = a_node(state=NodeState.RUNNING, save_error="the <disk> is full", save_error_s=60.0)
    operator_service.status = lambda: a_status(node)  # type: ignore[method-assign]
    page = (await browser.get("/")).text
    assert "<td>running, cannot save</td>" in page
    assert "<li>n0 cannot save for 1 min 00 s: the &lt;disk&gt; is full</li>" in page


async def test_page_loads_only_files_of_the_package(browser: httpx.AsyncClient) -> None:
    for name, text in STATIC.items():
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        assert (await browser.get(f"/static/{name}")).status_code == 200
    page = await browser.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert (await browser.get("/static/../app.py")).status_code == 404


async def test_status_history_and_metrics_are_served(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/api/status")).json()["graph"]["name"] == "a"
    assert (await browser.get("/api/curve")).json() == History().curve()
    assert (await browser.get("/api/events")).json() == History().events()
    metrics = await browser.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'edgenode_round{node="n0"} 5.0' in metrics.text


async def test_metrics_need_the_token_from_elsewhere(operator_service: OperatorService) -> None:
    app = dashboard(operator_service, History(), Feed(dict), SignIn("home"), TOKEN, "0.0.0.0:8080")
    scraper = httpx.ASGITransport(app, client=("10.0.0.9", 1))
    async with httpx.AsyncClient(transport=scraper, base_url="http://localhost:8080") as client:
        given = {"host": "controller:8080", "authorization": f"Bearer {TOKEN}"}  # a scraper may use any name
        assert (await client.get("/metrics", headers=given)).status_code == 200
        for wrong in ({}, {"authorization": "Bearer "}, {"authorization": f"Bearer {TOKEN[1:]}"}):
            assert (await client.get("/metrics", headers=wrong)).status_code == 401


async def test_metrics_of_a_local_browser_are_not_for_foreign_pages(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/metrics", headers={"host": "evil.example:8080"})).status_code == 401


# --- requests


@pytest.mark.parametrize(
    ("operator_request", "body", "asked", "text"),
    [
        ("rotate", {"graphs": "b"}, ("rotate", (GraphSpec("b"),), Period(1)), "graph b takes effect at round 42"),
        (
            "rotate",
            {"graphs": "a, b", "every": "6ep"},
            ("rotate", (GraphSpec("a"), GraphSpec("b")), Period(6, "epochs")),
            "graph a+b takes effect at round 42",
        ),
        ("pause", {}, ("pause",), "pauses before its next round"),
        ("resume", {}, ("resume",), "the run continues"),
        ("stop", {}, ("stop",), "before round 42"),
        ("evict", {"node": "n1"}, ("evict", "n1", False), "without n1 from round 42"),
        ("evict", {"node": "n1", "force": True}, ("evict", "n1", True), "without n1"),
    ],
)
async def test_request_reaches_the_operator_service(
    browser: httpx.AsyncClient,
    operator_service: OperatorService,
    operator_request: str,
    body: dict[str, Any],
    asked: tuple[Any, ...],
    text: str,
) -> None:
    answer = await browser.post(f"/api/{operator_request}", json=body, headers={"origin": "http://127.0.0.1:8080"})
    assert answer.status_code == 200
    assert text in answer.json()["text"]
    assert operator_service.asked == [asked]


@pytest.mark.parametrize(
    ("operator_request", "body", "error"),
    [
        ("rotate", {"graphs": "chrod"}, "no graph named 'chrod'; did you mean 'chord'"),
        ("rotate", {"graphs": "/etc/passwd"}, "no graph named '/etc/passwd'"),
        ("rotate", {"graphs": "a", "every": "0ep"}, "'0ep' is not a period"),
        ("rotate", {"graphs": 5}, "graphs is missing or not a string"),
        ("evict", {}, "node is missing"),
        ("dance", {}, "unknown request 'dance': expected rotate, "),
        ("pause", [1], "must be a JSON object"),
        ("pause", {"x": "y" * 70_000}, "the request is larger than 65536 bytes"),
    ],
)
async def test_malformed_request_is_one_line(
    browser: httpx.AsyncClient, operator_service: OperatorService, operator_request: str, body: Any, error: str
) -> None:
    answer = await browser.post(f"/api/{operator_request}", json=body)
    assert answer.status_code == 400
    assert error in answer.json()["error"]
    assert operator_service.asked == []


async def test_rejection_has_the_text_of_the_operator_service(
    browser: httpx.AsyncClient, operator_service: OperatorService
) -> None:
    operator_service.error = "n9 is not a member"
    answer = await browser.post("/api/evict", json={"node": "n9"})
    assert (answer.status_code, answer.json()) == (400, {"error": "n9 is not a member"})


# --- refusals


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"host": "evil.example:8080", "origin": "http://evil.example:8080"},
        {"host": "10.0.0.5:8080"},
    ],
    ids=str,
)
async def test_cross_site_request_is_refused(
    browser: httpx.AsyncClient, operator_service: OperatorService, headers: dict[str, str]
) -> None:
    answer = await browser.post("/api/stop", content="{}", headers={"content-type": "application/json", **headers})
    assert answer.status_code == 403
    assert operator_service.asked == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "", "[", "127.0.0.1.evil.example"])
async def test_foreign_host_name_is_refused(browser: httpx.AsyncClient, host: str) -> None:
    for path in ("/", "/api/status", "/events", "/static/page.js"):
        assert (await browser.get(path, headers={"host": host})).status_code == 403


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080", "LOCALHOST"])
async def test_loopback_names_are_accepted(browser: httpx.AsyncClient, host: str) -> None:
    assert (await browser.get("/api/status", headers={"host": host})).status_code == 200


async def test_page_on_all_interfaces_accepts_the_machine_name(
    operator_service: OperatorService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "pi-1.lan")
    app = dashboard(
        operator_service, History(), Feed(dict), SignIn("home"), TOKEN, "0.0.0.0:8080", "https://train.example"
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://10.0.0.5:8080") as client:
        for host, code in (("10.0.0.5:8080", 200), ("pi-1.local", 200), ("train.example", 200), ("evil.example", 403)):
            assert (await client.get("/api/curve", headers={"host": host})).status_code == code
