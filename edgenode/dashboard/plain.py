"""The page without JavaScript: a plain table, and the snapshot that the script starts from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from edgenode.core.wording import counted
from edgenode.observability.status_view import duration, figure, requests_lines, saving_lines, size
from edgenode.security.subject import Subject

_COLUMNS = ("node", "state", "round", "accuracy", "loss", "u", "sent", "received", "holds up", "last seen")


def filled(template: str, view: Mapping[str, Any], presets: Sequence[str], visitor: Subject) -> str:
    """page.html with the current state of the run, for a visitor. Only an operator's has buttons."""
    requests = "".join(f"<li>{escape(line)}</li>" for line in [*requests_lines(view), *saving_lines(view["nodes"])])
    return Template(template).substitute(
        cluster=escape(view["cluster"]),
        title=escape(_title(view)),
        requests=requests,
        visitor=escape(str(visitor)),
        operator="" if visitor.role == "operator" else "hidden",
        head="".join(f'<th scope="col">{name}</th>' for name in _COLUMNS),
        rows="\n".join(_row(node) for node in view["nodes"]),
        presets="".join(f"<option>{escape(name)}</option>" for name in presets),
        # in a script element, only "</" and "<!--" need escaping
        snapshot=json.dumps(view, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _title(view: Mapping[str, Any]) -> str:
    if view["graph"] is None:
        return f"waiting for {counted(view['missing'], 'more node')}"
    paused = ", paused" if view["paused"] else ""
    left = "" if view["time_left_s"] is None else f", about {duration(view['time_left_s'])} left"
    coming = f", then {view['next']['graph']} from round {view['next']['round']}" if view["next"] else ""
    return f"round {view['round']} of {view['rounds']}{paused}, graph {view['graph']['name']}{coming}{left}"


def _row(node: Mapping[str, Any]) -> str:
    cells = (
        node["node"],
        _state(node),
        f"{node['round']}/{node['rounds']}",
        figure(node["accuracy"], ".1%"),
        figure(node["loss"], ".3f"),
        f"{node['u']:.3f}",
        size(node["payload_bytes"]),
        size(node["received_bytes"]),
        f"{node['holds_up_s']:.0f} s",
        f"{node['last_seen_s']:.1f} s ago",
    )
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _state(node: Mapping[str, Any]) -> str:
    failing = ", cannot save" if node["save_error"] else ""
    return f"{node['state']}{failing}" if node["connected"] else "not seen"
