"""Who gets in: links that work once, cookies that end with their key, and what a viewer may not do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import httpx
import pytest

from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.dashboard.sign_in import LINK_S, PATH, SESSION_S, SignIn
from edgenode.observability.status_view import cluster_json
from edgenode.security.subject import Caller, Subject
from tests.dashboard.test_app import TOKEN, History, OperatorService

ANNA: Caller = (Subject("operator", "anna"), "key-of-anna")
GUEST: Caller = (Subject("viewer", "guest"), "key-of-guest")
SECRET = "0123"


class Authority:
    """Admits everybody whose key is not revoked, and has a clock."""

    def __init__(self) -> None:
        self.revoked, self.time = set[str](), 1e9
        self.sign_in = SignIn("home", SECRET, lambda subject, key_id: key_id not in self.revoked, now=lambda: self.time)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def operator_service() -> OperatorService:
    return OperatorService()


@pytest.fixture
async def browser(authority: Authority, operator_service: OperatorService) -> AsyncIterator[httpx.AsyncClient]:
    feed = Feed(lambda: cluster_json(operator_service.status()), authority.sign_in.watcher)
    app = dashboard(operator_service, History(), feed, authority.sign_in, TOKEN, "127.0.0.1:8080")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8080") as client:
        yield client


async def signed_in(browser: httpx.AsyncClient, authority: Authority, who: Caller) -> httpx.Response:
    return await browser.get(authority.sign_in.link(who))


@pytest.mark.parametrize("path", ["/", "/api/status", "/api/curve", "/api/events", "/events", "/nothing"])
async def test_stranger_reads_which_command_to_type(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 401
    assert "<pre>edgenode page --cluster home</pre>" in answer.text
    assert "n0" not in answer.text


async def test_stranger_steers_nothing(browser: httpx.AsyncClient, operator_service: OperatorService) -> None:
    assert (await browser.post("/api/stop", json={})).status_code == 401
    assert operator_service.asked == []


async def test_link_signs_an_operator_in(
    browser: httpx.AsyncClient, authority: Authority, operator_service: OperatorService
) -> None:
    answer = await signed_in(browser, authority, ANNA)
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/">' in answer.text
    cookie = SimpleCookie(answer.headers["set-cookie"])["edgenode-home"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    page = (await browser.get("/")).text
    assert 'aria-label="Operator" >' in page
    assert '<p id="visitor">operator anna</p>' in page
    assert (await browser.post("/api/stop", json={})).status_code == 200
    assert (operator_service.asked, operator_service.by) == ([("stop",)], "operator anna")


async def test_viewer_sees_no_buttons_and_steers_nothing(
    browser: httpx.AsyncClient, authority: Authority, operator_service: OperatorService
) -> None:
    await signed_in(browser, authority, GUEST)
    assert 'aria-label="Operator" hidden>' in (await browser.get("/")).text
    assert (await browser.get("/api/status")).status_code == 200
    answer = await browser.post("/api/stop", json={})
    assert answer.status_code == 403
    assert answer.json() == {"error": "you are viewer guest: only operators change the run"}
    assert operator_service.asked == []


async def test_link_works_once(browser: httpx.AsyncClient, authority: Authority) -> None:
    link = authority.sign_in.link(ANNA)
    assert (await browser.head(link)).status_code == 401  # a preview of the link does not use it
    assert (await browser.get(link)).status_code == 200
    assert (await browser.get(link)).status_code == 200  # it leads to the page, for who is signed in
    browser.cookies.clear()
    answer = await browser.get(link)
    assert answer.status_code == 403
    assert "it was used before, or is too old" in answer.text


async def test_link_is_kept_as_a_hash_and_expires(browser: httpx.AsyncClient, authority: Authority) -> None:
    link = authority.sign_in.link(ANNA)
    assert link.removeprefix(PATH) not in str(authority.sign_in._links)
    authority.time += LINK_S
    assert (await browser.get(link)).status_code == 403


@pytest.mark.parametrize("token", ["", "zz", "00" * 16, "../api/status", "é"])
async def test_invented_link_is_refused(browser: httpx.AsyncClient, token: str) -> None:
    assert (await browser.get(f"{PATH}{token}")).status_code in (401, 403)


async def test_many_links_of_one_person_leave_those_of_others(browser: httpx.AsyncClient, authority: Authority) -> None:
    link = authority.sign_in.link(ANNA)
    for _ in range(100):
        newest = authority.sign_in.link(GUEST)
    assert len(authority.sign_in._links) <= 17
    assert (await browser.get(newest)).status_code == (await browser.get(link)).status_code == 200


async def test_session_ends_with_its_time_and_with_its_key(browser: httpx.AsyncClient, authority: Authority) -> None:
    await signed_in(browser, authority, ANNA)
    authority.revoked.add(ANNA[1])
    assert (await browser.get("/api/status")).status_code == 401
    authority.revoked.clear()
    assert (await browser.get("/api/status")).status_code == 200
    authority.time += SESSION_S
    assert (await browser.get("/api/status")).status_code == 401


def cookie_of(sign_in: SignIn, caller: Caller) -> str:
    return sign_in.cookie(caller).partition(";")[0]


def visitor(sign_in: SignIn, cookie: str) -> Caller | None:
    return sign_in.visitor({"type": "http", "headers": [(b"cookie", cookie.encode("latin-1"))]})


def test_session_survives_a_restart_of_the_controller(authority: Authority) -> None:
    cookie = cookie_of(authority.sign_in, ANNA)
    assert visitor(Authority().sign_in, f"other=1; {cookie}; bad[]=2") == ANNA


def test_cookie_of_a_page_with_https_is_for_https_alone(authority: Authority) -> None:
    assert not authority.sign_in.cookie(ANNA).endswith("; Secure")
    assert SignIn("home", SECRET, lambda *key: True, https=True).cookie(ANNA).endswith("; Secure")


def test_forged_cookie_is_nobody(authority: Authority) -> None:
    cookie = cookie_of(authority.sign_in, GUEST)
    elsewhere = cookie_of(SignIn("home", "other", lambda subject, key_id: True), ANNA)
    stated, _, code = cookie.partition(".")
    as_anna = f"{cookie_of(authority.sign_in, ANNA).partition('.')[0]}.{code}"
    for forged in (elsewhere, as_anna, stated, f"{stated}.", f"{cookie}0", "edgenode-home=", "edgenode-home=é.é", ""):
        assert visitor(authority.sign_in, forged) is None, forged
    assert visitor(authority.sign_in, cookie) == GUEST


async def test_event_stream_ends_when_the_key_is_revoked(authority: Authority) -> None:
    sent = list[bytes]()
    feed = Feed(dict, authority.sign_in.watcher)
    cookie = cookie_of(authority.sign_in, ANNA).encode()

    async def send(message: Any) -> None:
        authority.revoked.add(ANNA[1])  # after the first event
        sent.append(message.get("body", b""))

    await feed._stream({"type": "http", "headers": [(b"cookie", cookie)]}, send)
    assert len(sent) == 3  # headers, the first snapshot, the end
