"""``/metrics`` (CONTRACT section 2, Observing) and the alert rules over it in ``samples``."""

import json
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from kinx_loadbalancer_agent import settings
from kinx_loadbalancer_agent.api.metrics import Meters
from kinx_loadbalancer_agent.engine.conditions import Conditions, Drift
from kinx_loadbalancer_agent.engine.reports import Ended
from kinx_loadbalancer_agent.system.clock import SystemClock
from kinx_loadbalancer_agent.system.files import Lock
from tests.conftest import need
from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, POOLS
from tests.fault.node import stopped
from tests.machine import Machine, wait_until
from tests.unit.desired import Desired

METRICS = "/metrics"
SECONDS_HUNG = 1.0
ALERTS = Path(__file__).parents[2] / "samples/alerts.yml"
PROMTOOL = pytest.mark.usefixtures("promtool")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def promtool() -> None:
    need("promtool")  # Debian: prometheus


def parsed(text: str) -> Samples:
    """Return the value of every sample of *text*, by its name and labels."""
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def scrape(machine: Machine) -> Samples:
    reply = machine.get(METRICS)
    assert reply.status == 200, reply.body
    return parsed(reply.body.decode())


def value(samples: Samples, name: str, **labels: str) -> float | None:
    """Return a sample, None when it is not there."""
    return samples.get((name, frozenset(labels.items())))


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return (value(after, name, **labels) or 0) - (value(before, name, **labels) or 0)


def requests(route: str, method: str = "GET", status: str = "2xx") -> dict[str, str]:
    return {"method": method, "route": route, "status": status}


# --- the page -------------------------------------------------------------------------------


def test_metrics_are_text_of_prometheus_each_with_its_type_and_meaning(shared: Machine) -> None:
    reply = shared.get(METRICS)

    text = reply.body.decode()
    families = list(text_string_to_metric_families(text))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert len(families) > 15
    for family in families:
        assert family.name.startswith("kinx_")
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
    assert "_created" not in text


def test_metrics_ask_for_a_credential_of_any_role(shared: Machine) -> None:
    reader = shared.cli("credentials", "add", "prometheus", "--role", "read").stdout.strip()

    headers = {"Authorization": f"Bearer {reader}"}
    allowed = wait_until(lambda: shared.get(METRICS, auth=False, headers=headers), 2)

    assert allowed.status == 200
    judge.assert_is_problem(shared.get(METRICS, auth=False), 401)


def test_metrics_are_only_read_and_take_no_arguments(shared: Machine) -> None:
    judge.assert_is_problem(shared.post(METRICS, {}), 405)
    judge.assert_is_problem(shared.get(f"{METRICS}?name=a"), 400)


@PROMTOOL
def test_promtool_has_nothing_against_the_page(shared: Machine) -> None:
    documents.made(shared, "quagga")
    page = shared.get(METRICS).body

    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- requests -------------------------------------------------------------------------------


def test_a_request_is_counted_by_its_method_its_rule_and_the_class_of_its_status(
    shared: Machine,
) -> None:
    pool = documents.made(shared, "pools").body["id"]
    before = scrape(shared)

    shared.get(f"{POOLS}/{pool}")
    shared.get(f"{POOLS}/{pool}")
    shared.get(f"{POOLS}/{documents.fresh('none')}")
    shared.get(f"{POOLS}/{pool}", auth=False)

    after, rule = scrape(shared), f"{POOLS}/<id>"
    assert grown(before, after, "kinx_http_requests_total", **requests(rule)) == 2
    refused = requests(rule, status="4xx")
    assert grown(before, after, "kinx_http_requests_total", **refused) == 2
    timed = {"method": "GET", "route": rule}
    assert grown(before, after, "kinx_http_request_duration_seconds_count", **timed) == 4
    assert 0 < grown(before, after, "kinx_http_request_duration_seconds_sum", **timed) < 4


def test_what_callers_make_up_makes_no_series(shared: Machine) -> None:
    def make_up(number: int) -> None:
        shared.request(f"BREW{number}", f"/invented-{number}", auth=False)
        shared.get(f"/invented-{number}")
        shared.get(f"{LISTENERS}/invented-{number}")

    make_up(0)
    scrape(shared)
    before = scrape(shared)

    for number in range(1, 20):
        make_up(number)

    after = scrape(shared)
    assert {one for one in after.keys() - before.keys() if "_http_" in one[0]} == set()
    made_up = requests("none", "other", "4xx")
    assert grown(before, after, "kinx_http_requests_total", **made_up) == 19


# --- changes --------------------------------------------------------------------------------


