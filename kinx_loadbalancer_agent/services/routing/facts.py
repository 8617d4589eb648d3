"""What bgpd answers, as values. Pure: text in, facts out."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

QUESTIONS = (
    "show running-config",
    "show bgp ipv4 unicast json",
    "show bgp ipv6 unicast json",
    "show bgp neighbors json",
)


NO_ERRORS = ("Waiting for peer OPEN", "No AFI/SAFI activated for peer")
"""What bgpd says of a session that is only beginning."""


class Session(NamedTuple):
    """A session with a router (RFC 4271, 8.2.2), as it is published."""

    gateway: str
    state: str | None = None
    uptime_seconds: int | None = None
    prefixes_sent: int | None = None
    last_error: str | None = None

    @property
    def is_established(self) -> bool:
        return self.state == "Established"


class Speaker(NamedTuple):
    """bgpd: its configuration, the prefixes it would tell every router of, its sessions."""

    running: str
    prefixes: frozenset[str]
    sessions: Mapping[str, Session]

    @property
    def is_heard(self) -> bool:
        """True when a router hears it."""
        return any(session.is_established for session in self.sessions.values())


def speaker(text: str) -> Speaker:
    """Return what the answers to QUESTIONS say, one after the other in *text*."""
    running, _, rest = text.partition("\nend\n")
    tables = list(_documents(rest))
    neighbors = tables.pop() if tables else {}
    routes = [route for table in tables for route in table.get("routes", {}).items()]
    usable = {prefix for prefix, paths in routes if any(path.get("valid") for path in paths)}
    sessions = {
        gateway: _session(gateway, told)
        for gateway, told in neighbors.items()
        if isinstance(told, dict)
    }
    return Speaker(running, frozenset(usable), sessions)


def _session(gateway: str, told: Mapping[str, Any]) -> Session:
    families = told.get("addressFamilyInfo", {}).values()
    sent = sum(one.get("sentPrefixCounter", 0) for one in families)
    uptime = told.get("bgpTimerUpMsec")
    why = told.get("lastNotificationReason") or told.get("lastResetDueTo")
    if why in NO_ERRORS:
        why = None
    is_up = told.get("bgpState") == "Established"
    return Session(
        gateway,
        told.get("bgpState"),
        uptime // 1000 if is_up and uptime is not None else None,
        sent,
        why or None,
    )


def _documents(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON documents of *text*; what is none, as a family without routes, is {}."""
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        found, end = decoder.raw_decode(text, at)
        yield found
        at = text.find("{", end)
