"""What the node is doing: its status, and what became of a change."""

from flask import Blueprint, Response

from kinx_loadbalancer_agent.api.problems import respond
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.errors import NotFound


def blueprint(engine: Engine) -> Blueprint:
    """Return ``/api/status`` and ``/api/changes/<n>``."""
    routes = Blueprint("status", __name__, url_prefix="/api")

    @routes.get("/status")
    def status() -> Response:
        return respond(engine.status())

    @routes.get("/changes/<int:generation>")
    def change(generation: int) -> Response:
        found = engine.change(generation)
        if found is None:
            raise NotFound(f"there is no change {generation}")
        return respond(found)

    return routes
