"""The BGP speaker, its VIPs and its file (CONTRACT section 2, quagga)."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import documents, judge
from tests.contract.documents import LISTENERS, POOLS, QUAGGA, VIPS, quagga
from tests.machine import Machine, Reply, free_port, running, wait_until

FIRST, SECOND, LAST = "203.0.113.1", "203.0.113.9", "203.0.113.80"
IPV6 = "2001:db8::47"
NOT_APPLIED = "written, not applied"
MARK = "! kinx_loadbalancer_agent writes this file; edits are undone.\n"


@pytest.fixture
def node(shared: Machine) -> Machine:
    """A node without a speaker."""
    shared.delete(QUAGGA)
    return shared


def speak(machine: Machine, **members: Any) -> Reply:
    """Make the speaker; the answer says that it is not applied yet."""
    reply = machine.post(QUAGGA, quagga(**members))
    assert reply.status == 202, reply.body
    return reply


def vips(machine: Machine) -> list[str]:
    return [vip["address"] for vip in machine.get(QUAGGA).json["vips"]]


def conf(machine: Machine) -> Path:
    return machine.root / "etc/frr/frr.conf"


def networks(machine: Machine) -> list[str]:
    """Return what the file announces."""
    lines = conf(machine).read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("  network ")]


def routing_files(machine: Machine) -> dict[str, tuple[int, bytes]]:
    """Return every file of the routing daemon: when it was written, and what is in it."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted((machine.root / "etc/frr").glob("*"))
    }


# --- the speaker and its VIPs ---------------------------------------------------------------


def test_the_speaker_shows_its_fields_its_vips_and_a_session_for_each_gateway(
    node: Machine,
) -> None:
    given = quagga(secondary_gateway_addr="192.0.2.253")

    speak(node, **given)
    shown = node.get(QUAGGA).json

    assert shown.items() >= given.items()
    (vip,) = shown["vips"]
    assert vip.keys() == {"address", "assigned", "served", "announced", "since", "reason"}
    assert (vip["address"], vip["assigned"]) == (FIRST, False)
    assert NOT_APPLIED in vip["reason"]
    assert [one["gateway"] for one in shown["sessions"]] == ["192.0.2.254", "192.0.2.253"]
    for session in shown["sessions"]:
        assert session.keys() == {
            *("gateway", "state", "uptime_seconds", "prefixes_sent", "last_error"),
        }


def test_the_same_speaker_with_another_vip_adds_the_vip(node: Machine) -> None:
    speak(node, vip_addr=SECOND)

    replies = [speak(node, vip_addr=LAST), speak(node, vip_addr=FIRST)]

    assert [reply.json["vip_addr"] for reply in replies] == [SECOND, FIRST]
    assert vips(node) == [FIRST, SECOND, LAST]
    assert networks(node) == [f"{address}/32" for address in (FIRST, SECOND, LAST)]


def test_another_speaker_is_a_409_that_shows_the_one_that_is_there(node: Machine) -> None:
    speak(node)
    before, there = judge.kept(node), node.get(QUAGGA)

    reply = node.post(QUAGGA, quagga(hostname="x", router_as_number=7, vip_addr=SECOND))

    judge.assert_is_problem(reply, 409, "/hostname", "/router_as_number")
    assert reply.json["current"] == there.json
    assert reply.headers["ETag"] == there.headers["ETag"]
    assert judge.kept(node) == before


def test_a_put_changes_the_speaker_and_keeps_its_vips(node: Machine) -> None:
    speak(node)
    speak(node, vip_addr=SECOND)

    reply = node.put(QUAGGA, {"hostname": "lbv-2", "inter_as_number": "64512"})

    assert reply.status == 202
    assert (reply.json["hostname"], reply.json["inter_as_number"]) == ("lbv-2", 64512)
    assert vips(node) == [FIRST, SECOND]
    assert "hostname lbv-2\n" in conf(node).read_text()
    assert "router bgp 64512\n" in conf(node).read_text()
    assert networks(node) == [f"{FIRST}/32", f"{SECOND}/32"]


