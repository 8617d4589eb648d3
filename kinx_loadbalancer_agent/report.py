"""``check_vlb``, which cron runs: what this node knows of itself, to who collects such reports.

A report is sent whoever is dead here; what nobody can tell is null. This module must never change
what it reports on.
"""

import io
import json
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import click
import structlog

from kinx_loadbalancer_agent import __version__, cli, errors, logs
from kinx_loadbalancer_agent.engine import store
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.model.resources import Crontab, Ref, vip_addresses
from kinx_loadbalancer_agent.model.rules import endpoint
from kinx_loadbalancer_agent.model.state import State
from kinx_loadbalancer_agent.services.haproxy import facts
from kinx_loadbalancer_agent.settings import HaproxySettings, ScheduleSettings, Settings
from kinx_loadbalancer_agent.system import files, host, sockets, web
from kinx_loadbalancer_agent.system.clock import Clock, Deadline, SystemClock, timestamp

GIVE_UP_SECONDS = 7.0  # of the 10 a report may take: a busy node starts Python in some seconds
SEND_SECONDS = 6.5
COLLECT_SECONDS = 4.0
ANSWER_SECONDS = 1.5
CPU_SECONDS = 0.5


@click.command()
@cli.command
def main(where: cli.Where) -> None:
    """Report on this node as /api/crontab asks for; 1 and one line in the log when it cannot."""
    settings = where.load()
    lock = files.Lock(settings.agent.state_directory / "check_vlb.lock")
    if not lock.take():
        return
    done: Future[None] = Future()
    # Neither the search for a name nor a hung disk can be interrupted, only left behind.
    threading.Thread(target=_run, args=(settings, done), daemon=True).start()
    why = ""
    try:
        done.result(GIVE_UP_SECONDS)
    except (errors.AgentError, OSError) as error:
        why = str(error) or f"not done within {GIVE_UP_SECONDS} s"
        _complain(settings.schedule.log, why)
    with suppress(OSError):  # a disk that is full; the agent says so
        files.write(settings.agent.reported, why.encode(), mode=0o600)
    if why:
        sys.exit(cli.REFUSED)


def _run(settings: Settings, done: Future[None]) -> None:
    try:
        send(settings, SystemClock())
        done.set_result(None)
    except BaseException as error:
        done.set_exception(error)


def send(settings: Settings, clock: Clock) -> None:
    """Collect a report and have it taken.

    Raises NotFound if nobody has asked for reports, StateError if that cannot be read, Unreachable
    or TimedOut if the collector does not take it.
    """
    end = Deadline.after(clock, SEND_SECONDS)
    state, generation = store.read(settings.agent.store, Kinds())
    asked = cast(Crontab | None, state.get(Ref("crontab", "", "crontab")))
    if asked is None:
        raise errors.NotFound("there is no crontab resource that says where to report")
    limit = Deadline.after(clock, COLLECT_SECONDS)
    agent, bgp, versions = _told_by_agent(settings.agent.socket, state, generation, limit)
    report = {
        "tenant_id": asked.tenant_id,
        "vm_id": asked.vm_id,
        "hostname": settings.agent.node_name,
        "agent": agent,
        "host": host.facts(CPU_SECONDS),
        "haproxy": _told_by_haproxy(settings.haproxy, limit),
        "bgp": bgp,
        "versions": versions,
        "taken_at": timestamp(clock.time()),
    }
    token = settings.schedule.token
    web.post(_url(settings.schedule, asked), report, end.remaining(), token)


def _url(settings: ScheduleSettings, asked: Crontab) -> str:
    path = settings.path.replace("{vm_id}", asked.vm_id).replace("{tenant_id}", asked.tenant_id)
    return f"{settings.scheme}://{endpoint(asked.agent_addr, asked.agent_port)}{path}"


def _told_by_agent(
    socket: Path, state: State, generation: int, limit: Deadline
) -> tuple[dict[str, Any], ...]:
    """Return ``agent``, ``bgp`` and ``versions``; what is in the store is known without it."""
    status, silence = _get(socket, "/api/status", limit)
    about = _get(socket, "/api/info", limit)[0] if status else {}
    speaker = _get(socket, "/api/quagga", limit)[0] if status else {}
    unknown = dict.fromkeys(("assigned", "served", "announced", "since", "reason"))
    agent = {
        "version": about.get("versions", {}).get("agent", __version__),
        "generation": status.get("generation", generation),
        "observed_generation": status.get("observed_generation"),
        "ready": status.get("ready", False),
        "state_digest": about.get("state_digest"),
        "conditions": status.get("conditions", [_silent(silence)]),
    }
    bgp = {
        "sessions": speaker.get("sessions", []),
        "vips": speaker.get("vips", [{"address": a} | unknown for a in vip_addresses(state)]),
    }
    digests = about.get("digests", {})
    return agent, bgp, {name: digests.get(name) for name in ("haproxy", "routing", "schedule")}


def _silent(why: str) -> dict[str, Any]:
    return {
        "type": "AgentAnswers",
        "status": "False",
        "severity": "error",
        "reason": "NoAnswer",
        "message": f"the agent does not answer: {why}",
        "since": None,
    }


def _get(socket: Path, path: str, limit: Deadline) -> tuple[dict[str, Any], str]:
    """Return what the agent answers to a GET of *path*, and why it does not."""
    answer, silence = _ask(socket, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r", limit)
    head, _, body = answer.partition("\r\n\r\n")
    first = head.partition("\r\n")[0]
    if " 200 " not in first:
        return {}, silence or f"it says {first!r}"
    try:
        return json.loads(body), ""
    except ValueError:
        return {}, "its answer is cut short"


def _told_by_haproxy(settings: HaproxySettings, limit: Deadline) -> dict[str, Any]:
    """Return ``haproxy``: the worker that answers (``show info``), and how many are leaving."""
    info, silence = _ask(settings.agent_socket, "show info", limit)
    shown = dict(line.split(": ", 1) for line in info.splitlines() if ": " in line)
    frontends = "" if silence else _ask(settings.agent_socket, "show stat -1 1 -1", limit)[0]
    rates = facts.columns(frontends, "req_rate")
    request_rate = sum(_number(rate) or 0 for _, _, rate in rates)
    processes = facts.master(_ask(settings.master_socket, "show proc", limit)[0])
    return {
        "version": shown.get("Version"),
        "pid": _number(shown.get("Pid")),
        "uptime_seconds": _number(shown.get("Uptime_sec")),
        "current_connections": _number(shown.get("CurrConns")),
        "request_rate": request_rate if frontends else None,
        "old_workers": len(processes.old_workers) if processes else None,
    }


def _number(digits: str | None) -> int | None:
    return int(digits) if digits and digits.isdecimal() else None


def _ask(socket: Path, words: str, limit: Deadline) -> tuple[str, str]:
    """Return what *socket* answers, and why it does not."""
    try:
        return sockets.ask(socket, words, limit.remaining(ANSWER_SECONDS)), ""
    except errors.ApplyError as error:
        return "", str(error)


def _complain(log: Path, why: str) -> None:
    """Append one line to *log*; where somebody looks on, say it there too."""
    line = io.StringIO()
    logs.configure()
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=line))
    structlog.get_logger().warning("report not sent", error=why)
    if sys.stderr.isatty():
        click.echo(line.getvalue(), nl=False, err=True)
    files.make_directory(log.parent, 0o755)
    files.append(log, line.getvalue().encode(), mode=0o640)
