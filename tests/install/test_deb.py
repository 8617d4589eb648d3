"""The .deb in a clean Debian: installed, serving, started again, taken away (README, Install)."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.install.root import CHECKOUT, Root
from tests.machine import wait_until

pytestmark = pytest.mark.timeout(900)  # seconds: a Debian is made, and a package is built
VIP = "1.201.0.47"
BOOT = "supervisord; service frr start; cron;"
BACK_ENDS = "python3 -m http.server 9001 -d /srv/one & python3 -m http.server 9002 -d /srv/two &"
CHANGING = (
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "root",
    "srv",
    "var/lib",
    "var/cache",
    "var/log/apt",
)
CHANGING += ("var/log/supervisor", "var/log/dpkg.log", "var/tmp")
"""What the package manager, the kernel and this test write; no business of an installation."""


NEEDS = "python3 haproxy frr iproute2 cron procps logrotate supervisor systemd-sysv dbus curl"


@pytest.fixture(scope="module")
def debian() -> Iterator[Root]:
    """A clean Debian with all that the package needs, and the package itself in /var/tmp."""
    directory = Path(tempfile.mkdtemp(prefix="kinx-deb-"))
    builder = subprocess.Popen(
        [str(CHECKOUT / "bin/deb"), str(directory)], stdout=subprocess.DEVNULL
    )
    try:
        made = Root.make(directory / "root")
        made.apt("-qq", "update")
        made.apt("install", "--no-install-recommends", *NEEDS.split())
        for name in ("one", "two"):
            (made.path / "srv" / name).mkdir()
            (made.path / "srv" / name / "index.html").write_text(name)
        assert builder.wait(280) == 0
        (package,) = directory.glob("*.deb")
        shutil.move(package, made.path / "var/tmp")
        yield made
    finally:
        builder.terminate()
        builder.wait(20)
        shutil.rmtree(directory)


@pytest.fixture
def root(debian: Root, tmp_path: Path) -> Iterator[Root]:
    """A copy of it with the package, not installed yet."""
    made = debian.copy(tmp_path / "root")
    made.before = contents(made.path)
    (package,) = (made.path / "var/tmp").glob("*.deb")
    made.apt("install", "--no-install-recommends", f"/var/tmp/{package.name}")
    yield made
    shutil.rmtree(made.path)


def contents(root: Path) -> dict[str, bytes | str]:
    """Return every file and link of *root* that an installation could have touched."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.startswith(CHANGING) or "__pycache__" in name:
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


class Driver:
    """An LBaaS driver on the node itself."""

    def __init__(self, root: Root, secret: str) -> None:
        self._root = root
        self._curl = f"curl -s -m 20 -u admin:{secret} -w '\\n%{{http_code}}'"

    def call(self, path: str, document: Any = None) -> tuple[int, Any]:
        """Return status and body of the answer to a POST of *document*, or a GET."""
        words = "-d @-" if document else ""
        said = self._root.said(
            f"{self._curl} {words} http://127.0.0.1:62000{path}", json.dumps(document)
        )
        body, status = said.rsplit("\n", 1)
        return int(status), json.loads(body or "null")

    def send_all(self) -> list[int]:
        """Send the documents of a load balancer in a driver's order; return the statuses."""
        proxy, pool = "/api/haproxy", {"lb_algorithm": "ROUND_ROBIN", "protocol": "HTTP"}
        speaker = {"hostname": "node", "inter_as_number": "50235", "vm_addr": "10.40.252.235"}
        speaker |= {"primary_gateway_addr": "10.40.252.2", "router_as_number": "60201"}
        report = {"agent_addr": "127.0.0.1", "agent_port": 9696, "tenant_id": "t", "vm_id": "v"}
        monitor = {"type": "HTTP", "delay": 1, "timeout": 1, "url_path": "/"}
        documents: tuple[tuple[str, dict[str, Any]], ...] = (
            (f"{proxy}/loadbalancers", {"id": "lb", "vip_address": VIP}),
            (f"{proxy}/peers", {"hostname": "node", "address": "127.0.0.1"}),
            ("/api/quagga", speaker | {"vip_addr": VIP}),
            ("/api/crontab", report),
            (f"{proxy}/listeners", {"id": "web", "protocol": "HTTP", "protocol_port": 80}),
            (f"{proxy}/pools", {"id": "po", "listener_id": "web"} | pool),
            (f"{proxy}/pools/web/members", member("one", 9001)),
            (f"{proxy}/pools/web/members", member("two", 9002)),
            (f"{proxy}/healthmonitors", {"pool_id": "po"} | monitor),
        )
        return [self.call(path, document)[0] for path, document in documents]

    def is_ready(self) -> bool:
        ended = self._root.run(f"{self._curl} http://127.0.0.1:62000/readyz")
        return ended.stdout.endswith("200")

    def visits(self) -> list[str]:
        """Return who answers the clients of the VIP."""
        return sorted(self._root.run(f"curl -s -m 5 http://{VIP}").stdout for _ in range(4))


