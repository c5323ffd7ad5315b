"""Decides who sees the page, and who steers the run from it.

1. `edgenode page` asks for a link over gRPC, under the operator's certificate. The link works once, and only for a few
   minutes. The controller keeps its hash.
2. The link sets a cookie, which scripts and other sites cannot use. The cookie states a name, a role and a key, with a
   code that only this controller can compute. It ends after half a day, or as soon as the key is no longer valid.
3. Any other request is answered with a page that says which command to type.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template

import structlog
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgenode.net.http import vouch_for
from edgenode.net.tls import ANYONE
from edgenode.security.invite import hashed
from edgenode.security.subject import Caller, Subject

log = structlog.get_logger()

STATIC = Path(__file__).parent / "static"
LINK_S = 300.0
SESSION_S = 12 * 3600.0
PATH = "/sign-in/"
_MOST_LINKS = 16  # open ones, of each person
_OPEN = ("/static/", "/favicon.ico", "/metrics")
_VISITOR = "edgenode.visitor"  # in the scope of a request

_HOW = """<p>{why}</p>
<p>Type this where you have credentials of the cluster, for example on the controller's machine:</p>
<pre>edgenode page --cluster {cluster}</pre>
<p>It prints a link that opens this page. A link works once, and for {minutes:.0f} minutes.</p>"""
_TO_THE_PAGE = '\n<meta http-equiv="refresh" content="0; url=/">'


class SignIn:
    """Issues and checks links and cookies.

    Args:
        secret: the key that cookies are made with.
        admits: returns whether a key is valid for a subject. None if the controller works without certificates: then
            everybody is an operator, and needs no link.
        https: True if browsers use HTTPS only.
        now: the clock, in seconds since 1970.
    """

    def __init__(
        self,
        cluster: str,
        secret: str = "",
        admits: Callable[[Subject, str], bool] | None = None,
        https: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.cluster = cluster
        self._secret, self._admits, self._https, self._now = secret.encode(), admits, https, now
        self._cookie = f"edgenode-{cluster}"  # a browser sends cookies to every port of a machine
        self._links: dict[str, tuple[Caller, float]] = {}  # by hash, the oldest first

    def link(self, caller: Caller | None) -> str:
        """The path of a new link for somebody who was authenticated, or of the page if nobody needs one."""
        if self._admits is None or caller is None:
            return "/"
        now = self._now()
        self._links = {key: entry for key, entry in self._links.items() if entry[1] > now}
        own = [key for key, (other, _) in self._links.items() if other[0] == caller[0]]
        for key in own[: len(own) + 1 - _MOST_LINKS]:
            del self._links[key]
        token = secrets.token_bytes(16)
        self._links[hashed(token)] = caller, now + LINK_S
        return f"{PATH}{token.hex()}"

    def redeem(self, token: str) -> Caller | None:
        """Return the owner of a link, which cannot be used again. None if it is unknown, used or too old."""
        try:
            found = self._links.pop(hashed(bytes.fromhex(token)), None)
        except ValueError:
            return None
        return found[0] if found and found[1] > self._now() else None

    def cookie(self, caller: Caller) -> str:
        """The Set-Cookie header that signs somebody in."""
        (subject, key_id), until = caller, self._now() + SESSION_S
        stated = base64.urlsafe_b64encode(json.dumps([subject.dns_name, key_id, until]).encode()).decode().rstrip("=")
        value = f"{self._cookie}={stated}.{self._code(stated)}"
        secure = "; Secure" if self._https else ""
        return f"{value}; Path=/; Max-Age={SESSION_S:.0f}; HttpOnly; SameSite=Strict{secure}"

    def visitor(self, scope: Scope) -> Caller | None:
        """Return the sender of a request, or None if nobody is signed in."""
        if self._admits is None:
            return ANYONE
        stated, _, code = HTTPConnection(scope).cookies.get(self._cookie, "").partition(".")
        if not hmac.compare_digest(code.encode(), self._code(stated).encode()):
            return None
        dns_name, key_id, until = json.loads(base64.urlsafe_b64decode(stated + "==="))
        subject = Subject.parse(dns_name)
        return (subject, key_id) if until > self._now() and self._admits(subject, key_id) else None

    def watcher(self, scope: Scope) -> str | None:
        """The same in words, for the event stream."""
        visitor = self.visitor(scope)
        return None if visitor is None else str(visitor[0])

    def _code(self, stated: str) -> str:
        return hmac.digest(self._secret, stated.encode(), "sha256").hex()


class Door:
    """Middleware that lets in who is signed in, and lets only operators send requests."""

    def __init__(self, app: ASGIApp, sign_in: SignIn) -> None:
        self._app, self._sign_in = app, sign_in
        self._template = Template((STATIC / "sign-in.html").read_text(encoding="utf-8"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        visitor = self._sign_in.visitor(scope)
        if visitor is not None:
            vouch_for(scope, str(visitor[0]))
            scope[_VISITOR] = visitor
        answer = None
        if path.startswith(PATH) and scope["method"] == "GET":
            answer = self._answer(path.removeprefix(PATH), visitor)
        elif visitor is None and not path.startswith(_OPEN):
            answer = self._how("Sign in to see this page.", 401)
        elif visitor is not None and scope["method"] not in ("GET", "HEAD") and visitor[0].role != "operator":
            log.warning("refused a request", path=path, who=str(visitor[0]))
            answer = JSONResponse({"error": f"you are {visitor[0]}: only operators change the run"}, 403)
        await (answer or self._app)(scope, receive, send)

    def _answer(self, token: str, visitor: Caller | None) -> Response:
        """Sign somebody in. The page is opened by a page of this site: else the browser would not send the cookie."""
        caller = self._sign_in.redeem(token)
        if caller is None and visitor is None:
            return self._how("This link does not work: it was used before, or is too old.", 403)
        headers = {}
        if caller is not None:
            log.info("signed in to the page", who=str(caller[0]))
            headers = {"set-cookie": self._sign_in.cookie(caller)}
        text = '<p>You are signed in. <a href="/">Open the page</a></p>'
        return HTMLResponse(self._page(text, more=_TO_THE_PAGE), headers={**headers, "cache-control": "no-store"})

    def _how(self, why: str, code: int) -> Response:
        text = _HOW.format(why=why, cluster=escape(self._sign_in.cluster), minutes=LINK_S / 60)
        return HTMLResponse(self._page(text), code)

    def _page(self, text: str, more: str = "") -> str:
        return self._template.substitute(cluster=escape(self._sign_in.cluster), text=text, more=more)


def visitor_of(scope: Scope) -> Caller:
    """Return the sender of a request that `Door` has let in."""
    visitor: Caller = scope[_VISITOR]
    return visitor