@pytest.mark.parametrize("address", ["203.0.113.2", None])
def test_a_put_with_a_vip_that_is_none_of_its_own_is_a_422(
    node: Machine, address: str | None
) -> None:
    speak(node)
    before = judge.kept(node)

    reply = node.put(QUAGGA, {"hostname": "lbv-2", "vip_addr": address})

    judge.assert_is_problem(reply, 422, "/vip_addr")
    assert judge.kept(node) == before


@pytest.mark.parametrize("address", [FIRST, "2001:DB8:0:0::47"])
def test_a_put_may_repeat_one_of_its_vips(node: Machine, address: str) -> None:
    speak(node)
    speak(node, vip_addr=IPV6)

    reply = node.put(QUAGGA, {"hostname": "lbv-2", "vip_addr": address})

    assert (reply.status, reply.json["hostname"]) == (202, "lbv-2")
    assert vips(node) == [FIRST, IPV6]


def test_a_vip_that_is_there_is_no_change(node: Machine) -> None:
    speak(node)
    speak(node, vip_addr=IPV6)
    before, files = judge.kept(node), routing_files(node)

    replies = [
        node.post(QUAGGA, quagga(vip_addr=FIRST)),
        node.post(QUAGGA, quagga(vip_addr=IPV6.upper())),
        node.post(VIPS, {"vip_addr": FIRST}),
        node.put(f"{VIPS}/{FIRST}", {"vip_addr": FIRST}),
    ]

    assert {reply.status for reply in replies} == {202}  # 200 once it is in effect
    assert {reply.json["applied"]["change"] for reply in replies} == {before["generation"]}
    assert judge.kept(node) == before
    assert routing_files(node) == files


def test_the_last_vip_is_not_deleted_but_with_the_speaker(node: Machine) -> None:
    speak(node)
    speak(node, vip_addr=SECOND)

    first, last = node.delete(f"{VIPS}/{FIRST}"), node.delete(f"{VIPS}/{SECOND}")
    kept = vips(node)
    speaker = node.delete(QUAGGA)

    assert first.status == 202
    judge.assert_is_problem(last, 409)
    assert "delete the speaker" in last.json["detail"]
    assert kept == [SECOND]
    assert speaker.status == 204
    assert judge.stored(node) == [row for row in judge.stored(node) if row[0] != "vips"]


def test_vips_are_a_collection_of_their_own(node: Machine) -> None:
    speak(node)

    made = node.post(VIPS, {"vip_addr": LAST})
    node.post(VIPS, {"vip_addr": IPV6})
    found = node.get(VIPS).json["vips"]
    one = node.get(f"{VIPS}/{LAST}").json
    deleted = node.delete(f"{VIPS}/{LAST}")

    assert (made.status, made.json["vip_addr"]) == (202, LAST)
    assert [vip["vip_addr"] for vip in found] == sorted([FIRST, LAST, IPV6])
    assert one in found
    assert deleted.status == 202
    assert vips(node) == [FIRST, IPV6]
    judge.assert_is_problem(node.get(f"{VIPS}/{LAST}"), 404)
    judge.assert_is_problem(node.delete(f"{VIPS}/{LAST}"), 404)


def test_vips_are_listed_in_pages(node: Machine) -> None:
    speak(node)
    speak(node, vip_addr=SECOND)
    speak(node, vip_addr=LAST)

    first = node.get(f"{VIPS}?limit=2").json["vips"]
    rest = node.get(f"{VIPS}?limit=2&marker={first[-1]['vip_addr']}").json["vips"]

    assert [vip["vip_addr"] for vip in first + rest] == sorted([FIRST, SECOND, LAST])
    assert len(first) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_speaker_there_are_no_vips(node: Machine, method: str) -> None:
    reply = node.request(method, VIPS, {"vip_addr": FIRST} if method == "POST" else None)

    judge.assert_is_problem(reply, 404)
    assert reply.json["detail"] == "there is no quagga"


