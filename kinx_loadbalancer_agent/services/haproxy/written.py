"""Objects as they stand in the files, and as the worker shows them. Nothing is changed."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kinx_loadbalancer_agent.engine.ports import Part, Written
from kinx_loadbalancer_agent.errors import ApplyError
from kinx_loadbalancer_agent.model.resources import Ref

WHOLE = {"listeners": "FRONTEND", "pools": "BACKEND"}
SHOWN = (
    *("mode", "status", "check_status", "last_chk", "lastchg", "downtime", "addr", "weight"),
    *("act", "bck", "scur", "smax", "slim", "stot", "econ", "eresp"),
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
    lines = [line.split(",") for line in text.splitlines() if line]
    for row in lines[1:]:
        if row[1] == server:
            columns = (name.removeprefix("# ") for name in lines[0])
            return {
                name: value
                for name, value in zip(columns, row, strict=False)
                if name in SHOWN and value
            }
    return {}
