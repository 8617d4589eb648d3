"""Objects as they stand in the files, and as the worker shows them. Nothing is changed."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kinx_loadbalancer_agent.engine.ports import Part, Written
from kinx_loadbalancer_agent.errors import ApplyError
from kinx_loadbalancer_agent.model.resources import Ref
from kinx_loadbalancer_agent.services.haproxy import facts

WHOLE = {"listeners": "FRONTEND", "pools": "BACKEND"}
SHOWN = (
    *("scur", "smax", "slim", "stot", "econ", "eresp", "status", "weight", "act", "bck"),
    *("lastchg", "downtime", "check_status", "last_chk", "addr", "mode"),
)
"""Columns of ``show stat`` (HAProxy 2.6 management guide, 9.1)."""


def written(
    parts: Mapping[str, Part], directory: Path, refs: Iterable[Ref], ask: Callable[[str], str]
) -> dict[Ref, Written]:
    """Return those of *refs* that are in *parts*, the files of *directory*.

    ask: asks the worker; where it does not answer, nothing is known of what runs.
    """
    owned = {part.owner: (name, part) for name, part in parts.items() if part.proxy}
    found = {}
    for ref in refs:
        owner = owned.get(ref) or owned.get(Ref("pools", "", ref.parent))
        if owner is None:
            continue
        name, part = owner
        text = part.content.decode().splitlines()
        lines = [line.strip() for line in text if ref in owned or f" server {ref.id} " in line]
        if not lines:
            continue
        try:
            live = _live(ask(f"show stat {part.proxy} 7 -1"), WHOLE.get(ref.kind, ref.id))
        except ApplyError:
            live = {}
        found[ref] = Written(str(directory / name), tuple(lines), live)
    return found


def _live(text: str, server: str) -> dict[str, str]:
    """Return what ``show stat`` says of *server*."""
    for _, name, *values in facts.columns(text, *SHOWN):
        if name == server:
            return {shown: value for shown, value in zip(SHOWN, values, strict=True) if value}
    return {}
