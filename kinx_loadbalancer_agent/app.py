"""The composition root: settings → services → engine → Flask, and how gunicorn serves it."""

import contextlib
import copy
import functools
import logging
import re
import ssl
import threading
import uuid
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from flask import Flask, Response, g, request
from gunicorn.app.base import BaseApplication
from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import ThreadWorker

from kinx_loadbalancer_agent import __version__, logs
from kinx_loadbalancer_agent.api import (
    auth,
    health,
    hold,
    metrics,
    openapi,
    problems,
    resources,
    status,
)
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.engine.reports import Ended
from kinx_loadbalancer_agent.errors import SettingsError
from kinx_loadbalancer_agent.model.kinds import Kinds
from kinx_loadbalancer_agent.services.haproxy.service import Haproxy
from kinx_loadbalancer_agent.services.routing.gate import Gate
from kinx_loadbalancer_agent.services.routing.service import Routing
from kinx_loadbalancer_agent.services.routing.vips import Vips
from kinx_loadbalancer_agent.services.schedule import Schedule
from kinx_loadbalancer_agent.services.text import Templates, template_directory
from kinx_loadbalancer_agent.settings import AgentSettings, Settings
from kinx_loadbalancer_agent.system import host, sockets
from kinx_loadbalancer_agent.system.clock import Clock, SystemClock
from kinx_loadbalancer_agent.system.files import Lock

log = structlog.get_logger()

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
UNREADABLE = (
    (ssl.SSLError, 400),
    (http_errors.LimitRequestLine, 414),
    (http_errors.LimitRequestHeaders, 431),
    (http_errors.ParseException, 400),
)
THREADS = 64
GRACEFUL_SECONDS = 20
READ_SECONDS = 5.0
TLS_SECONDS = 2.0


def build_engine(
    settings: Settings,
    *,
    own_haproxy: bool = False,
    kinds: Kinds | None = None,
    templates: Templates | None = None,
    clock: Clock | None = None,
) -> Engine:
    """Return the engine of *settings*, not started."""
    clock, kinds = clock or SystemClock(), kinds or Kinds()
    templates = templates or Templates()
    proxy = Haproxy(settings, kinds, clock, own=own_haproxy, templates=templates)
    routing = settings.routing
    gate = None
    if routing.live and routing.dialect == "frr":
        gate = Gate(proxy, clock, needs_member=routing.announce == "usable")
    speaker = Routing(routing, templates, gate, clock)
    vips = Vips(routing, speaker)
    return Engine(
        kinds=kinds,
        proxy=proxy,
        services=(vips, speaker, Schedule(settings.schedule, settings.agent.reported)),
        network=vips,
        store=settings.agent.store,
        lock=Lock(settings.agent.engine_lock),
        clock=clock,
    )


def build_app(
    settings: Settings, engine: Engine, *, kinds: Kinds | None = None, clock: Clock | None = None
) -> Flask:
    """Return the HTTP application over *engine*."""
    pages = template_directory() / "api"
    app = Flask("kinx_loadbalancer_agent", static_folder=None, template_folder=str(pages))
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # it would answer with a redirect, which is a page
    clock = clock or SystemClock()
    app.register_blueprint(metrics.blueprint(engine, clock))
    app.before_request(_identify)
    problems.register(app)
    app.register_error_handler(http_errors.ParseException, _unreadable_body)
    credentials = auth.Credentials(settings.agent.credentials)
    auth.register(app, credentials, clock)
    auth.expect_host(app, frozenset((settings.agent.node_name, *settings.agent.hosts.split())))
    kinds = kinds or Kinds()
    refuse_unknown = settings.agent.unknown_members == "refuse"
    documents = resources.documents(kinds, engine, refuse_unknown=refuse_unknown)
    for kind in kinds:
        app.register_blueprint(resources.blueprint(kind, kinds, engine, documents))
    app.register_blueprint(health.blueprint(engine))
    app.register_blueprint(hold.blueprint(engine))
    app.register_blueprint(status.blueprint(kinds, engine, documents, host.facts))
    app.register_blueprint(openapi.blueprint(kinds, __version__))
    app.after_request(_finish)
    return app


def _identify() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _unreadable_body(error: http_errors.ParseException) -> Response:
    return problems.problem(400, str(error))


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    response.headers["Cache-Control"] = "no-cache"
    if request.method == "OPTIONS" and response.status_code == 200:
        response.status_code = 204
        response.set_data(b"")
    if response.status_code == 204:
        response.headers.pop("Content-Type", None)
    return response


def _is_no_slow_client(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], BlockingIOError))


