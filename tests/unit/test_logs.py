"""Every event is one line, for people and for machines."""

import json
from pathlib import Path
from typing import Any

import pytest
import structlog

from kinx_loadbalancer_agent import logs


@pytest.fixture
def log(tmp_path: Path) -> Any:
    logs.configure(tmp_path / "agent.log", lambda: 7)
    yield structlog.get_logger()
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_a_line_of_json_with_its_fields(log: Any, tmp_path: Path) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        log.info("change kept", generation=6, subject="pool a\nb")

    (event,) = lines(tmp_path / "agent.log")
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        **{"event": "change kept", "level": "info", "generation": 6},
        **{"subject": "pool a\nb", "request_id": "r1"},
    }


def test_an_event_that_names_no_generation_has_the_newest(log: Any, tmp_path: Path) -> None:
    log.info("service changed")

    (event,) = lines(tmp_path / "agent.log")
    assert event["generation"] == 7


def test_a_file_that_was_rotated_is_begun_anew(log: Any, tmp_path: Path) -> None:
    path = tmp_path / "agent.log"

    log.info("one")
    path.rename(tmp_path / "agent.log.1")
    log.info("two")

    assert [event["event"] for event in lines(path)] == ["two"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_cannot_be_written_takes_nothing_else_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(tmp_path / "no directory" / "agent.log")
    try:
        structlog.get_logger().info("one")
    finally:
        structlog.reset_defaults()

    assert not (tmp_path / "no directory").exists()
