"""``check_vlb``: the report that cron has this node send (CONTRACT section 5)."""

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from kinx_loadbalancer_agent import __version__
from tests.conftest import need
from tests.machine import Machine, QuietServer, free_port, wait_until

CHECKOUT = Path(__file__).parents[2]
CHECK_VLB = Path(sys.executable).with_name("check_vlb")
CRON = {"HOME": "/root", "LOGNAME": "root", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
"""All that cron's children find in their environment."""

VIP = "127.0.7.1"
QUAGGA = {
    "hostname": "lbv-1",
    "inter_as_number": 50235,
    "vm_addr": "10.40.252.235",
    "primary_gateway_addr": "10.40.252.2",
    "secondary_gateway_addr": "10.40.252.3",
    "router_as_number": 60201,
    "vip_addr": VIP,
}
PATH = "/api/vlbs/vm-1/report"
TOKEN = "not-for-the-log"
MOST_SECONDS = 10.0


# --- the other end ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a collector was sent."""

    path: str
    headers: dict[str, str]
    document: dict[str, Any]


Answer = Callable[["Collector", http.server.BaseHTTPRequestHandler], None]


def takes(collector: "Collector", request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(204)
    request.end_headers()


def fails(collector: "Collector", request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_error(500)


def redirects(collector: "Collector", request: http.server.BaseHTTPRequestHandler) -> None:
    request.send_response(307)
    request.send_header("Location", f"http://127.0.0.1:{collector.port}/elsewhere")
    request.end_headers()


def hangs(collector: "Collector", request: http.server.BaseHTTPRequestHandler) -> None:
    """Answer nothing until the test goes on; then take the report after all."""
    collector.stopped.wait(60)
    takes(collector, request)


def trickles(collector: "Collector", request: http.server.BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not collector.stopped.wait(0.1):
        request.wfile.write(b"x")


def babbles(collector: "Collector", request: http.server.BaseHTTPRequestHandler) -> None:
    request.wfile.write(request.headers.get("Authorization", "?").encode() + b"\r\n\r\n")


@dataclass
class Collector:
    """An HTTP server that keeps what it is sent and answers as *answer* does."""

    answer: Answer = takes
    address: str = "127.0.0.1"
    certificate: Path | None = None
    reports: list[Report] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                report = Report(self.path, dict(self.headers), json.loads(body))
                collector.reports.append(report)
                collector.answer(collector, self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(QuietServer):
            address_family = socket.AF_INET6 if ":" in self.address else socket.AF_INET

        self.port = free_port()
        self._server = Server((self.address, self.port), Handler)
        if self.certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(self.certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def collecting(answer: Answer = takes, **options: Any) -> Iterator[Collector]:
    """A collector for the time of the block."""
    collector = Collector(answer, **options)
    try:
        yield collector
    finally:
        collector.stop()


# --- the node --------------------------------------------------------------------------------


@contextlib.contextmanager
def reporting() -> Iterator[Machine]:
    """A node whose crontab has the line: generation 1 is a speaker, 2 the crontab."""
    need("haproxy")
    need(str(CHECK_VLB))
    machine = Machine()
    machine.environment["KINX_SCHEDULE_COMMAND"] = f"{CHECK_VLB} --root {machine.root}"
    try:
        machine.start()
        assert machine.post("/api/quagga", QUAGGA).status in (201, 202)
        point(machine, free_port())
        yield machine
    finally:
        machine.end()


@pytest.fixture(scope="module")
def node() -> Iterator[Machine]:
    """One node for the tests that leave it alive."""
    with reporting() as found:
        yield found


@pytest.fixture
def doomed() -> Iterator[Machine]:
    """A node for one test to kill."""
    with reporting() as found:
        yield found


def point(machine: Machine, port: int, address: str = "127.0.0.1") -> None:
    """Have *machine* report to *address* and *port*."""
    where = {"agent_addr": address, "agent_port": port, "tenant_id": "tenant-1", "vm_id": "vm-1"}
    method = "PUT" if machine.get("/api/crontab").status == 200 else "POST"
    reply = machine.request(method, "/api/crontab", where)
    assert reply.status in (200, 201), reply.body


def line_of(machine: Machine) -> str:
    """Return the one line of the node's crontab."""
    (line,) = (machine.root / "var/spool/cron/crontabs/root").read_text().splitlines()
    return line


def start(machine: Machine, *prefix: str, **options: Any) -> subprocess.Popen[str]:
    """Start exactly the command of the crontab's line, as cron would; with a proxy that is not."""
    command = line_of(machine).split(maxsplit=5)[5]
    dead = f"http://127.0.0.1:{free_port()}"
    env = {**CRON, "http_proxy": dead, "https_proxy": dead, **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*prefix, "/bin/sh", "-c", command], env=env, text=True, **pipes)


@dataclass(frozen=True)
class Ended:
    """How a command ended, what it said, what it added to the log, and how long it took."""

    status: int
    said: str
    logged: list[str]
    seconds: float


def run(machine: Machine, *prefix: str, **env: str) -> Ended:
    """Run exactly the command of the crontab's line to its end."""
    before, begin = logged(machine), time.monotonic()
    process = start(machine, *prefix, env=env)
    try:
        said = "".join(process.communicate(timeout=30))
    finally:
        process.kill()
    seconds = time.monotonic() - begin
    return Ended(process.returncode, said, logged(machine)[len(before) :], seconds)


def log_of(machine: Machine) -> Path:
    return machine.root / "var/log/kinx-loadbalancer-agent.log"


def logged(machine: Machine) -> list[str]:
    """Return the lines of check_vlb; those of the agent, in the same file, are JSON."""
    path = log_of(machine)
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.startswith("{")]


def report_of(machine: Machine) -> dict[str, Any]:
    """Return the report that *machine* sends now, silently and in time."""
    with collecting() as collector:
        if machine.process is not None:
            point(machine, collector.port)
        ended = run(machine)

    assert (ended.status, ended.said, ended.logged) == (0, "", [])
    assert ended.seconds < MOST_SECONDS
    (report,) = collector.reports
    return report.document


# --- what is reported ------------------------------------------------------------------------


def test_the_line_of_the_crontab_reports_the_node_with_the_members_of_the_contract(
    node: Machine,
) -> None:
    with collecting() as collector:
        point(node, collector.port)

        ended = run(node)

    assert (ended.status, ended.said, ended.logged) == (0, "", [])
    (report,) = collector.reports
    assert (report.path, report.headers["Content-Type"]) == (PATH, "application/json")
    assert "Authorization" not in report.headers
    found = report.document
    assert list(found) == [
        *("tenant_id", "vm_id", "hostname", "agent", "host", "haproxy", "bgp", "versions"),
        "taken_at",
    ]
    assert (found["tenant_id"], found["vm_id"]) == ("tenant-1", "vm-1")
    assert {name: set(found[name]) for name in ("agent", "host", "haproxy", "bgp")} == {
        "agent": {
            *("version", "generation", "observed_generation", "ready", "state_digest"),
            "conditions",
        },
        "host": {"cpu_percent", "load", "memory", "disk", "net", "uptime_seconds"},
        "haproxy": {
            *("version", "pid", "uptime_seconds", "current_connections", "request_rate"),
            "old_workers",
        },
        "bgp": {"sessions", "vips"},
    }
    assert set(found["versions"]) == {"haproxy", "routing", "schedule"}
    taken = time.strptime(found["taken_at"].split(".")[0], "%Y-%m-%dT%H:%M:%S")
    assert found["taken_at"].endswith("Z")
    assert abs(time.mktime(taken) - time.mktime(time.gmtime())) < 30


def test_the_report_says_of_the_agent_what_its_api_says(node: Machine) -> None:
    report_of(node)  # which the API tells of, too
    wait_until(lambda: node.condition("Reported")["status"] == "True")
    wait_until(lambda: node.condition("Drift"))
    told = report_of(node)

    status = node.get("/api/status").json

    info = node.get("/api/info").json
    assert told["hostname"] == socket.gethostname()
    assert told["agent"] == {
        "version": __version__,
        "generation": status["generation"],
        "observed_generation": status["observed_generation"],
        "ready": True,
        "state_digest": info["state_digest"],
        "conditions": status["conditions"],
    }
    names = ("haproxy", "routing", "schedule")
    assert told["versions"] == {name: info["digests"][name] for name in names}
    assert None not in told["versions"].values()
    speaker = node.get("/api/quagga").json
    assert told["bgp"] == {"sessions": speaker["sessions"], "vips": speaker["vips"]}
    assert [vip["address"] for vip in told["bgp"]["vips"]] == [VIP]


def test_the_report_says_of_the_host_what_it_is(node: Machine) -> None:
    told = report_of(node)["host"]

    memory, uptime = psutil.virtual_memory(), time.clock_gettime(time.CLOCK_BOOTTIME)
    assert 0 <= told["cpu_percent"] <= 100
    assert len(told["load"]) == 3
    assert told["memory"]["total_bytes"] == memory.total
    assert 0 < told["memory"]["used_bytes"] < memory.total
    assert {disk["mount"]: disk["total_bytes"] for disk in told["disk"]}["/"] == (
        psutil.disk_usage("/").total
    )
    lo = next(nic for nic in told["net"] if nic["nic"] == "lo")
    assert set(lo) == {"nic", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets"}
    assert 0 < lo["rx_packets"] < lo["rx_bytes"] <= psutil.net_io_counters(True)["lo"].bytes_recv
    assert uptime - 30 < told["uptime_seconds"] <= uptime


def test_the_report_says_of_haproxy_what_its_sockets_say(node: Machine) -> None:
    port, quiet = free_port(), threading.Event()
    listener = {"id": "li", "protocol": "HTTP", "protocol_port": port, "vip_address": "127.0.0.1"}
    assert node.post("/api/haproxy/listeners", listener).status == 201

    def clients() -> None:
        while not quiet.wait(0.01):
            node.fetch(port)

    traffic = threading.Thread(target=clients)
    traffic.start()
    try:
        told = report_of(node)["haproxy"]
    finally:
        quiet.set()
        traffic.join()

    info = dict(line.split(": ", 1) for line in node.show("show info").splitlines() if ": " in line)
    assert told["version"] == info["Version"]
    assert told["pid"] == node.worker_pid()
    assert 0 <= told["uptime_seconds"] <= int(info["Uptime_sec"])
    assert 0 <= told["current_connections"] < 100
    assert 1 < told["request_rate"] < 110
    assert told["old_workers"] == 0


def test_cron_itself_sends_the_report(node: Machine) -> None:
    """With a cron whose whole world is this node's crontab; up to a minute."""
    need("cron")
    need("unshare")
    private = ("unshare", "--mount", "/bin/sh", "-ec")
    mounts = """
        mount --bind "$0/var/spool/cron/crontabs" /var/spool/cron/crontabs
        mount -t tmpfs none /etc/cron.d
        mount -t tmpfs none /run
        mount --bind /dev/null /etc/crontab
    """
    tried = subprocess.run([*private, mounts, node.root], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no private view of the crontabs can be made here: {tried.stderr}")
    before = logged(node)
    with collecting() as collector:
        point(node, collector.port)

        script = f"{mounts}\nexec {shutil.which('cron')} -f"
        cron = subprocess.Popen([*private, script, node.root], env=CRON)
        try:
            wait_until(lambda: collector.reports, 75, every=0.2)
            wait_until(lambda: not psutil.Process(cron.pid).children())
        finally:
            cron.terminate()
            cron.wait(10)

    assert [report.path for report in collector.reports] == [PATH]
    assert collector.reports[0].document["agent"]["ready"] is True
    assert logged(node) == before


def test_a_dead_agent_is_reported_and_what_the_node_knows_without_it(doomed: Machine) -> None:
    with collecting() as collector:
        point(doomed, collector.port)
        worker, generation = doomed.worker_pid(), doomed.get("/api/status").json["generation"]
        (gunicorn,) = doomed.worker_pids()
        doomed.stop(signal.SIGKILL)
        os.kill(gunicorn, signal.SIGKILL)

        ended = run(doomed)

    assert (ended.status, ended.said, ended.logged) == (0, "", [])
    told = collector.reports[0].document
    (condition,) = told["agent"].pop("conditions")
    assert told["agent"] == {
        "version": __version__,
        "generation": generation,
        "observed_generation": None,
        "ready": False,
        "state_digest": None,
    }
    assert (condition["type"], condition["status"]) == ("AgentAnswers", "False")
    assert "the agent does not answer: cannot reach" in condition["message"]
    unknown = dict.fromkeys(("assigned", "served", "announced", "since", "reason"))
    assert told["bgp"] == {"sessions": [], "vips": [{"address": VIP, **unknown}]}
    assert told["versions"] == dict.fromkeys(("haproxy", "routing", "schedule"))
    assert told["haproxy"]["pid"] == worker
    assert told["haproxy"]["old_workers"] == 0


def test_a_dead_haproxy_is_reported_as_nulls(doomed: Machine) -> None:
    with collecting() as collector:
        point(doomed, collector.port)
        kill_all(doomed, signal.SIGKILL)  # the agent too, which would start HAProxy again

        ended = run(doomed)

    assert (ended.status, ended.said, ended.logged) == (0, "", [])
    told = collector.reports[0].document
    assert set(told["haproxy"].values()) == {None}
    assert told["agent"]["ready"] is False
    assert told["host"]["uptime_seconds"] > 0


def test_an_agent_and_a_haproxy_that_hang_are_reported_in_time(doomed: Machine) -> None:
    with collecting() as collector:
        point(doomed, collector.port)
        kill_all(doomed, signal.SIGSTOP)
        try:
            ended = run(doomed)
        finally:
            kill_all(doomed, signal.SIGCONT)

    assert (ended.status, ended.said, ended.logged) == (0, "", [])
    assert ended.seconds < MOST_SECONDS
    told = collector.reports[0].document
    assert "no answer" in told["agent"]["conditions"][0]["message"]
    assert set(told["haproxy"].values()) == {None}


def kill_all(machine: Machine, sent: signal.Signals) -> None:
    """Send a signal to the agent and its HAProxy."""
    assert machine.process is not None
    for pid in (machine.process.pid, *machine.worker_pids(), *machine.haproxy_pids()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sent)


# --- a collector that takes nothing ----------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (fails, "answers 500"),
        (redirects, "answers 307"),
        (babbles, "does not speak HTTP"),
        (hangs, "no answer"),
        (trickles, "not done within"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_collector_that_takes_nothing_costs_one_line_of_the_log_and_no_secret(
    node: Machine, answer: Answer, why: str
) -> None:
    with collecting(answer) as collector:
        point(node, collector.port)

        ended = run(node, KINX_SCHEDULE_TOKEN=TOKEN)

    assert (ended.status, ended.said) == (1, "")
    assert ended.seconds < MOST_SECONDS
    (line,) = ended.logged
    assert "level=warning" in line
    assert 'event="report not sent"' in line
    assert why in line
    assert [report.headers["Authorization"] for report in collector.reports] == [f"Bearer {TOKEN}"]
    assert TOKEN not in log_of(node).read_text()


def test_a_collector_that_is_down_costs_one_line_and_nothing_is_queued(node: Machine) -> None:
    point(node, free_port())
    ended = run(node)

    with collecting() as collector:
        point(node, collector.port)
        again = run(node)

    assert (ended.status, ended.said) == (1, "")
    (line,) = ended.logged
    assert "Connection refused" in line
    assert stat.S_IMODE(log_of(node).stat().st_mode) == 0o640
    assert (again.status, again.logged, len(collector.reports)) == (0, [], 1)


def test_the_status_names_a_collector_that_is_down_until_it_takes_a_report(node: Machine) -> None:
    def is_reported(status: str) -> dict[str, Any] | None:
        told = node.condition("Reported")
        return told if told["status"] == status else None

    port = free_port()
    point(node, port)
    run(node)
    down = wait_until(lambda: is_reported("False"), 5)
    report_of(node)
    taken = wait_until(lambda: is_reported("True"), 5)

    assert down["severity"] == "warning"
    assert f"127.0.0.1:{port}/" in down["message"]
    assert "Connection refused" in down["message"]
    assert taken["severity"] == "info"


def test_a_search_for_the_collectors_name_that_hangs_ends_in_time(
    node: Machine, tmp_path: Path
) -> None:
    need("unshare")
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:30\n")
    silent = "import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); "
    silent += "s.bind(('127.0.0.1', 53)); print(flush=True); sys.stdin.read()"
    script = f"""
        ip link set lo up
        mount --bind {resolver} /etc/resolv.conf
        mkfifo {tmp_path}/heard {tmp_path}/end
        exec 3<>{tmp_path}/end
        {sys.executable} -c "{silent}" <{tmp_path}/end >{tmp_path}/heard 3<&- &
        read -r _ <{tmp_path}/heard
        status=0
        "$@" 3<&- || status=$?
        exec 3<&-
        wait
        exit $status
    """
    prefix = ("unshare", "--mount", "--net", "/bin/sh", "-ec", script, "sh")
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no private network can be made here: {tried.stderr}")
    point(node, free_port(), "collector.example")

    ended = run(node, *prefix)

    assert (ended.status, ended.said) == (1, "")
    assert ended.seconds < MOST_SECONDS
    (line,) = ended.logged
    assert "not done within" in line


def test_two_at_once_are_one_report(node: Machine) -> None:
    with collecting(hangs) as collector:
        point(node, collector.port)
        first = start(node)
        wait_until(lambda: collector.reports)

        second = run(node)

        assert first.poll() is None
    assert first.communicate(timeout=20) == ("", "")
    assert first.returncode == 0
    assert (second.status, second.said, second.logged) == (0, "", [])
    assert second.seconds < 3
    assert len(collector.reports) == 1


def test_a_person_at_a_terminal_sees_the_line_that_the_log_gets(node: Machine) -> None:
    point(node, free_port())
    before = logged(node)
    ours, terminal = os.openpty()

    process = start(node, stderr=terminal)

    assert process.wait(20) == 1
    os.close(terminal)
    seen = os.read(ours, 65536).decode().splitlines()
    os.close(ours)
    assert process.stdout is not None
    assert process.stdout.read() == ""
    assert seen == logged(node)[len(before) :]
    assert len(seen) == 1


def test_a_node_that_nobody_asked_to_report_says_so_and_sends_nothing(tmp_path: Path) -> None:
    need(str(CHECK_VLB))
    words = [str(CHECK_VLB), "--root", str(tmp_path)]

    ended = subprocess.run(words, env=CRON, capture_output=True, text=True, timeout=20)

    assert (ended.returncode, ended.stdout + ended.stderr) == (1, "")
    (line,) = (tmp_path / "var/log/kinx-loadbalancer-agent.log").read_text().splitlines()
    assert "there is no crontab resource" in line


# --- how it is sent --------------------------------------------------------------------------


def test_the_collectors_path_and_the_bearer_token_are_settings(node: Machine) -> None:
    with collecting() as collector:
        point(node, collector.port)

        ended = run(node, KINX_SCHEDULE_PATH="/v1/{tenant_id}/{vm_id}", KINX_SCHEDULE_TOKEN=TOKEN)

    assert ended.status == 0
    (report,) = collector.reports
    assert report.path == "/v1/tenant-1/vm-1"
    assert report.headers["Authorization"] == f"Bearer {TOKEN}"
    assert TOKEN not in json.dumps(report.document)


def test_a_collector_with_an_ipv6_address_gets_the_report(node: Machine) -> None:
    try:
        with collecting(address="::1") as collector:
            point(node, collector.port, "::1")
            ended = run(node)
    except OSError as error:
        pytest.skip(f"there is no IPv6 loopback: {error}")

    assert (ended.status, ended.logged) == (0, [])
    assert collector.reports[0].headers["Host"] == f"[::1]:{collector.port}"


def test_over_https_only_a_collector_with_a_trusted_certificate_gets_the_report(
    node: Machine, tmp_path: Path
) -> None:
    need("openssl")
    certificate = tmp_path / "certificate.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x"
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(certificate), "-out", str(tmp_path / "public.pem"))
    subprocess.run(["openssl", *words.split(), *names, *files], check=True, capture_output=True)
    public = (tmp_path / "public.pem").read_text()
    certificate.write_text(certificate.read_text() + public)

    with collecting(certificate=certificate) as collector:
        point(node, collector.port)
        untrusted = run(node, KINX_SCHEDULE_SCHEME="https")
        sent_before_trust = len(collector.reports)
        trusted = run(node, KINX_SCHEDULE_SCHEME="https", SSL_CERT_FILE=f"{tmp_path}/public.pem")

    assert (untrusted.status, len(untrusted.logged), sent_before_trust) == (1, 1, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted.logged[0]
    assert (trusted.status, trusted.logged, len(collector.reports)) == (0, [], 1)


def test_a_settings_file_that_cannot_be_read_is_exit_2(tmp_path: Path) -> None:
    need(str(CHECK_VLB))
    words = [str(CHECK_VLB), "--root", str(tmp_path), "--config", str(tmp_path / "missing")]

    ended = subprocess.run(words, env=CRON, capture_output=True, text=True, timeout=20)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("cannot use the settings: cannot read")


def test_the_command_of_the_checkout_is_the_installed_one() -> None:
    need(str(CHECK_VLB))
    ours = CHECKOUT / "bin/check_vlb"

    said = [
        subprocess.run([*words, "--help"], capture_output=True, text=True, timeout=20).stdout
        for words in ((sys.executable, str(ours)), (str(CHECK_VLB),))
    ]

    assert said[0] == said[1]
    assert "Report on this node" in said[0]
    assert len(ours.read_text().splitlines()) == 3
    assert os.access(ours, os.X_OK)