def test_vips_of_both_families_are_announced_each_in_its_own(node: Machine) -> None:
    speak(node)

    reply = speak(node, vip_addr="2001:DB8::47")

    assert [vip["address"] for vip in reply.json["vips"]] == [FIRST, IPV6]
    assert networks(node) == [f"{FIRST}/32", f"{IPV6}/128"]
    text = conf(node).read_text()
    assert text.index("address-family ipv6 unicast") < text.index(f"network {IPV6}/128")


def test_a_vip_says_whether_this_host_has_its_address(node: Machine) -> None:
    speak(node, vip_addr="127.9.8.7")
    speak(node, vip_addr=SECOND)

    found = {vip["address"]: vip["assigned"] for vip in node.get(QUAGGA).json["vips"]}

    assert found == {"127.9.8.7": True, SECOND: False}


def test_a_listener_on_a_vip_that_is_not_assigned_yet_is_a_409(node: Machine) -> None:
    speak(node)

    reply = node.post(
        LISTENERS, documents.listener(vip_address=FIRST, protocol_port=free_port("127.0.0.1"))
    )

    judge.assert_is_problem(reply, 409, "/vip_address")


# --- drain ----------------------------------------------------------------------------------


def test_a_drained_node_announces_nothing_says_so_and_comes_back(node: Machine) -> None:
    speak(node)
    there = networks(node)

    drained = node.put(f"{QUAGGA}/drain", {"drain": True})
    while_drained = networks(node), node.condition("Drained"), node.get("/readyz")
    back = node.put(f"{QUAGGA}/drain", {"drain": False})

    assert (drained.status, drained.json["drain"]) == (202, True)
    assert (while_drained[0], while_drained[1]["status"]) == ([], "True")
    judge.assert_is_problem(while_drained[2], 503, "")
    assert (back.json["drain"], networks(node), there) == (False, there, [f"{FIRST}/32"])
    wait_until(lambda: node.condition("Drained")["status"] == "False")
    assert node.get("/readyz").status == 200


def test_a_drained_node_stays_so_over_another_post_and_a_restart(machine: Machine) -> None:
    speak(machine)
    machine.put(f"{QUAGGA}/drain", {"drain": True})

    again = machine.post(QUAGGA, quagga())
    machine.stop()
    machine.start(ready=False)

    wait_until(lambda: machine.is_taken_over() and machine.condition("Drained"))
    assert machine.get("/readyz").status == 503
    assert again.json["drain"] is True
    assert machine.condition("Drained")["status"] == "True"
    assert networks(machine) == []


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/drain"]),
        ({"drain": "yes"}, ["/drain"]),
        ({"drain": True, "hostname": "x"}, ["/hostname"]),
        ({"hostname": "x"}, ["/drain", "/hostname"]),
    ],
)
def test_the_url_of_drain_takes_nothing_else(
    node: Machine, body: dict[str, Any], pointers: list[str]
) -> None:
    speak(node)
    before = judge.kept(node)

    reply = node.put(f"{QUAGGA}/drain", body)

    judge.assert_is_problem(reply, 422, *pointers)
    assert judge.kept(node) == before


def test_without_a_speaker_there_is_nothing_to_drain(node: Machine) -> None:
    assert node.put(f"{QUAGGA}/drain", {"drain": True}).status == 404


# --- fields ---------------------------------------------------------------------------------

NUMBERS = (1, 23455, 23457, 64512, 65534, 65536, 4_200_000_000, 4_294_967_294)


@pytest.mark.parametrize("name", ["inter_as_number", "router_as_number"])
@pytest.mark.parametrize("number", [*NUMBERS, *map(str, NUMBERS)])
def test_as_numbers_are_those_of_four_octets(node: Machine, name: str, number: int | str) -> None:
    reply = speak(node, **{name: number})

    assert reply.json[name] == int(number)
    assert f" {number}\n" in conf(node).read_text()


@pytest.mark.parametrize("name", ["inter_as_number", "router_as_number"])
@pytest.mark.parametrize("number", [0, 23456, 65535, 4_294_967_295, "0", "23456", "65535", "-1"])
def test_reserved_as_numbers_are_a_422(node: Machine, name: str, number: int | str) -> None:
    reply = node.post(QUAGGA, quagga(**{name: number}))

    judge.assert_is_problem(reply, 422, f"/{name}")


