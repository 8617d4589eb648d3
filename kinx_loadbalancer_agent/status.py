"""The node for somebody at a terminal: what is wrong, the way of its traffic, BGP, HAProxy.

Names and reasons were made up by others: what is shown passes ``clean``. It never changes anything.
"""

import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from kinx_loadbalancer_agent.errors import ApplyError, Unreachable
from kinx_loadbalancer_agent.model.rules import endpoint
from kinx_loadbalancer_agent.system import sockets
from kinx_loadbalancer_agent.system.clock import Clock

ANSWER_SECONDS, WATCH_SECONDS = 5.0, 2.0
SHOWN = 20  # members of one pool, what is wrong first
HIDING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode: what a terminal obeys or hides
ORDER = ("", "ERROR", "OFFLINE", "DEGRADED", "DRAINING", "DISABLED", "NO_MONITOR", "ONLINE")
COLOURS = {
    **{"not well": "red", "error": "red", "ERROR": "red", "OFFLINE": "red", "not announced": "red"},
    **{"warning": "yellow", "DEGRADED": "yellow", "DRAINING": "yellow"},
    **{"well": "green", "ok": "green", "ONLINE": "green", "NO_MONITOR": "green"},
    **{"Established": "green", "announced": "green"},
}
Document = Mapping[str, Any]
Row = tuple[int, str, str, str]
"""How deep a line stands, what it is about, how that does, and why."""


def show(socket: Path, clock: Clock, *, as_json: bool, again: bool) -> bool:
    """Print how the agent at *socket* does, *again* every 2 s until Ctrl-C; True when it is well.

    Raises Unreachable if nobody answers, TimedOut after 5 s; *again* prints that and goes on.
    """
    look, colour = _json if as_json else _page, False if os.environ.get("NO_COLOR") else None
    text, is_well = ("", False) if again else look(socket)
    with contextlib.suppress(KeyboardInterrupt):
        while again:
            try:
                text, is_well = look(socket)
            except ApplyError as error:
                text, is_well = f"{clean(str(error))}\n", False
            click.clear()
            click.echo(text, nl=False, color=colour)
            clock.sleep(WATCH_SECONDS)
        click.echo(text, nl=False, color=colour)
    return is_well


def explained(socket: Path, id: str) -> str:
    """Return what is known of the objects that *id* names, in colours; '' where it names none.

    Raises Unreachable if nobody answers, TimedOut after 5 s.
    """
    found = _get(socket, f"explain/{quote(id, safe='')}")[0].get("explained", ())
    return "\n".join(_explained(one) for one in found)


def _explained(told: Document) -> str:
    parent = f" of {told['parent']}" if "parent" in told else ""
    what, how = f"{told['kind']} {told['id']}{parent}", told["operating_status"] or ""
    wished = (f"{name}={value}" for name, value in told["wished"].items() if value is not None)
    live = (f"{name}={value}" for name, value in told["live"].items())
    sections = {
        "WISHED": [" ".join(wished)],
        told["file"] or "NO FILE": told["lines"] or ["it is not in HAProxy's configuration"],
        "LIVE": [" ".join(live) or "HAProxy does not show it"],
        "IN THE WAY": told["because"] or ["nothing on this node"],
    }
    lines = [f"{clean(what)}  {click.style(clean(how), fg=COLOURS.get(how))}".rstrip()]
    for title, shown in sections.items():
        lines += [
            click.style(f"  {clean(title)}", bold=True),
            *(f"    {clean(one)}" for one in shown),
        ]
    return "\n".join(lines) + "\n"


def clean(text: str) -> str:
    """Return *text* with ``?`` for whatever a terminal would not show but obey."""
    return "".join("?" if unicodedata.category(one) in HIDING else one for one in text)


def view(status: Document, state: Document, speaker: Document) -> str:
    """Return what is shown, in colours, of those documents of the API; {} where there is none."""
    well = "well" if _is_well(status) else "not well"
    haproxy = {name: value for name, value in status["haproxy"].items() if value is not None}
    words = ", ".join(f"{name.replace('_', ' ')} {haproxy[name]}" for name in haproxy)
    sections = {
        "CONDITIONS": list(_conditions(status)),
        "TRAFFIC": list(_traffic(state, status["objects"])),
        "BGP": list(_bgp(speaker)),
        "HAPROXY": [(0, words or "was not seen to run", "", "")],
    }
    generations = f"generation {status['generation']}, live {status['observed_generation']}"
    lines = [f"{click.style(well, fg=COLOURS[well], bold=True)}, {generations}"]
    for title, rows in sections.items():
        lines += ["", click.style(title, bold=True), *_laid_out(rows)] if rows else []
    return "\n".join(lines) + "\n"


def _is_well(status: Document) -> bool:
    return all(one["severity"] != "error" for one in status["conditions"])


