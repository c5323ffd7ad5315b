"""The page's routes. Requests from the page and from the command line reach the same operator service."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from edgenode.core.topology.graph import PRESETS, GraphSpec
from edgenode.core.topology.period import Period
from edgenode.dashboard.feed import Feed
from edgenode.dashboard.guard import Guard
from edgenode.dashboard.plain import filled
from edgenode.dashboard.sign_in import STATIC, Door, SignIn, visitor_of
from edgenode.errors import ConfigError, EdgenodeError
from edgenode.net.operator_server import RunControl
from edgenode.observability import reply_words
from edgenode.observability.metrics import cluster_metrics, metrics_route
from edgenode.observability.run_recorder import RunRecorder
from edgenode.observability.status_view import cluster_json

_MOST_PENDING = 16  # requests
_MOST_BYTES = 64 * 1024  # of a request


def dashboard(
    operator_service: RunControl,
    history: RunRecorder,
    feed: Feed,
    sign_in: SignIn,
    metrics_token: str,
    listen: str,
    url: str = "",
) -> Starlette:
    """The ASGI app.

    Args:
        sign_in: decides who may see what.
        metrics_token: the token that scrapers on other machines send.
        listen: host:port where the app is served.
        url: the URL that browsers use, if it is not an address or a name of this machine.
    """
    template = (STATIC / "page.html").read_text(encoding="utf-8")

    async def page(request: Request) -> Response:
        visitor, _ = visitor_of(request.scope)
        return HTMLResponse(filled(template, cluster_json(operator_service.status()), list(PRESETS), visitor))

    async def status(request: Request) -> Response:
        return JSONResponse(cluster_json(operator_service.status()))

    # not async: these two read a database, so Starlette calls them in threads
    def curve(request: Request) -> Response:
        return JSONResponse(history.curve())

    def events(request: Request) -> Response:
        return JSONResponse(history.events())

    async def icon(request: Request) -> Response:
        return FileResponse(STATIC / "icon.svg")

    routes = [
        Route("/", page),
        Route("/favicon.ico", icon),
        metrics_route(lambda: cluster_metrics(operator_service.status()), metrics_token),
        Route("/events", feed),
        Route("/api/status", status),
        Route("/api/curve", curve),
        Route("/api/events", events),
        Route("/api/{request}", _operating(operator_service), methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(
        routes=routes, middleware=[Middleware(Guard, listen=listen, url=url), Middleware(Door, sign_in=sign_in)]
    )


def _operating(operator_service: RunControl) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of the buttons."""
    pending = 0

    async def operate(request: Request) -> Response:
        nonlocal pending
        if pending >= _MOST_PENDING:
            return JSONResponse({"error": "too many requests are pending; try again later"}, 503)
        pending += 1
        try:
            by = str(visitor_of(request.scope)[0])
            text = await _perform(operator_service, by, request.path_params["request"], await _body(request))
            return JSONResponse({"text": text})
        except EdgenodeError as exc:
            return JSONResponse({"error": str(exc)}, 400)
        finally:
            pending -= 1

    return operate


async def _body(request: Request) -> Mapping[str, Any]:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > _MOST_BYTES:
            raise ConfigError(f"the request is larger than {_MOST_BYTES} bytes")
    try:
        asked = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ConfigError("the body of a request must be a JSON object")
    return asked


async def _perform(operator_service: RunControl, by: str, request: str, asked: Mapping[str, Any]) -> str:
    """Perform a request. Returns the result in words."""
    match request:
        case "rotate":
            period = Period.parse(_text(asked, "every", "1r"))
            graphs = tuple(GraphSpec(name.strip()) for name in _text(asked, "graphs").split(",") if name.strip())
            return reply_words.rotated(graphs, await operator_service.rotate(by, graphs, period))
        case "pause":
            await operator_service.pause(by)
            return "every node pauses before its next round"
        case "resume":
            await operator_service.resume(by)
            return "the run continues"
        case "stop":
            return reply_words.stopped(await operator_service.stop(by))
        case "evict":
            node = _text(asked, "node")
            return reply_words.evicted(node, await operator_service.evict(by, node, asked.get("force") is True))
    raise ConfigError(f"unknown request {request!r}: expected rotate, pause, resume, stop or evict")


def _text(asked: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = asked.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"{key} is missing or not a string")
    return value