@pytest.mark.parametrize("name", sorted(quagga()))
def test_a_newline_in_a_member_is_a_422_and_no_file_is_touched(node: Machine, name: str) -> None:
    speak(node)
    before, files = judge.kept(node), routing_files(node)

    for end in ("\n", "\r", "\n!", "\nlog file /etc/passwd"):
        value = f"{quagga()[name]}{end}"
        for reply in (node.put(QUAGGA, {name: value}), node.post(QUAGGA, quagga(**{name: value}))):
            judge.assert_is_problem(reply, 422, f"/{name}")

    assert judge.kept(node) == before
    assert routing_files(node) == files


@pytest.mark.parametrize("name", ["vm_addr", "primary_gateway_addr", "secondary_gateway_addr"])
def test_a_vip_is_no_address_of_the_speaker_or_of_a_gateway(node: Machine, name: str) -> None:
    at_once = node.post(QUAGGA, quagga(**{name: FIRST}))
    speak(node, **{name: "192.0.2.77"})
    later = node.post(VIPS, {"vip_addr": "192.0.2.77"})
    moved = node.put(QUAGGA, {name: FIRST})

    judge.assert_is_problem(at_once, 409)
    judge.assert_is_problem(later, 409, "/vip_addr")
    judge.assert_is_problem(moved, 409, f"/{name}")
    assert vips(node) == [FIRST]


def test_the_gateways_are_two(node: Machine) -> None:
    reply = node.post(QUAGGA, quagga(secondary_gateway_addr=quagga()["primary_gateway_addr"]))

    judge.assert_is_problem(reply, 422, "/secondary_gateway_addr")


def test_an_answer_warns_of_as_numbers_that_differ_from_node_to_node(node: Machine) -> None:
    replies = [speak(node), speak(node), node.put(QUAGGA, {"hostname": "lbv-2"})]

    for reply in replies:
        (warning,) = reply.json["warnings"]
        assert "multipath-relax" in warning


# --- written, not applied -------------------------------------------------------------------


def test_what_no_daemon_has_is_a_202_that_says_so(node: Machine) -> None:
    reply = speak(node)
    applied = reply.json["applied"]
    condition = node.condition("RoutingApplied")
    change = node.get(reply.headers["Location"]).json

    assert NOT_APPLIED in applied["because"]
    assert reply.headers["Location"] == f"/api/changes/{applied['change']}"
    assert (condition["status"], condition["severity"]) == ("False", "warning")
    assert NOT_APPLIED in condition["message"]
    assert (change["state"], change["reason"]) == ("pending", condition["message"])
    assert judge.content(reply) == node.get(QUAGGA).json


def test_without_a_speaker_there_is_nothing_to_apply(node: Machine) -> None:
    speak(node)

    node.delete(QUAGGA)

    assert node.condition("RoutingApplied")["status"] == "True"


def test_routing_that_is_not_applied_keeps_nobody_else_waiting(node: Machine) -> None:
    speak(node)

    reply = node.post(POOLS, documents.pool())

    assert reply.status == 201
    assert node.get("/readyz").status == 200


# --- the file -------------------------------------------------------------------------------


def test_the_file_is_that_of_frr_and_can_be_read_by_its_group(node: Machine) -> None:
    speak(node)

    assert conf(node).read_text().startswith(MARK + "frr defaults traditional\n")
    assert conf(node).stat().st_mode & 0o7777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_file_has_the_owner_of_its_directory(node: Machine) -> None:
    speak(node)
    os.chown(conf(node).parent, 65534, 65534)

    node.put(QUAGGA, {"hostname": "lbv-2"})

    found = conf(node).stat()
    os.chown(conf(node).parent, 0, 0)
    assert (found.st_uid, found.st_gid) == (65534, 65534)


