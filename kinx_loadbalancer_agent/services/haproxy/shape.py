"""The shape of a configuration: what a running process cannot change about itself. Pure.

Two configurations of one shape need no reload between them. Today every token of a fragment is
part of the shape.
"""

import hashlib
from collections.abc import Iterable, Mapping

from kinx_loadbalancer_agent.engine.ports import Part

GLOBAL = "00-global.cfg"
MAX_NAMED = 4


def digest(parts: Mapping[str, Part]) -> str:
    """Return the digest of the shape of *parts*: SHA-256 over names and contents, in order."""
    found = hashlib.sha256()
    for name in sorted(parts):
        content = parts[name].content
        found.update(f"{name} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def changes(before: Mapping[str, Part], after: Mapping[str, Part]) -> str:
    """Return in words why a process of the shape *before* must be reloaded for *after*."""
    old = {name: part.content for name, part in before.items()}
    new = {name: part.content for name, part in after.items()}
    return _difference(old, new, only_new="is new", only_old="goes", both="changes")


def drift(wanted: Mapping[str, bytes], present: Mapping[str, bytes]) -> str:
    """Return in words how the files *present* differ from *wanted*; '' when they do not."""
    return _difference(
        wanted, present, only_new="is not ours", only_old="is missing", both="was edited"
    )


def summary(words: Iterable[str]) -> str:
    """Return *words* as one line, the first few of them by name."""
    found = sorted(words)
    more = len(found) - MAX_NAMED
    named = ", ".join(found[:MAX_NAMED])
    return f"{named} and {more} more" if more > 0 else named


def _difference(
    old: Mapping[str, bytes], new: Mapping[str, bytes], *, only_new: str, only_old: str, both: str
) -> str:
    words = [f"{name} {only_new}" for name in new.keys() - old.keys()]
    words += [f"{name} {only_old}" for name in old.keys() - new.keys()]
    words += [f"{name} {both}" for name in old.keys() & new.keys() if old[name] != new[name]]
    return summary(word for word in words if not word.startswith(GLOBAL) or len(words) == 1)
