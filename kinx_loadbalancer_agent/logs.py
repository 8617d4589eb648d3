"""Logs are events: a constant sentence and fields, one line each.

On standard error as logfmt, for people; in a file as JSON, for machines. The file is opened for
each line, so that whoever rotates it has nobody to tell.
"""

import logging
import sys
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from kinx_loadbalancer_agent.system import files

MODE = 0o640
Event = MutableMapping[str, Any]


class Kept:
    """A step of structlog that adds each event to the file *path*; a disk that is full loses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._render = structlog.processors.JSONRenderer(default=str)

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        line = str(self._render(logger, method, dict(event)))
        with suppress(OSError):
            files.append(self._path, line.encode() + b"\n", mode=MODE)
        return event


def configure(path: Path | None = None, generation: Callable[[], int] | None = None) -> None:
    """Make every event one line, and keep it in the file *path*, too.

    generation: of the newest change kept, for each event that names no other.
    """

    def numbered(logger: Any, method: str, event: Event) -> Event:
        return {"generation": generation(), **event} if generation else event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            numbered,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *([Kept(path)] if path else []),
            structlog.processors.LogfmtRenderer(
                key_order=["timestamp", "level", "event"], bool_as_flag=False
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