def test_in_the_dialect_of_quagga_it_is_bgpd_conf() -> None:
    with running(environment={"KINX_ROUTING_DIALECT": "quagga"}) as machine:
        speak(machine)

        text = (machine.root / "etc/quagga/bgpd.conf").read_text()
        assert "redistribute static route-map bgp-access\n" in text
        assert not (machine.root / "etc/frr").exists()


def test_a_password_is_in_the_file_alone_which_nobody_else_may_read() -> None:
    with running(environment={"KINX_ROUTING_PASSWORD": "zqzq.secret"}) as machine:
        reply = speak(machine)
        trial = machine.post(f"{VIPS}?dry_run=true", {"vip_addr": SECOND})

        assert conf(machine).stat().st_mode & 0o7777 == 0o600
        assert "neighbor 192.0.2.254 password zqzq.secret\n" in conf(machine).read_text()
        answers = [reply, trial, *map(machine.get, (QUAGGA, VIPS, "/api/status"))]
        assert [one for one in answers if b"zqzq" in one.body] == []
        assert "zqzq" not in machine.log.read_text()
        assert b"zqzq" not in (machine.root / "opt/kinx_loadbalancer_agent/state.db").read_bytes()


def test_a_file_of_somebody_else_is_kept_aside(machine: Machine) -> None:
    conf(machine).parent.mkdir(parents=True)
    conf(machine).write_text("hostname router-of-somebody\n")

    speak(machine)
    conf(machine).write_text("hostname somebody-again\n")
    wait_until(lambda: conf(machine).read_text().startswith(MARK))

    kept = {path.name: path.read_text() for path in conf(machine).parent.glob("*before-kinx*")}
    assert kept == {
        "frr.conf.before-kinx": "hostname router-of-somebody\n",
        "frr.conf.before-kinx.2": "hostname somebody-again\n",
    }


def test_without_a_speaker_a_file_of_somebody_else_is_left_alone(machine: Machine) -> None:
    conf(machine).parent.mkdir(parents=True)
    conf(machine).write_text("hostname router-of-somebody\n")

    speak(machine)
    machine.delete(QUAGGA)
    conf(machine).write_text("hostname somebody-again\n")
    machine.post(documents.CRONTAB, documents.crontab())
    machine.stop()
    machine.start()

    assert conf(machine).read_text() == "hostname somebody-again\n"


def test_a_hand_edit_is_undone_within_ten_seconds_and_shows_as_drift(node: Machine) -> None:
    speak(node)
    wait_until(lambda: node.condition("Drift")["status"] == "False")
    text, before = conf(node).read_text(), node.get("/api/status").json["drift"]

    conf(node).write_text(text.replace("router bgp 50235", "router bgp 50236"))
    wait_until(lambda: node.get("/api/status").json["drift"]["found"] > before["found"], 5)
    shown = node.condition("Drift")
    wait_until(lambda: conf(node).read_text() == text)
    wait_until(lambda: node.condition("Drift")["status"] == "False")

    assert (shown["status"], str(conf(node)) in shown["message"]) == ("True", True)
    after = node.get("/api/status").json["drift"]
    assert after["repaired"] == before["repaired"] + 1


def test_a_file_that_was_removed_is_back_within_ten_seconds(node: Machine) -> None:
    speak(node)
    text = conf(node).read_text()

    conf(node).unlink()

    wait_until(conf(node).exists)
    assert conf(node).read_text() == text
    assert node.condition("Drift")["status"] == "True"


def test_delete_removes_the_file(node: Machine) -> None:
    speak(node)
    assert conf(node).exists()

    node.delete(QUAGGA)

    assert not conf(node).exists()


def test_over_a_restart_the_speaker_is_what_it_was(machine: Machine) -> None:
    speak(machine)
    speak(machine, vip_addr=IPV6)
    shown, files = machine.get(QUAGGA), routing_files(machine)

    machine.stop()
    machine.start()

    again = machine.get(QUAGGA)
    assert (again.json, again.headers["ETag"]) == (shown.json, shown.headers["ETag"])
    wait_until(lambda: machine.condition("RoutingApplied"))
    assert routing_files(machine) == files


