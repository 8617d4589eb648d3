"""``/metrics`` for Prometheus: what happened since the process began, and how the node stands.

A scrape reads what the agent knows already: neither HAProxy nor the routing daemon is asked, so
that neither keeps it waiting. Labels never hold what a caller made up.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kinx_loadbalancer_agent import __version__
from kinx_loadbalancer_agent.api.resources import arguments
from kinx_loadbalancer_agent.engine.engine import Engine
from kinx_loadbalancer_agent.engine.reports import Ended
from kinx_loadbalancer_agent.errors import Unavailable
from kinx_loadbalancer_agent.model.resources import Quagga
from kinx_loadbalancer_agent.system.clock import Clock

TEXT = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CHANGES = (1, 2, 4, 8, 16, 32, 48)
STATUS = {"True": 1, "False": 0, "Unknown": -1}
SEVERITY = {"info": 0, "warning": 1, "error": 2}
OUTCOMES = ("runtime", "reload", "none", "failed")
ROUTED = ("assigned", "served", "announced")

Values = Mapping[str, float | None]
"""By the value of the label; None where nobody knows."""


def blueprint(engine: Engine, clock: Clock) -> Blueprint:
    """Return the route; to be registered before all that it is to time."""
    routes, meters = Blueprint("metrics", __name__), Meters(engine)
    registry = CollectorRegistry()
    registry.register(meters)

    @routes.get("/metrics")
    def metrics() -> Response:
        arguments()
        return Response(generate_latest(registry), content_type=TEXT)

    @routes.before_app_request
    def begin() -> None:
        g.began = clock.monotonic()

    @routes.after_app_request
    def answered(response: Response) -> Response:
        # Anybody can invent methods and paths, before being asked who it is.
        method = request.method if request.method in METHODS else "other"
        route = request.url_rule.rule if request.url_rule else "none"
        meters.requests.labels(method, route, f"{response.status_code // 100}xx").inc()
        meters.durations.labels(method, route).observe(clock.monotonic() - g.began)
        return response

    return routes


class Meters(Collector):
    """What is counted as it happens, and what is read of *engine* when somebody collects."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # registry: not the one of the whole process.
        counted, spread = partial(Counter, registry=None), partial(Histogram, registry=None)
        timed = partial(spread, buckets=SECONDS)
        asked, by = ("method", "route", "status"), "by how HAProxy was changed, or failed."
        self.requests = counted("kinx_http_requests", "Requests answered.", asked)
        words = "From a request's arrival to its answer."
        self.durations = timed("kinx_http_request_duration_seconds", words, asked[:2])
        words = f"Batches of changes, and looks at the machine, {by}"
        self.batches = counted("kinx_batches", words, ("cause", "outcome"))
        for outcome in OUTCOMES:  # at 0 from the start: a first failure is an increase
            self.batches.labels("change", outcome)
        self.sizes = spread("kinx_batch_changes", "Changes asked in a batch.", buckets=CHANGES)
        words = f"Phases of batches, {by}"
        self.phases = timed("kinx_batch_phase_seconds", words, ("phase", "outcome"))
        self.commits = counted("kinx_commits", "Batches that were stored.")
        engine.reports.listeners.append(self.ended)

    def ended(self, batch: Ended) -> None:
        """Count *batch*."""
        self.batches.labels("change" if batch.asked else "look", batch.outcome).inc()
        if batch.kept:
            self.commits.inc()
        if batch.asked:
            self.sizes.observe(batch.asked)
            for phase in filter(batch.timing.get, batch.timing):
                self.phases.labels(phase, batch.outcome).observe(batch.timing[phase] / 1000)

    def collect(self) -> Iterator[Metric]:
        meters = (self.requests, self.durations, self.batches, self.sizes, self.phases)
        for meter in (*meters, self.commits):
            for family in meter.collect():
                # Prometheus notices by itself that a series begins again.
                family.samples = [s for s in family.samples if not s.name.endswith("_created")]
                yield family
        for type, name, words, label, values in self._standing():
            found = type(f"kinx_{name}", words, labels=[label] if label else [])
            for key, value in values.items():
                if value is not None:
                    found.add_metric([key] if label else [], value)
            yield found

    def _standing(self) -> Iterator[tuple[Any, str, str, str, Values]]:
        """Yield type, name, help, label and values of what is read now."""
        engine, gauge, counter = self._engine, GaugeMetricFamily, CounterMetricFamily
        found = engine.conditions.published()
        statuses = {one["type"]: STATUS[one["status"]] for one in found}
        severities = {one["type"]: SEVERITY[one["severity"]] for one in found}
        turns = {keeper.service.name: keeper.turns for keeper in engine.keepers}
        failures = {keeper.service.name: keeper.failed_turns for keeper in engine.keepers}
        drift, haproxy = engine.drift.published(), engine.reports.proxy.status()
        is_up = engine.conditions.holds("HaproxyRunning")
        vips, sessions, sent = self._routing()
        yield gauge, "agent_info", "The agent that answers.", "version", {__version__: 1}
        yield gauge, "condition", "1 True, 0 False, -1 Unknown.", "type", statuses
        yield gauge, "condition_severity", "0 info, 1 warning, 2 error.", "type", severities
        yield gauge, "generation", "Changes kept, ever.", "", {"": engine.generation}
        live = {"": engine.observed_generation}
        yield gauge, "observed_generation", "The last of them that is live.", "", live
        yield counter, "drift_found", "Changes of others found.", "", {"": drift["found"]}
        yield counter, "drift_repaired", "Those undone.", "", {"": drift["repaired"]}
        yield counter, "keeper_turns", "Looks at a service.", "service", turns
        yield counter, "keeper_failures", "Looks that failed.", "service", failures
        yield gauge, "haproxy_up", "Whether HAProxy was seen to answer.", "", {"": float(is_up)}
        yield counter, "haproxy_reloads", "As its master says.", "", {"": haproxy["reloads"]}
        failed = {"": haproxy["failed_reloads"]}
        yield counter, "haproxy_failed_reloads", "Those that failed.", "", failed
        yield gauge, "haproxy_old_workers", "Workers that leave.", "", {"": haproxy["old_workers"]}
        yield gauge, "vips", "VIPs of the speaker that are so.", "state", vips
        yield gauge, "bgp_session_up", "Whether it is established.", "gateway", sessions
        yield gauge, "bgp_prefixes_sent", "Prefixes the router was sent.", "gateway", sent

    def _routing(self) -> tuple[Values, Values, Values]:
        """Return the VIPs by state; of each gateway whether it hears us, and what it was sent.

        All are empty without a speaker, or as long as another process holds the state.
        """
        try:
            state = self._engine.state
        except Unavailable:
            return {}, {}, {}
        for speaker in state.all(Quagga.kind):
            shown = self._engine.reports.published(speaker, state)
            vips, counted = shown["vips"], {"wanted": float(len(shown["vips"]))}
            for name in ROUTED:
                told = [vip.get(name) for vip in vips]
                counted |= {name: sum(map(bool, told))} if any(x is not None for x in told) else {}
            # A daemon that only reads a file tells nothing of its sessions.
            heard = shown.get("sessions", ()) if "announced" in counted else ()
            is_up = {one["gateway"]: float(one["state"] == "Established") for one in heard}
            return counted, is_up, {one["gateway"]: one["prefixes_sent"] for one in heard}
        return {}, {}, {}