def member(id: str, port: int) -> dict[str, Any]:
    return {"id": id, "address": "127.0.0.1", "protocol_port": port, "weight": 1}


SERVED = ["one", "one", "two", "two"]


def test_under_supervisor_from_a_package_to_traffic_and_back_to_a_clean_machine(
    root: Root,
) -> None:
    before = root.before
    with root.booted(BOOT + BACK_ENDS):
        # Installed: what would be done is shown, the secret alone is printed, then nothing is left.
        shown = root.run("kinx_loadbalancer_agent install --check")
        installed = root.run("kinx_loadbalancer_agent install")
        again = root.run("kinx_loadbalancer_agent install --check")
        assert shown.returncode == 1
        assert "write /etc/supervisor/conf.d/kinx_loadbalancer_agent.conf" in shown.stdout
        assert installed.returncode == 0, installed.stderr
        secret = installed.stdout.removesuffix("\n")
        assert len(secret) == 43
        assert secret not in installed.stderr
        assert "keep /etc/haproxy/haproxy.cfg aside" in installed.stderr
        assert (again.returncode, again.stdout) == (0, "")

        # Serving: the driver's documents, no TCP VTY, modes.
        driver = Driver(root, secret)
        wait_until(driver.is_ready, 30)
        statuses = driver.send_all()
        assert all(status in (201, 202) for status in statuses), statuses
        wait_until(lambda: driver.visits() == SERVED, 10)
        assert ":26" not in root.said("ss -Hltn")
        assert root.said("pgrep -c bgpd; pgrep -c bfdd") == "1\n1\n"
        assert root.said("stat -c %a /opt/kinx_loadbalancer_agent") == "700\n"
        assert root.said("stat -c %a /etc/kinx_loadbalancer_agent/credentials") == "600\n"
        assert secret not in root.said("cat /var/log/kinx-loadbalancer-agent.log")
        state = driver.call("/api/state")

    # Restarted: everything has ended, /run is empty, and it all comes back by itself.
    with root.booted(BOOT + BACK_ENDS):
        wait_until(driver.is_ready, 30)
        assert driver.call("/api/state") == state
        wait_until(lambda: driver.visits() == SERVED, 10)

        # The agent is stopped and started: HAProxy is the same process, and serves meanwhile.
        master = root.said("pgrep -o haproxy")
        root.said("supervisorctl stop kinx_loadbalancer_agent")
        assert driver.visits() == SERVED
        root.said("supervisorctl start kinx_loadbalancer_agent")
        wait_until(driver.is_ready, 30)
        assert root.said("pgrep -o haproxy") == master

        # Taken away: HAProxy goes on serving; every file that stays was named.
        gone = root.said("kinx_loadbalancer_agent uninstall 2>&1")
        assert driver.visits() == SERVED
        assert root.said("pgrep -o haproxy") == master
        assert root.run("pgrep -f '[k]inx_loadbalancer_agent serve'").returncode == 1
        assert "kinx" not in root.run("cat /var/spool/cron/crontabs/root").stdout
        stays = [line.split()[1] for line in gone.splitlines() if " stays: " in line]
        for name in new(before, contents(root.path)):
            path = f"/{name}"
            slots = ("/etc/haproxy/conf.d", "/etc/haproxy/haproxy.cfg")
            assert path.startswith((*stays, *slots, "/opt/venvs", "/usr/")), path

        # And all of it: as it was before the package came.
        root.said("kinx_loadbalancer_agent uninstall --purge")
        assert driver.visits() == SERVED

    root.apt("purge", "kinx-loadbalancer-agent")
    after = contents(root.path)
    assert new(before, after) == []
    assert new(after, before) == []