def batches(outcome: str, cause: str = "change") -> dict[str, str]:
    return {"cause": cause, "outcome": outcome}


def test_a_change_is_counted_by_how_haproxy_was_changed_with_the_times_it_took(
    shared: Machine,
) -> None:
    before = scrape(shared)

    listener = documents.made(shared, "listeners", enabled=True).body["id"]
    pool = documents.made(shared, "pools", enabled=True, listener_id=listener).body["id"]
    member = documents.member()
    shared.post(f"{POOLS}/{pool}/members", member)
    shared.put(f"{POOLS}/{pool}/members/{member['id']}", {"weight": 7})
    shared.put(f"{POOLS}/{pool}/members/{member['id']}", {"weight": 7})

    after = settled(shared, before, 5)
    assert grown(before, after, "kinx_batches_total", **batches("reload")) == 2
    assert grown(before, after, "kinx_batches_total", **batches("runtime")) == 2
    assert grown(before, after, "kinx_batches_total", **batches("none")) == 1
    assert grown(before, after, "kinx_commits_total") == 4
    assert grown(before, after, "kinx_generation") == 4
    assert value(after, "kinx_generation") == value(after, "kinx_observed_generation")
    assert grown(before, after, "kinx_haproxy_reloads_total") == 2
    assert grown(before, after, "kinx_batch_changes_sum") == 5
    for phase in ("check", "activate", "commit"):
        timed = {"phase": phase, "outcome": "reload"}
        assert grown(before, after, "kinx_batch_phase_seconds_count", **timed) == 2
        assert 0 < grown(before, after, "kinx_batch_phase_seconds_sum", **timed) < 10


def settled(machine: Machine, before: Samples, count: int) -> Samples:
    """Return a scrape that has *count* more batches: they are counted after they are answered."""

    def found() -> Samples | None:
        after = scrape(machine)
        done = grown(before, after, "kinx_batch_changes_count") >= count
        return after if done else None

    return dict(wait_until(found, 2))


def test_a_dry_run_is_no_change(shared: Machine) -> None:
    before = scrape(shared)

    tried = shared.post(f"{LISTENERS}?dry_run=true", documents.listener())

    after = scrape(shared)
    assert tried.status == 200
    assert grown(before, after, "kinx_batch_changes_count") == 0
    assert grown(before, after, "kinx_commits_total") == 0


def test_what_others_change_is_counted_as_found_and_as_repaired(machine: Machine) -> None:
    documents.made(machine, "listeners", enabled=True)
    before = scrape(machine)

    fragment = next(machine.conf_d.glob("50-frontend-*.cfg"))
    fragment.write_bytes(fragment.read_bytes() + b"    maxconn 7\n")
    found = wait_until(lambda: grown(before, scrape(machine), "kinx_drift_found_total"), 10)
    wait_until(lambda: grown(before, scrape(machine), "kinx_drift_repaired_total") == found, 10)


def test_each_service_has_its_turns_and_those_that_failed(machine: Machine) -> None:
    crontabs = machine.root / "var/spool/cron/crontabs"
    crontabs.parent.mkdir(parents=True, exist_ok=True)
    crontabs.write_bytes(b"in the way of the directory")

    place = documents.place(machine, "crontab")
    made = machine.post(place.collection, place.body)
    wait_until(lambda: value(scrape(machine), "kinx_keeper_failures_total", service="schedule"), 5)

    found = scrape(machine)
    assert made.status == 202
    failures = value(found, "kinx_keeper_failures_total", service="schedule")
    assert value(found, "kinx_keeper_turns_total", service="schedule") >= failures
    assert value(found, "kinx_keeper_failures_total", service="routing") == 0
    assert value(found, "kinx_keeper_turns_total", service="routing") >= 1


# --- a node that is not well ----------------------------------------------------------------


def test_a_hung_haproxy_keeps_no_scrape_waiting_and_is_seen(shared: Machine) -> None:
    seconds, up = [], [value(scrape(shared), "kinx_haproxy_up")]

    def is_over() -> bool:
        began = time.monotonic()
        found = scrape(shared)
        seconds.append(time.monotonic() - began)
        up.append(value(found, "kinx_haproxy_up"))
        failed = value(found, "kinx_batches_total", **batches("failed", "look"))
        return 0 in up and bool(failed)

    with stopped(shared.worker_pid()):
        wait_until(is_over, 15, 0.1)

    assert up[0] == 1
    assert max(seconds) < SECONDS_HUNG, seconds
    wait_until(lambda: value(scrape(shared), "kinx_haproxy_up") == 1, 20)


