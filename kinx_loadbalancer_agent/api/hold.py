"""``/api/hold``: nothing is changed for some minutes, so that a person can work on the machine."""

from typing import Annotated

from flask import Blueprint, Response, g, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kinx_loadbalancer_agent.api import bodies
from kinx_loadbalancer_agent.api.problems import respond
from kinx_loadbalancer_agent.api.resources import arguments
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.errors import refusal
from kinx_loadbalancer_agent.model.fold import validation_faults
from kinx_loadbalancer_agent.model.types import Text

MAX_MINUTES = 1440


class Asked(BaseModel):
    """What a PUT asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    minutes: int = Field(ge=1, le=MAX_MINUTES)
    reason: Annotated[Text, Field(min_length=1)]


def blueprint(engine: Engine) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("hold", __name__, url_prefix="/api/hold")
    hold = engine.hold

    @routes.get("")
    def show() -> Response:
        arguments()
        return respond(hold.published())

    @routes.put("")
    def begin() -> Response:
        arguments()
        body = bodies.read_object(request)
        _ = engine.state  # only who decides can hold
        try:
            asked = Asked.model_validate(body)
        except ValidationError as error:
            raise refusal(validation_faults(error)) from error
        hold.begin(g.who, asked.reason, asked.minutes)
        return respond(hold.published())

    @routes.delete("")
    def end() -> Response:
        arguments()
        hold.end()
        return Response(status=204)

    return routes
