"""Probes: the process is alive; the node may get work."""

from flask import Blueprint, Response

from kinx_loadbalancer_agent.api.problems import problem, respond
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.errors import Fault

NEEDED, EXCLUDED = ("Ready", "HaproxyRunning"), ("Drained",)


def blueprint(engine: Engine) -> Blueprint:
    """Return ``/healthz``, which waits for nothing, and ``/readyz``."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return respond({"status": "alive"})

    @routes.get("/readyz")
    def readyz() -> Response:
        holds = engine.conditions.holds
        missing = [name for name in NEEDED if not holds(name)]
        missing += [name for name in EXCLUDED if holds(name)]
        if not missing:
            return respond({"status": "ready"})
        faults = tuple(Fault("", engine.conditions.message(name) or name) for name in missing)
        detail = "; ".join(fault.detail for fault in faults)
        return problem(503, detail, faults=faults, headers={"Retry-After": "1"})

    return routes