def test_without_haproxy_there_are_metrics_and_what_its_master_would_say_is_absent() -> None:
    need("haproxy")
    machine = Machine(own_haproxy=False)
    try:
        machine.start(ready=False)
        wait_until(lambda: answers(machine) and machine.condition("HaproxyRunning"), 20)
        machine.post(POOLS, documents.pool())

        found = scrape(machine)
    finally:
        machine.end()

    assert value(found, "kinx_haproxy_up") == 0
    assert value(found, "kinx_condition", type="HaproxyRunning") == 0
    assert value(found, "kinx_condition_severity", type="HaproxyRunning") == 2
    assert value(found, "kinx_haproxy_old_workers") is None
    assert value(found, "kinx_generation") == 1
    assert value(found, "kinx_observed_generation") == 0


def answers(machine: Machine) -> bool:
    try:
        return machine.get(METRICS).status == 200
    except OSError:
        return False


def test_an_agent_that_waits_for_the_state_says_so() -> None:
    machine = Machine(own_haproxy=False)
    held = Lock(settings.load(root=machine.root, environment={}).agent.engine_lock)
    assert held.take()
    try:
        machine.start(ready=False)
        wait_until(lambda: answers(machine), 20)
        wait_until(lambda: value(scrape(machine), "kinx_condition", type="Ready") == 0, 5)
        assert machine.get(LISTENERS).status == 503
    finally:
        held.release()
        machine.end()


# --- what the services know -----------------------------------------------------------------

VIPS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
GATEWAYS = ("198.51.100.1", "198.51.100.2")


def told(shown: dict[str, Any] | None) -> Samples:
    """Return the metrics of an engine with a speaker that publishes *shown*; None: without one."""
    desired, clock = Desired(), SystemClock()
    if shown is not None:
        desired.post("quagga", documents.quagga())
    conditions = Conditions(clock)
    conditions.set("Ready", "True", "Serving", "changes are accepted")
    conditions.set("HaproxyRunning", "Unknown", "TimedOut", "no answer", "error")
    conditions.set("Drift", "True", "Foreign", "found", "warning")
    haproxy = {"reloads": None, "failed_reloads": None, "old_workers": 2}
    reports = SimpleNamespace(
        listeners=[],
        published=lambda resource, state: shown,
        proxy=SimpleNamespace(status=lambda: haproxy),
    )
    engine: Any = SimpleNamespace(
        conditions=conditions,
        drift=Drift(conditions, clock),
        generation=2,
        observed_generation=1,
        keepers=[],
        reports=reports,
        state=desired.state,
    )
    registry = CollectorRegistry()
    registry.register(Meters(engine))
    (listener,) = reports.listeners
    listener(Ended(3, 0, "failed", {}))
    return parsed(generate_latest(registry).decode())


def vip(address: str, assigned: bool, served: bool | None, announced: bool | None) -> Any:
    return {"address": address, "assigned": assigned, "served": served, "announced": announced}


def session(gateway: str, state: str | None, sent: int | None = None) -> Any:
    return {"gateway": gateway, "state": state, "prefixes_sent": sent}


def test_vips_are_counted_by_state_and_each_gateway_has_its_session() -> None:
    vips = [vip(VIPS[0], True, True, True), vip(VIPS[1], True, True, False)]
    vips.append(vip(VIPS[2], False, None, False))
    sessions = [session(GATEWAYS[0], "Established", 1), session(GATEWAYS[1], "Active")]

    found = told({"vips": vips, "sessions": sessions})

    states = ("wanted", "assigned", "served", "announced")
    assert [value(found, "kinx_vips", state=state) for state in states] == [3, 2, 2, 1]
    up = [value(found, "kinx_bgp_session_up", gateway=gateway) for gateway in GATEWAYS]
    sent = [value(found, "kinx_bgp_prefixes_sent", gateway=gateway) for gateway in GATEWAYS]
    assert (up, sent) == ([1, 0], [1, None])


def test_what_a_routing_daemon_does_not_tell_is_absent_not_0() -> None:
    vips = [vip(VIPS[0], True, None, None)]

    found = told({"vips": vips, "sessions": [session(GATEWAYS[0], None)]})

    assert value(found, "kinx_vips", state="wanted") == 1
    assert value(found, "kinx_vips", state="announced") is None
    assert value(found, "kinx_bgp_session_up", gateway=GATEWAYS[0]) is None


def test_a_node_without_a_speaker_has_no_vips_and_no_sessions() -> None:
    names = {name for name, _ in told(None)}

    assert not {name for name in names if name.startswith(("kinx_vips", "kinx_bgp"))}