def test_where_no_file_can_be_the_answer_is_a_202_and_is_put_right_with_the_cause(
    node: Machine,
) -> None:
    directory = conf(node).parent
    directory.mkdir(exist_ok=True)
    directory.rename(directory.with_name("away"))
    directory.write_text("no directory")

    reply = speak(node)
    condition = node.condition("RoutingApplied")
    directory.unlink()
    directory.with_name("away").rename(directory)
    wait_until(conf(node).exists)

    assert str(conf(node)) in reply.json["applied"]["because"]
    assert (condition["status"], condition["severity"]) == ("False", "error")
    wait_until(lambda: NOT_APPLIED in node.condition("RoutingApplied")["message"])


# --- vtysh ----------------------------------------------------------------------------------

VTYSH = """\
#!/bin/sh
echo "$@" >> {asked}
grep -q -e guilty -e 198.51.100.66 "$3" || exit 0
echo 'line 9: % Unknown command[24]: guilty and more'
exit 2
"""


@pytest.fixture(scope="module")
def bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a vtysh that refuses two words; the file ``asked`` has a line a call."""
    directory = tmp_path_factory.mktemp("bin")
    (directory / "vtysh").write_text(VTYSH.format(asked=directory / "asked"))
    (directory / "vtysh").chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def strict(bin: Path) -> Iterator[Machine]:
    """A node whose vtysh refuses some."""
    with running(environment={"PATH": f"{bin}:{os.environ['PATH']}"}) as found:
        yield found


def test_a_text_that_vtysh_refuses_is_a_422_and_nothing_is_kept(strict: Machine) -> None:
    strict.delete(QUAGGA)
    speak(strict)
    before, files = judge.kept(strict), routing_files(strict)

    replies = [
        strict.put(QUAGGA, {"hostname": "guilty"}),
        strict.post(VIPS, {"vip_addr": "198.51.100.66"}),
        strict.post(QUAGGA, quagga(vip_addr="198.51.100.66")),
    ]

    for reply in replies:
        judge.assert_is_problem(reply, 422, "")
        assert "vtysh refuses" in reply.json["detail"]
        assert "and more" in reply.json["detail"]
        assert "/tmp" not in reply.body.decode()
    assert judge.kept(strict) == before
    assert routing_files(strict) == files
    assert strict.condition("Applied")["status"] == "True"


def test_a_refused_text_is_refused_to_the_one_who_sent_it(strict: Machine) -> None:
    strict.delete(QUAGGA)
    speak(strict)
    hosts, answers = range(60, 72), {}

    def post(host: int) -> None:
        answers[host] = strict.post(VIPS, {"vip_addr": f"198.51.100.{host}"}).status

    callers = [threading.Thread(target=post, args=(host,)) for host in hosts]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert answers == {host: 422 if host == 66 else 202 for host in hosts}
    assert vips(strict) == [*(f"198.51.100.{host}" for host in hosts if host != 66), FIRST]


def test_vtysh_is_asked_about_a_change_of_routing_and_about_no_other(
    strict: Machine, bin: Path
) -> None:
    strict.delete(QUAGGA)
    speak(strict)
    asked = len((bin / "asked").read_text().splitlines())

    strict.post(documents.LOADBALANCERS, documents.loadbalancer())
    strict.post(POOLS, documents.pool())
    speak(strict)
    strict.delete(documents.CRONTAB)
    strict.post(documents.CRONTAB, documents.crontab())
    since = len((bin / "asked").read_text().splitlines())
    strict.put(QUAGGA, {"hostname": "lbv-2"})

    lines = (bin / "asked").read_text().splitlines()
    assert since == asked
    assert len(lines) == asked + 1
    assert lines[-1].startswith("-C -f ")


def test_where_vtysh_is_missing_a_speaker_is_accepted(tmp_path: Path) -> None:
    with running(environment={"PATH": str(tmp_path)}) as machine:
        reply = speak(machine)

        assert reply.json["hostname"] == "lbv-1"
        assert networks(machine) == [f"{FIRST}/32"]
