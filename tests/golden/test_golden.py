"""Every case: the documents become exactly these files, and the real HAProxy reads them."""

import subprocess

import pytest

from kinx_loadbalancer_agent.services.haproxy.view import Renderer
from kinx_loadbalancer_agent.services.text import Templates
from tests.conftest import need
from tests.golden.cases import (
    CASES,
    DIRECTORY,
    NODE,
    documents,
    expected,
    local_peer,
    rendered,
)
from tests.unit.desired import Desired

EXPECTED = (
    "since it has no log address.",  # a process without root has no /dev/log to name
    "'/run/haproxy/kinx.state': No such file or directory",  # it is there from the first load on
)

LISTENER = "5d4e74e8-ccaa-4e2c-a2d0-bc82f60a3c61"
POOL = "c2f0a6a1-6c0b-4f06-8a56-3f2f3c1c7d52"
MEMBER = "a0c8e3ff-5791-42dd-ac9f-f3bd0450c654"
OTHER_NODE = "lbv-6f07625e-4731-4532-a429-dc7adf1e79d3"
ORIGINALS = {
    "contract-loadbalancer/00-global.cfg": [
        "global",
        "daemon",
        "user nobody",
        "group nogroup",
        "log /dev/log local0 err",
        "log /dev/log local1 err",
        "stats socket /run/haproxy/admin.sock mode 660 level admin",
        "defaults",
        "log global",
        "retries 3",
        "option redispatch",
        "timeout connect 5000ms",
        "timeout client 50000ms",
        "timeout server 50000ms",
    ],
    f"contract-listener/50-frontend-{LISTENER}.cfg": [
        f"frontend {LISTENER}",
        "option httplog",
        "maxconn 12000",
        "bind 1.201.0.47:80",
        "mode http",
        f"default_backend backend-{LISTENER}",
    ],
    f"contract-pool/60-backend-{POOL}.cfg": [
        f"backend backend-{LISTENER}",
        "mode http",
        "balance roundrobin",
        "stick-table type ip size 200k expire 1d",
        "stick on src",
        "option forwardfor",
    ],
    f"contract-pool-with-peers/60-backend-{POOL}.cfg": [
        f"backend backend-{LISTENER}",
        "mode http",
        "balance roundrobin",
        "stick-table type ip size 200k expire 1d peers kinx_loadbalancer_peers",
        "stick on src",
        "option forwardfor",
    ],
    "contract-peers/10-peers.cfg": [
        "peers kinx_loadbalancer_peers",
        f"peer {NODE.node_name} 10.40.252.235:1024",
        f"peer {OTHER_NODE} 10.40.252.234:1024",
    ],
    f"contract-member/60-backend-{POOL}.cfg": [
        f"server {MEMBER} 192.168.55.36:80 weight 1",
    ],
    f"contract-http-monitor/60-backend-{POOL}.cfg": [
        "timeout check 10s",
        "option httpchk GET /",
        "http-check expect status 200",
        "option forwardfor",
        f"server {MEMBER} 192.168.55.36:80 weight 1 check inter 3s fall 2 rise 2",
    ],
    f"disabled-member/60-backend-{POOL}.cfg": [
        f"server {MEMBER} 192.168.55.36:80 weight 1 disabled",
    ],
}
"""The original product's own examples, with the changes the contract marks as ours."""
OURS = {
    "contract-loadbalancer/00-global.cfg": {
        "stats socket /run/haproxy/kinx.sock mode 600 level admin",
        "stats maxconn 100",
        "hard-stop-after 30m",
        "mworker-max-reloads 50",
        "server-state-file /run/haproxy/kinx.state",
        "load-server-state-from-file global",
        f"localpeer {NODE.node_name}",
    },
    f"contract-listener/50-frontend-{LISTENER}.cfg": {
        "option contstats",
        "option idle-close-on-response",
        "timeout http-keep-alive 10s",
    },
    f"contract-pool-with-peers/60-backend-{POOL}.cfg": set(),
    "contract-peers/10-peers.cfg": set(),
}
"""What the contract adds to them."""


@pytest.mark.parametrize("case", CASES)
def test_the_documents_become_exactly_these_files(case: str) -> None:
    files = rendered(case)

    assert files == expected(case)


@pytest.mark.parametrize("case", CASES)
def test_haproxy_accepts_the_files_without_a_warning(case: str) -> None:
    need("haproxy")

    check = ["haproxy", "-c", "-f", str(DIRECTORY / case)]
    ended = subprocess.run(check, capture_output=True, text=True, timeout=20)

    loud = [line for line in ended.stderr.splitlines() if line.startswith(("[ALERT]", "[WARNING]"))]
    assert ended.returncode == 0, ended.stderr
    assert [line for line in loud if not line.endswith(EXPECTED)] == []
    has_log = not any(line.endswith(EXPECTED[0]) for line in loud)
    assert has_log or "log /dev/log" not in (DIRECTORY / case / "00-global.cfg").read_text()


@pytest.mark.parametrize("file", ORIGINALS)
def test_the_directives_of_the_original_are_there_in_their_order(file: str) -> None:
    lines = [line.strip() for line in (DIRECTORY / file).read_text().splitlines()]

    theirs = [line for line in lines if line in ORIGINALS[file]]

    assert theirs == ORIGINALS[file]


@pytest.mark.parametrize("file", OURS)
def test_nothing_is_added_to_the_original_but_what_the_contract_says(file: str) -> None:
    text = (DIRECTORY / file).read_text()
    lines = {line.strip() for line in text.splitlines() if line and not line.startswith("#")}

    added = lines - set(ORIGINALS[file])

    assert {line for line in added if not line.startswith("description ")} == OURS[file]


@pytest.mark.parametrize("case", CASES)
def test_a_state_renders_the_same_whichever_way_it_was_reached(case: str) -> None:
    desired, kept = Desired(), Renderer(Desired().kinds, Templates(), NODE)

    for kind, body, parent in documents(case):
        desired.post(kind, body, parent)
        local = local_peer(case, desired.state)
        along_the_way = kept.render(desired.state, local_peer=local)

        anew = Renderer(desired.kinds, Templates(), NODE)
        assert along_the_way == anew.render(desired.state, local_peer=local)


@pytest.mark.parametrize("case", CASES)
def test_the_peers_section_and_the_word_peers_of_stick_tables_come_together(case: str) -> None:
    files = {name: content.decode() for name, content in rendered(case).items()}
    tables = [
        line
        for text in files.values()
        for line in text.splitlines()
        if line.strip().startswith("stick-table ")
    ]

    with_peers = [line for line in tables if line.endswith(" peers kinx_loadbalancer_peers")]

    assert with_peers == (tables if "10-peers.cfg" in files else [])


def test_free_text_is_in_no_file() -> None:
    bodies = [body for _, body, _ in documents("contract-all")]
    texts = {body[name] for body in bodies for name in ("name", "description") if body.get(name)}

    files = b"".join(rendered("contract-all").values()).decode()

    assert texts
    assert [text for text in texts if text in files] == []