def test_under_systemd_from_a_package_to_traffic_and_back_to_a_clean_machine(root: Root) -> None:
    (root.path / "usr/sbin/policy-rc.d").unlink()
    with root.booted_by_systemd():
        back_ends(root)
        secret = root.said("kinx_loadbalancer_agent install").removesuffix("\n")
        assert root.said("kinx_loadbalancer_agent install --check") == ""
        driver = Driver(root, secret)
        wait_until(driver.is_ready, 30)
        assert set(driver.send_all()) <= {201, 202}
        wait_until(lambda: driver.visits() == SERVED, 10)
        assert root.said("systemctl --failed --no-legend") == ""

        # The agent is started again: HAProxy does not notice.
        master = root.said("systemctl show haproxy -p MainPID")
        root.said("systemctl restart kinx_loadbalancer_agent")
        assert driver.visits() == SERVED
        assert root.said("systemctl show haproxy -p MainPID") == master

        # What it finds otherwise when it starts is put right, and no client is refused.
        wait_until(driver.is_ready, 30)
        root.said("systemctl stop kinx_loadbalancer_agent")
        root.said("sed -i s/roundrobin/leastconn/ /etc/haproxy/conf.d/60-*.cfg")
        root.said("systemctl start --no-block kinx_loadbalancer_agent")
        visit = f"curl -s -m 5 -o /dev/null -w '%{{http_code}} ' http://{VIP}; sleep 0.05"
        codes = root.run(f"for i in $(seq 150); do {visit}; done").stdout
        assert set(codes.split()) == {"200"}
        wait_until(lambda: "leastconn" not in root.said("cat /etc/haproxy/conf.d/60-*.cfg"), 10)

        # It has kept the power to replace a worker that hangs, which is another user's.
        wait_until(driver.is_ready, 30)
        worker = root.said("pgrep -u nobody haproxy").split()[0]
        root.said(f"kill -STOP {worker}")
        wait_until(lambda: worker not in root.said("pgrep haproxy").split(), 30)
        wait_until(lambda: driver.visits() == SERVED, 10)

        # Without the agent the end of HAProxy releases the VIP; systemd brings both back.
        root.said("systemctl kill -s KILL --kill-whom=all kinx_loadbalancer_agent")
        root.said("systemctl stop haproxy")
        assert VIP not in root.said("ip addr show dev lo")
        root.said("systemctl start haproxy")
        wait_until(lambda: driver.visits() == SERVED, 30)

    with root.booted_by_systemd():
        back_ends(root)
        wait_until(lambda: driver.visits() == SERVED, 30)
        root.said("kinx_loadbalancer_agent uninstall")
        assert driver.visits() == SERVED
        root.said("kinx_loadbalancer_agent uninstall --purge")
        assert driver.visits() == SERVED
        root.said("systemctl restart haproxy")

    root.apt("purge", "kinx-loadbalancer-agent")
    traces = [name for name in new(root.before, contents(root.path)) if "kinx" in name]
    assert traces == []


def back_ends(root: Root) -> None:
    for port, name in ((9001, "one"), (9002, "two")):
        root.said(f"systemd-run -q python3 -m http.server {port} -d /srv/{name}")


def new(before: dict[str, bytes | str], after: dict[str, bytes | str]) -> list[str]:
    """Return the names in *after* that are not, or are otherwise, in *before*."""
    return sorted(name for name, content in after.items() if before.get(name) != content)