def check_tls(settings: AgentSettings) -> None:
    """Raise SettingsError if the files of TLS cannot be used."""
    if settings.certificate is not None:
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.client_ca)
            context.load_cert_chain(settings.certificate, settings.key)
        except OSError as error:  # SSLError is one
            files = " ".join(
                str(path)
                for path in (settings.certificate, settings.key, settings.client_ca)
                if path
            )
            raise SettingsError([f"[agent] certificate: cannot use {files}: {error}"]) from error


def tell_of_tls(settings: AgentSettings, engine: Engine, clock: Clock) -> None:
    """Have *engine* state with its looks whether new connections get TLS."""
    looked_at = 0.0

    def look(ended: Ended) -> None:
        nonlocal looked_at
        if clock.monotonic() - looked_at < TLS_SECONDS:
            return
        looked_at, name = clock.monotonic(), "CertificateUsable"
        try:
            check_tls(settings)
        except SettingsError as error:
            words = f"{error}; callers get no TLS until the files fit, without a restart"
            engine.conditions.set(name, "False", "Unusable", words, "error")
        else:
            engine.conditions.set(name, "True", "Usable", "certificate and key fit")

    if settings.certificate is not None:
        engine.reports.listeners.append(look)


def _tls(config: Any, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker, whose own refusals of what is no HTTP are problems too, not HTML."""

    def handle(self, conn: Any) -> Any:
        if self.cfg.is_ssl and sockets.is_unix(conn.sock):
            conn.cfg = self._plain  # its mode is the permission
        # gunicorn reads without a limit: some dozens of silent clients would take every thread.
        sockets.limit_reads(conn.sock, READ_SECONDS)
        return super().handle(conn)

    @functools.cached_property
    def _plain(self) -> Any:
        """gunicorn's configuration without TLS."""
        plain = copy.copy(self.cfg)
        plain.settings = {name: copy.copy(one) for name, one in self.cfg.settings.items()}
        for name in ("certfile", "keyfile", "ca_certs"):
            plain.set(name, None)
        return plain

    def handle_exit(self, sig: Any, frame: Any) -> None:
        # The next worker needs the state now, not when the last idle client is gone.
        threading.Thread(target=self.app.retire, daemon=True).start()
        super().handle_exit(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        status = next((code for kind, code in UNREADABLE if isinstance(exc, kind)), 500)
        why = str(exc)
        if isinstance(exc, http_errors.ParseException):
            why = why.partition(": ")[0]  # there it quotes what was sent: maybe a credential
        detail = why if status < 500 else problems.OUR_BUG
        id = uuid.uuid4().hex
        body = problems.text(problems.document(status, detail, id)).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        log.warning("request unreadable", status=status, error=why, request_id=id)
        with contextlib.suppress(OSError):
            client.settimeout(1.0)
            client.sendall(head.encode() + body)


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn with one worker of threads: one process holds the state and the engine."""

    def __init__(self, settings: Settings, *, own_haproxy: bool) -> None:
        self._settings = settings
        self._own_haproxy = own_haproxy
        self._engine: Engine | None = None
        super().__init__()

    def load_config(self) -> None:
        agent = self._settings.agent
        values: dict[str, Any] = {
            "bind": [agent.listen, f"unix:{agent.socket}"],
            "umask": 0o177,  # of the Unix socket: its mode is the permission
            "workers": 1,
            "worker_class": Worker,
            "threads": THREADS,
            "keepalive": 75,
            "max_requests": 0,
            "graceful_timeout": GRACEFUL_SECONDS,
            "preload_app": False,
            "control_socket_disable": True,
            "proc_name": "kinx_loadbalancer_agent",
            "certfile": _text(agent.certificate),
            "keyfile": _text(agent.key),
            "ca_certs": _text(agent.client_ca),
            "cert_reqs": ssl.CERT_REQUIRED if agent.client_ca else ssl.CERT_NONE,
            "ssl_context": _tls,
            "post_worker_init": self._worker_started,
            "worker_exit": self._worker_ended,
        }
        for name, value in values.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        self._engine = engine = build_engine(self._settings, own_haproxy=self._own_haproxy)
        logs.configure(self._settings.agent.log, lambda: engine.generation)
        tell_of_tls(self._settings.agent, engine, SystemClock())
        return build_app(self._settings, engine)

    def retire(self) -> None:
        """Answer what waits, take nothing more, give the state back."""
        if self._engine is not None:
            self._engine.stop()

    # Never raise in a hook: gunicorn then ends altogether.

    def _worker_started(self, worker: Any) -> None:
        # gunicorn writes a traceback for each client that was too slow; anybody could fill a disk.
        logging.getLogger("gunicorn.error").addFilter(_is_no_slow_client)
        if self._engine is not None:
            self._engine.start()

    def _worker_ended(self, server: Any, worker: Any) -> None:
        self.retire()
