"""The controller's page in a real browser, with a real cluster behind it.

EDGENODE_SCREENSHOTS=docs python -m pytest tests/e2e/test_page.py     takes the screenshots of the documentation
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from rich.console import Console, RenderableType
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from edgenode.addresses import free_ports
from edgenode.cli.own_credentials import operator_securities
from edgenode.cli.watch import Screen
from edgenode.net.operator_client import operator_client
from edgenode.security.subject import Subject
from tests.e2e.browser import chromium, complaints, resize, unavailable
from tests.e2e.fleet import Fleet, Process, until

_WHY_NOT = unavailable()
_PICTURES = os.environ.get("EDGENODE_SCREENSHOTS")  # read before the fleet's own variables are cleared


def text(driver: Chrome, selector: str) -> str:
    found: str = driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
    return found.strip()


def visible(driver: Chrome, selector: str) -> bool | None:
    """Whether an element is displayed. None while the page has none, as between two pages."""
    found: bool | None = driver.execute_script(
        "return document.querySelector(arguments[0])?.checkVisibility() ?? null", selector
    )
    return found


def edges(driver: Chrome) -> list[str]:
    return drawn(driver, "#graph .edge")


def drawn(driver: Chrome, selector: str) -> list[str]:
    """The outlines of all paths, read in one step: the page may draw anew between two."""
    script = "return [...document.querySelectorAll(arguments[0])].map(path => path.getAttribute('d'))"
    found: list[str] = driver.execute_script(script, selector)
    return found


def names(driver: Chrome) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('#rows td:first-child')].map(e => e.textContent)"
    )  # type: ignore[no-any-return]


def shows(driver: Chrome, selector: str, what: str) -> Any:
    return until(
        lambda: what in text(driver, selector), lambda: f"{selector} shows {what!r}: {text(driver, selector)!r}"
    )


def picture(driver: Chrome, name: str) -> None:
    if _PICTURES:
        driver.save_screenshot(str(Path(_PICTURES) / name))


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_page_shows_four_nodes_and_its_buttons_work(fleet: Fleet) -> None:
    fleet.cluster = "office" if _PICTURES else fleet.cluster
    fleet.configure({"run.rounds": 20_000, "run.evaluate_every": 10, "topology.graphs": ["a"]}, paced=True)
    controller = fleet.controller("--http", "127.0.0.1:0")
    nodes = fleet.nodes(4)
    link = controller.logs(r"controller ready .*page=(\S+)")[1]
    url = link.partition("/sign-in")[0]
    nodes[0].logs("epoch done")

    with chromium(fleet.folder / "chromium") as driver:
        resize(driver, 1280, 1090)
        driver.get(link)
        driver.get(url)
        until(lambda: names(driver) == [f"node-{i}" for i in range(4)], "four nodes")
        until(lambda: len(driver.find_elements(By.CSS_SELECTOR, "#graph .node")) == 4, "their graph")
        shows(driver, "#graph-name", "graph a")
        shows(driver, "#state", "running")
        assert text(driver, "h1") == fleet.cluster
        until(lambda: driver.find_elements(By.CSS_SELECTOR, "#accuracy-curve .line"), "a curve")
        until(lambda: driver.find_elements(By.CSS_SELECTOR, "#graph .push"), "pushes travel")
        for shown in ("node-0 → node-1", "direct", " ms", "B/s"):
            shows(driver, "#links", shown)
        ring = edges(driver)
        Select(driver.find_element(By.CSS_SELECTOR, "#set select")).select_by_visible_text("b")
        driver.find_element(By.CSS_SELECTOR, "#set button").click()
        shows(driver, "#reply", "graph b takes effect at round")
        shows(driver, "#graph-name", "graph b")
        assert sorted(edges(driver)) != sorted(ring)

        pause_queue_and_resume(driver)
        happened(driver, f"started {', '.join(names(driver))}", "plan changed graph b", "paused by an operator",
                 "resumed by an operator", "plan changed graph c")  # fmt: skip
        if _PICTURES:
            resize(driver, 1280, 1330)
            driver.execute_script("scrollTo(0, 0)")
            shows(driver, "#ends", "ends about")
            picture(driver, "page.png")
            picture_watch(driver, controller.logs(r"controller ready .*listen=(\S+)")[1], fleet.folder / "operator.pem")
            driver.get(url)

        driver.execute_script(  # in one step: the page makes its options anew at the next change
            "document.querySelector('#evictable').append(new Option('node-9', 'node-9', true, true));"
            "window.confirm = () => true; document.querySelector('#evict').requestSubmit()"
        )
        shows(driver, "#reply", "node-9 is not a member")
        refused = [line for line in complaints(driver) if "400" in line]
        assert len(refused) <= 1  # the browser itself logs that response
        driver.get(url)
        until(lambda: len(names(driver)) == 4, "four nodes again")
        (fleet.folder / "mine.txt").write_text("node-0 node-1\nnode-1 node-2\nnode-2 node-3\nnode-3 node-0\n")
        fleet.command("topology", "set", "mine.txt", "--cluster", fleet.cluster)
        nodes.pop().kill()
        fleet.command("evict", "node-3", "--cluster", fleet.cluster)
        shows(driver, "#requests", "Requested: graph mine. Graph a is used instead of mine")
        fleet.command("stop", "--detach", "--cluster", fleet.cluster)
        until(lambda: text(driver, "#state") in ("stopped", "lost the controller"), "the page shows the end")
        assert [line for line in complaints(driver) if "Failed to load" not in line] == []
    for process in (*nodes, controller):
        process.exits(0)


def pause_queue_and_resume(driver: Chrome) -> None:
    """Pause, set a graph meanwhile, and resume. The page says what waits, and fits a phone."""
    driver.find_element(By.CSS_SELECTOR, "#pause button").click()
    shows(driver, "#state", "paused")
    until(lambda: not driver.find_elements(By.CSS_SELECTOR, "#graph .push"), "no push travels")
    resize(driver, 390, 844, dark=True, scale=1.5)
    assert driver.execute_script("return document.documentElement.scrollWidth") == 390, "it fits a phone"
    shows(driver, "#resume button", "resume")
    picture(driver, "page-phone.png")
    assert text(driver, "#requests") == ""
    Select(driver.find_element(By.CSS_SELECTOR, "#set select")).select_by_visible_text("c")
    driver.find_element(By.CSS_SELECTOR, "#set button").click()
    shows(driver, "#requests", "Pending: graph c, after the run resumes.")
    driver.find_element(By.CSS_SELECTOR, "#resume button").click()
    shows(driver, "#graph-name", "graph c")
    assert text(driver, "#requests") == ""
    shows(driver, "#state", "running")


def picture_watch(driver: Chrome, controller: str, credentials: Path) -> None:
    """Take a picture of `edgenode watch`, with curves of some time."""
    screen, console = Screen(), Console(record=True, width=126, file=io.StringIO())

    async def watched() -> RenderableType:
        async with operator_client(controller, 5.0, operator_securities(credentials, False, None)[0]) as client:
            async for status in client.watch():
                shown = screen.render(status)
                if len(screen._accuracy) >= 30:
                    return shown
        raise AssertionError("the run ended")

    console.print(asyncio.run(watched()))
    driver.get("data:text/html;charset=utf-8," + quote(console.export_svg(title="edgenode watch")))
    resize(driver, 1600, 700)
    driver.find_element(By.CSS_SELECTOR, "svg").screenshot(str(Path(str(_PICTURES)) / "watch.png"))


def line(driver: Chrome, curve: str, name: str) -> list[tuple[float, float]]:
    """The points of a drawn curve: (x, height)."""
    found = drawn(driver, f"#{curve} .line.{name}")
    points = [point.split() for path in found for point in re.split("[ML]", path)[1:]]
    return [(float(x), -float(y)) for x, y in points]


def events(driver: Chrome) -> list[str]:
    """The events on the page, oldest first, without their times."""
    cells = "[...row.children].slice(2).map(cell => cell.textContent).join(' ')"
    rows = f"[...document.querySelectorAll('#events tr')].map(row => {cells})"
    return list(reversed(driver.execute_script(f"return {rows}")))


def happened(driver: Chrome, *expected: str) -> None:
    """Wait until the events are these."""
    until(lambda: events(driver) == list(expected), lambda: f"{expected}: {events(driver)}")


def resumed(driver: Chrome) -> None:
    """Wait until the newest event is that both nodes resumed."""
    until(
        lambda: re.fullmatch(r"restarted from round \d+: node-0, node-1", "".join(events(driver)[-1:])),
        lambda: f"both nodes resumed: {events(driver)}",
    )


class Progress:
    """The round and the bytes that a page shows. They must not fall between two looks at it, nor along its curves."""

    def __init__(self) -> None:
        self.shown = (0, 0)

    def check(self, driver: Chrome) -> int:
        """The round of the run."""
        status = driver.execute_async_script("fetch('/api/status').then(r => r.json()).then(arguments[0])")
        shown = (status["round"], status["payload_bytes"])
        assert all(now >= before for now, before in zip(shown, self.shown, strict=True)), (shown, self.shown)
        self.shown = shown
        for name in ("sent", "dense"):
            points = line(driver, "bytes-curve", name)
            assert points == sorted(points)
            heights = [height for _, height in points]
            assert heights == sorted(heights)
        accuracy = [x for x, _ in line(driver, "accuracy-curve", "accuracy")]
        assert accuracy == sorted(accuracy)
        return shown[0]

    def passes(self, driver: Chrome, rounds: int) -> None:
        """Wait until the run has done some more rounds."""
        goal = self.shown[0] + rounds
        until(lambda: self.check(driver) >= goal, lambda: f"round {goal}: {self.shown}")


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_curve_ends_with_the_last_evaluation(fleet: Fleet) -> None:
    """The last phase averages the models, and the run ends before another second of it is recorded."""
    fleet.configure({"run.nodes": 2, "run.rounds": 300, "run.evaluate_every": 10, "task.skew": 0.8})
    controller = fleet.controller("--http", "127.0.0.1:0")
    with chromium(fleet.folder / "chromium") as driver:
        driver.get(controller.logs(r"controller ready .*page=(\S+)")[1])
        for node in fleet.nodes(2):
            node.exits(0)
        shows(driver, "#state", "done")
        last = "return document.querySelector('#accuracy-curve .last')?.textContent"
        until(lambda: driver.execute_script(last) == text(driver, "#accuracy"), lambda: driver.execute_script(last))
        assert events(driver)[-1] == "finished all nodes completed the run"
    controller.exits(0)
    rows = json.loads(
        fleet.command("runs", "export", "--format", "json", "--state-dir", str(fleet.state("controller"))).stdout
    )
    for row in rows[-2:]:
        result = json.loads((fleet.state(row["node"]) / "result.json").read_text())["nodes"][0]
        assert row["accuracy"] == pytest.approx(result["test_accuracy"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_history_is_continuous_when_nodes_die_and_return(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 3, "run.rounds": 20_000, "run.evaluate_every": 10, "topology.graphs": ["a"]})
    controller = fleet.controller("--http", "127.0.0.1:0")
    nodes = fleet.nodes(3)
    url = controller.logs(r"controller ready .*page=(\S+)")[1]
    with chromium(fleet.folder / "chromium") as driver:
        driver.get(url)
        progress, everyone = Progress(), "started node-0, node-1, node-2"
        until(lambda: len(line(driver, "bytes-curve", "sent")) > 1, "a curve")
        progress.check(driver)
        nodes[2].kill()
        fleet.node("node-2")
        happened(driver, everyone, "evicted node-2", "joined node-2")
        progress.passes(driver, 20)

        nodes[1].kill()
        driver.execute_script(
            "document.querySelector('#evictable').value = 'node-1'; window.confirm = () => true;"
            "document.querySelector('#evict').requestSubmit()"
        )
        happened(driver, everyone, "evicted node-2", "joined node-2", "evicted node-1")
        progress.passes(driver, 20)
        until(lambda: "s" in text(driver, "#left"), "an estimate of the time left")
        assert complaints(driver) == []


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_history_is_continuous_after_restarts_stops_and_power_cuts(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2, "run.rounds": 20_000, "run.evaluate_every": 10, "topology.graphs": ["a"]})
    port = free_ports(1)[0]
    url, progress, runs = f"http://127.0.0.1:{port}", Progress(), ("--state-dir", str(fleet.state("controller")))

    def controller() -> Process:
        started = fleet.controller("--http", f"127.0.0.1:{port}")
        started.logs("controller ready")
        return started

    first, nodes = controller(), fleet.nodes(2)
    with chromium(fleet.folder / "chromium") as driver:
        driver.get(fleet.command("page", "--cluster", fleet.cluster).stdout.strip())  # signs in for the whole test
        until(lambda: len(line(driver, "accuracy-curve", "accuracy")) > 1, "a curve")
        progress.check(driver)
        first.kill()
        second = controller()
        shows(driver, "#state", "running")
        happened(driver, "started node-0, node-1", "controller restarted term 1")
        progress.passes(driver, 20)

        fleet.stop([*nodes, second], "--cluster", fleet.cluster)
        third, nodes = controller(), fleet.nodes(2)
        driver.get(url)
        resumed(driver)
        assert events(driver)[-2] == "stopped as requested, and can resume from here"
        progress.passes(driver, 25)

        for process in (third, *nodes):  # a power cut: the run falls back to a checkpoint
            process.popen.kill()
        for process in (third, *nodes):
            process.popen.wait()
        controller()
        fleet.nodes(2)
        driver.get(url)
        resumed(driver)
        sent, progress = progress.shown[1], Progress()
        progress.check(driver)
        progress.passes(driver, 20)
        assert progress.shown[1] >= sent
    (run,) = json.loads(fleet.command("runs", "list", "--json", *runs).stdout)
    assert run["outcome"] is None
    fleet.command("runs", "plot", "last", "--out", str(fleet.folder / "plot.png"), *runs)
    last = json.loads(fleet.command("runs", "show", "--json", *runs).stdout)
    assert all(node["accuracy"] is not None for node in last["nodes"])


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_page_without_scripts_is_a_table(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    controller = fleet.controller("--http", "127.0.0.1:0")
    url = controller.logs(r"controller ready .*page=(\S+)")[1]
    with chromium(fleet.folder / "chromium", scripts=False) as driver:
        driver.get(url)
        shows(driver, "#title", "waiting for 2 more nodes")
        shows(driver, "thead", "last seen")
        until(lambda: visible(driver, "#tiles") is False, "the style sheet hides what needs scripts")


@pytest.mark.slow
@pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))
def test_page_opens_with_a_link_of_the_command_line(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    controller = fleet.controller("--http", "127.0.0.1:0")
    url = controller.logs(r"controller ready .*page=(http://[^/]+)/")[1]
    guest = fleet.folder / "guest.pem"
    fleet.authority().keep(guest, Subject("viewer", "guest"))
    with chromium(fleet.folder / "chromium") as driver:
        driver.get(url)
        assert f"edgenode page --cluster {fleet.cluster}" in text(driver, "#sign-in")
        desktop = {"DISPLAY": ":0", "BROWSER": str(a_browser(fleet.folder))}
        for who, buttons, credentials in (
            ("operator test", True, fleet.folder / "operator.pem"),
            ("viewer guest", False, guest),
        ):
            where = ("--cluster", fleet.cluster, "--credentials", str(credentials))
            link = fleet.start("page", "page", *where, variables=desktop).exits(0).stdout
            assert (fleet.folder / "opened").read_text() == link
            driver.get(link.strip())
            shows(driver, "#visitor", who)
            shows(driver, "#title", "waiting for 2 more nodes")
            assert driver.find_element(By.CSS_SELECTOR, "#stop button").is_displayed() is buttons
        assert driver.get_cookies()[0]["httpOnly"]
        fleet.command("revoke", "guest", "--role", "viewer", "--cluster", fleet.cluster)
        shows(driver, "#sign-in", "edgenode page")  # by itself
    printed = fleet.command("status", "--cluster", fleet.cluster).stdout
    assert re.search(rf"page {url}/sign-in/[0-9a-f]{{32}}", printed.replace("\n", ""))


def a_browser(folder: Path) -> Path:
    """A program that notes what it is to open."""
    program = folder / "browser"
    program.write_text('#!/bin/sh\necho "$1" > opened\n')
    program.chmod(0o755)
    return program


@pytest.mark.slow
def test_page_address_in_use_is_one_line(fleet: Fleet) -> None:
    fleet.configure({"run.nodes": 2})
    page = fleet.controller("--http", "127.0.0.1:0").logs(r"page=http://([^/]+)/")[1]
    other = ("--set", f"run.cluster={fleet.cluster}-2", "--state-dir", str(fleet.state("second")))
    (line,) = fleet.controller("--http", page, *other).exits(2).errors
    assert line == (
        f"edgenode: --http {page}: cannot listen there: address already in use; "
        "choose another address, or none to turn it off"
    )