def _page(socket: Path) -> tuple[str, bool]:
    status, state, speaker = (_get(socket, one)[0] for one in ("status", "state", "quagga"))
    if not status:
        raise Unreachable(str(socket), "it does not tell its status")
    return view(status, state, speaker), _is_well(status)


def _json(socket: Path) -> tuple[str, bool]:
    """Return ``/api/status`` as it is; a terminal gets escapes for what it would obey."""
    status, body = _get(socket, "status")
    if sys.stdout.isatty():
        hidden = {one for one in {*body} - {"\n"} if unicodedata.category(one) in HIDING}
        body = body.translate({ord(one): json.dumps(one)[1:-1] for one in hidden})
    return body, bool(status) and _is_well(status)


def _get(socket: Path, name: str) -> tuple[Document, str]:
    """Return the document ``/api/<name>``, {} where there is none, and the answer's text."""
    request = f"GET /api/{name} HTTP/1.0\r\nHost: localhost\r\n\r"
    head, _, body = sockets.ask(socket, request, ANSWER_SECONDS).partition("\r\n\r\n")
    try:
        return json.loads(body) if " 200 " in head.partition("\r\n")[0] else {}, body
    except ValueError as error:
        raise Unreachable(str(socket), "its answer is cut short") from error


def _conditions(status: Document) -> Iterator[Row]:
    for one in status["conditions"]:
        what, how = f"{one['type']}={one['status']}", one["severity"].replace("info", "ok")
        yield 0, what, how, f"{one['message']}, since {one['since']}"


def _traffic(state: Document, objects: Document) -> Iterator[Row]:
    """Yield each VIP, its listeners, their pools and members; then the pools without listener."""
    pools = {one["id"]: one for one in state.get("pools", ())}
    named = {one["listener_id"]: id for id, one in pools.items()}
    owners = {one["id"]: one["vip_address"] for one in state.get("loadbalancers", ())}
    listeners: dict[str, list[Document]] = {vip: [] for vip in owners.values() if vip}
    for one in state.get("listeners", ()):
        vip = one["vip_address"] or owners.get(one["loadbalancer_id"])
        listeners.setdefault(str(vip), []).append(one)
    used = set()
    for vip in sorted(listeners):
        yield 0, f"vip {vip}", "", ""
        for one in listeners[vip]:
            what = f"listener {_name(one)} {one['protocol']} {one['protocol_port']}"
            yield 1, what, *_doing(objects["listeners"], one["id"])
            id = one["default_pool_id"] or named.get(one["id"])
            used.add(id)
            yield from _pool(2, pools[id], objects) if id in pools else ()
    for id in sorted(pools.keys() - used):
        yield from _pool(0, pools[id], objects)


def _pool(depth: int, pool: Document, objects: Document) -> Iterator[Row]:
    yield depth, f"pool {_name(pool)}", *_doing(objects["pools"], pool["id"])
    rows = []
    for one in pool["members"]:
        what = f"member {_name(one)} {endpoint(one['address'], one['protocol_port'])}"
        does = _doing(objects["members"], f"{pool['id']}/{one['id']}")
        rows.append((depth + 1, f"{what} weight {one['weight']}", *does))
    rows.sort(key=lambda row: ORDER.index(row[2]))
    yield from rows[:SHOWN]
    if len(rows) > SHOWN:
        yield depth + 1, f"and {len(rows) - SHOWN} more, none worse", "", ""


def _bgp(speaker: Document) -> Iterator[Row]:
    for one in speaker.get("sessions", ()):
        sent = f"up {one['uptime_seconds']} s, {one['prefixes_sent']} prefixes sent"
        why = sent if one["uptime_seconds"] is not None else one["last_error"] or ""
        yield 0, f"session {one['gateway']}", one["state"] or "unknown", why
    for one in speaker.get("vips", ()):
        how = {True: "announced", False: "not announced"}.get(one["announced"], "unknown")
        yield 0, f"vip {one['address']}", how, one["reason"] or f"since {one['since']}"


def _name(resource: Document) -> str:
    return f"{resource['id']} ({resource['name']})" if resource["name"] else str(resource["id"])


def _doing(objects: Document, id: str) -> tuple[str, str]:
    found = objects.get(id, {"operating_status": "", "reason": ""})
    return found["operating_status"], found["reason"]


def _laid_out(rows: list[Row]) -> Iterator[str]:
    """Yield *rows* in columns: the one place where strings of others become lines."""
    cleaned = [
        ("  " * (depth + 1) + clean(what), clean(how), clean(why)) for depth, what, how, why in rows
    ]
    width = max((len(what) for what, how, _ in cleaned if how), default=0)
    wide = max(len(how) for _, how, _ in cleaned)
    for what, how, why in cleaned:
        told = f"{'':{wide - len(how)}}  {why}" if why else ""
        yield f"{what:<{width}}  {click.style(how, fg=COLOURS.get(how))}{told}" if how else what