def test_a_condition_is_1_0_or_minus_1_and_has_its_severity_beside_it() -> None:
    found = told(None)

    types = ("Ready", "HaproxyRunning", "Drift")
    assert [value(found, "kinx_condition", type=type) for type in types] == [1, -1, 1]
    assert [value(found, "kinx_condition_severity", type=type) for type in types] == [0, 2, 1]


def test_a_batch_that_failed_is_counted_and_stored_nothing() -> None:
    found = told(None)

    assert value(found, "kinx_batches_total", **batches("failed")) == 1
    assert value(found, "kinx_batch_changes_sum") == 3
    assert value(found, "kinx_commits_total") == 0


# --- the alert rules ------------------------------------------------------------------------


def test_every_metric_that_the_alert_rules_name_is_there(shared: Machine) -> None:
    documents.made(shared, "quagga")
    text = ALERTS.read_text()
    expressions = re.findall(r"expr: ((?:.*\n)(?: {10}.*\n)*)", text)
    assert len(expressions) == text.count("- alert: ") > 5

    named = {name for one in expressions for name in re.findall(r'(?<!")\bkinx_\w+', one)}

    typed = set(re.findall(r"^# TYPE (\w+)", shared.get(METRICS).body.decode(), re.MULTILINE))
    assert named
    assert named - typed == set()


@PROMTOOL
def test_promtool_accepts_the_alert_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr


HEALTHY = {
    'up{job="kinx_loadbalancer_agent"}': "1x120",
    'kinx_condition{type="Ready"}': "1x120",
    'kinx_condition{type="Drained"}': "0x120",
    'kinx_condition_severity{type="Ready"}': "0x120",
    'kinx_condition_severity{type="Applied"}': "0x120",
    "kinx_haproxy_up": "1x120",
    "kinx_haproxy_failed_reloads_total": "4x120",
    "kinx_haproxy_old_workers": "8x120",
    'kinx_batches_total{cause="change",outcome="failed"}': "5x120",
    "kinx_drift_found_total": "7x120",
    'kinx_bgp_session_up{gateway="192.0.2.254"}': "1x120",
    'kinx_vips{state="wanted"}': "3x120",
    'kinx_vips{state="announced"}': "3x120",
}
"""A node that is well, for half an hour: a sample every 15 s."""
WRONG = (
    ({'up{job="kinx_loadbalancer_agent"}': "0x120"}, {"AgentDown"}),
    ({'kinx_condition{type="Ready"}': "0x120"}, {"AgentNotReady"}),
    ({'kinx_condition{type="Ready"}': "-1x120"}, {"AgentNotReady"}),
    ({"kinx_haproxy_up": "0x120"}, {"HaproxyDown"}),
    ({'kinx_condition_severity{type="Applied"}': "2x120"}, {"ConditionError"}),
    ({'kinx_condition_severity{type="Applied"}': "1x120"}, {"ConditionWarning"}),
    ({"kinx_haproxy_failed_reloads_total": "4x100 5x20"}, {"ReloadsFail"}),
    ({'kinx_batches_total{cause="change",outcome="failed"}': "0x100 1+1x20"}, {"ChangesFail"}),
    ({"kinx_drift_found_total": "7x30 8x20 9x20 10x20 12x30"}, {"DriftRepeats"}),
    ({'kinx_bgp_session_up{gateway="192.0.2.254"}': "0x120"}, {"BgpSessionDown"}),
    ({'kinx_vips{state="announced"}': "2x120"}, {"VipNotAnnounced"}),
    (
        {'kinx_vips{state="announced"}': "0x120", 'kinx_condition{type="Drained"}': "1x120"},
        set(),
    ),
    ({"kinx_haproxy_old_workers": "9x120"}, {"OldWorkersMany"}),
    ({"kinx_haproxy_up": "1x119 0"}, set()),
    ({}, set()),
)


@PROMTOOL
@pytest.mark.parametrize(("series", "alerts"), WRONG)
def test_what_is_wrong_fires_its_alert_and_no_other(
    tmp_path: Path, series: dict[str, str], alerts: set[str]
) -> None:
    given = [{"series": name, "values": values} for name, values in (HEALTHY | series).items()]
    fires = 'count by (alertname) (ALERTS{alertstate="firing"}) > 0'
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts]
    case = {
        "interval": "15s",
        "input_series": given,
        "promql_expr_test": [{"expr": fires, "eval_time": "30m", "exp_samples": expected}],
    }
    path = tmp_path / "case.yml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": [case]}))

    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
